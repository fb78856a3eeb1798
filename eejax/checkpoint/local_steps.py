# Copyright 2026 The eejax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Steps of a run on the disks of its own hosts, between those in its folder.

A pod whose folder is a bucket saves there seldom. Every process writes what
its own devices hold to a disk of its own, often and without a message. A run
that was killed goes on from the newest step that all its processes have; where
the disk of one is gone, or devices lie otherwise, from its folder.

STEP/shards       the bytes of every shard, one after the other
STEP/index.json   what they are, and the metadata; written last
"""

import dataclasses
import json
import logging
import math
import pathlib
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eejax.checkpoint.atomic import is_disk_full, whole_folder
from eejax.checkpoint.manager import Restored
from eejax.errors import CheckpointError, WriteError
from eejax.parallel import multihost
from eejax.types import PyTree

_INDEX, _SHARDS = 'index.json', 'shards'
# A process may be killed while others have finished the newest.
_KEPT = 2


@dataclasses.dataclass(frozen=True)
class _Shard:
  """Describe a part of an array.

  Attributes:
    leaf: path of the array in the state.
    start: where the part begins, in each dimension.
    shape: of the part.
    dtype: its name.
    checksum: CRC-32 of its bytes.
  """

  leaf: str
  start: tuple[int, ...]
  shape: tuple[int, ...]
  dtype: str
  checksum: int

  @property
  def num_bytes(self) -> int:
    """Return how many bytes it has."""
    return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


class LocalSteps:
  """Keep this process's part of the newest states of a run.

  Example:
    >>> steps = LocalSteps(pathlib.Path('runs/new/process_0'))
    >>> steps.save(20, state, {'data': {}})  # doctest: +SKIP
    >>> steps.steps
    ()
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    warn: Callable[[str], None] | None = None,
  ):
    """Look into a folder.

    Args:
      folder: of this process and this run, made when a step is saved.
      warn: is told in a sentence when a step cannot be written, and the run
        goes on without; by default it goes to the log of this module.
    """
    self.folder = folder
    self._warn = warn or logging.getLogger(__name__).warning
    self._writer: threading.Thread | None = None
    self._failed = False

  @property
  def steps(self) -> tuple[int, ...]:
    """Return the steps that this process has whole, oldest first."""
    found = self.folder.glob(f'*/{_INDEX}')
    names = (path.parent.name for path in found)
    return tuple(sorted(int(name) for name in names if name.isdigit()))

  def save(self, step: int, state: PyTree, metadata: Mapping[str, Any]) -> None:
    """Begin to save a step, and return once `state` may be changed.

    Args:
      step: its number.
      state: a tree of JAX arrays.
      metadata: an object for JSON.
    """
    self.wait()
    if self._failed or step in self.steps:
      return
    parts = list(_parts(state))
    self._writer = threading.Thread(
      target=self._write, args=(step, parts, dict(metadata)), daemon=True
    )
    self._writer.start()

  def wait(self) -> None:
    """Wait until what was begun is on the disk."""
    if self._writer is not None:
      self._writer.join()
      self._writer = None

  def newest(self, *, like: PyTree) -> int | None:
    """Return the newest step that all processes can go on from.

    All processes must ask.

    Args:
      like: the state's shapes, dtypes and places.
    """
    self.wait()
    mine = [step for step in self.steps if self._fits(step, like)]
    common = set(mine).intersection(*multihost.gather(mine))
    return max(common, default=None)

  def restore(self, step: int, *, like: PyTree) -> Restored:
    """Read a step that `newest` has named.

    Raises:
      CheckpointError: it is damaged.
    """
    shards, metadata = self._index(step)
    data = np.memmap(self.folder / str(step) / _SHARDS, np.uint8, mode='r')
    arrays: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
    begin = 0
    for shard in shards:
      part = np.asarray(data[begin : begin + shard.num_bytes])
      begin += shard.num_bytes
      if zlib.crc32(part.data) != shard.checksum:
        raise CheckpointError(
          f'the step {step} in {self.folder} is damaged; remove it to go on '
          "from the run's own folder."
        )
      array = part.view(jnp.dtype(shard.dtype)).reshape(shard.shape)
      arrays[shard.leaf, shard.start] = array

    def one(path, leaf) -> jax.Array:
      name = jax.tree_util.keystr(path)
      return jax.make_array_from_callback(
        tuple(leaf.shape),
        leaf.sharding,
        lambda index: arrays[name, _start(index or ())],
      )

    state = jax.tree_util.tree_map_with_path(one, like)
    return Restored(step, state, metadata)

  def clear(self) -> None:
    """Remove all steps of this process."""
    self.wait()
    shutil.rmtree(self.folder, ignore_errors=True)

  def _write(
    self,
    step: int,
    parts: Sequence[tuple[str, tuple[int, ...], np.ndarray]],
    metadata: Mapping[str, Any],
  ) -> None:
    try:
      with whole_folder(self.folder / str(step), marker=_INDEX) as new:
        shards = []
        with (new / _SHARDS).open('xb') as file:
          for leaf, start, array in parts:
            values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            file.write(values.data)
            shards.append(
              _Shard(
                leaf,
                start,
                array.shape,
                array.dtype.name,
                zlib.crc32(values.data),
              )
            )
        index = {
          'shards': [dataclasses.asdict(shard) for shard in shards],
          'metadata': metadata,
        }
        (new / _INDEX).write_text(json.dumps(index))
      for old in self.steps[:-_KEPT]:
        shutil.rmtree(self.folder / str(old), ignore_errors=True)
    except (OSError, WriteError) as error:
      self._failed = True
      why = 'its disk is full' if is_disk_full(error) else str(error)
      self._warn(
        f'{self.folder} takes no more checkpoints ({why.rstrip(".")}); the run '
        'goes on without them.'
      )

  def _index(self, step: int) -> tuple[list[_Shard], dict[str, Any]]:
    values = json.loads((self.folder / str(step) / _INDEX).read_text())
    shards = [
      _Shard(
        **{
          **shard,
          'start': tuple(shard['start']),
          'shape': tuple(shard['shape']),
        }
      )
      for shard in values['shards']
    ]
    return shards, values['metadata']

  def _fits(self, step: int, like: PyTree) -> bool:
    """Return whether a step has all that this process's devices hold."""
    try:
      shards, _ = self._index(step)
      size = (self.folder / str(step) / _SHARDS).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
      return False
    if size != sum(shard.num_bytes for shard in shards):
      return False
    have = {(s.leaf, s.start): (s.shape, s.dtype) for s in shards}
    return have == dict(_wanted(like))


def _parts(state: PyTree):
  """Yield path, start and values of every shard of this process, once."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    seen = set()
    for shard in leaf.addressable_shards:
      start = _start(shard.index)
      if start not in seen:
        seen.add(start)
        # A copy: the next step donates the state.
        yield jax.tree_util.keystr(path), start, np.array(shard.data)


def _wanted(like: PyTree):
  """Yield what `_parts` would, but shape and dtype for values."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(like):
    shape = tuple(leaf.shape)
    part = tuple(leaf.sharding.shard_shape(shape))
    where = leaf.sharding.addressable_devices_indices_map(shape)
    for index in where.values():
      key = (jax.tree_util.keystr(path), _start(index))
      yield key, (part, jnp.dtype(leaf.dtype).name)


def _start(index: Sequence[slice]) -> tuple[int, ...]:
  return tuple(part.start or 0 for part in index)
