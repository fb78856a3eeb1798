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
"""What exits read of a backbone, kept on disk.

Tuning runs the whole backbone for every batch, and the backbone never changes.
So the streams that exits read can be written down once; variants of exits are
then tuned without running a block, or even loading one. A cache knows the
depths it holds, and serves every exit that reads no others.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eejax import serialization, storage
from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.errors import CheckpointError, EejaxError
from eejax.models import decoder
from eejax.models.intermediates import IntermediatesSpec
from eejax.training.device_placement import DevicePlacement
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward
from eejax.types import Float, Params

MANIFEST = 'activations.json'
_FORMAT = 1
_TOKENS = ('tokens', 'targets', 'weights', 'positions', 'segment_ids')
# bfloat16 is no type of NumPy's files.
_STORED = {'bfloat16': np.dtype(np.uint16), 'float32': np.dtype(np.float32)}


PLAIN_FORWARD = Forward()
ONE_DEVICE = DevicePlacement()


@dataclasses.dataclass(frozen=True)
class Depths:
  """Say what is kept of the backbone.

  Attributes:
    streams: depths whose residual stream is kept; the depth of the model
      stands for what the final head reads.
    residuals: depths below whose MLP the stream is kept, for MLP exits.
  """

  streams: tuple[int, ...]
  residuals: tuple[int, ...]

  @classmethod
  def read_by(cls, config: EarlyExitConfig, *, full_depth: bool) -> 'Depths':
    """Return what the exits of a model read, and its final head if asked."""
    spec = IntermediatesSpec(config, config.model.num_layers)
    last = (config.model.num_layers,) if full_depth else ()
    return cls(tuple(spec.stream_depths) + last, tuple(spec.residual_depths))

  def covers(self, other: 'Depths') -> bool:
    """Return whether all of `other` is kept, too."""
    return set(other.streams) <= set(self.streams) and set(
      other.residuals
    ) <= set(self.residuals)


@dataclasses.dataclass(frozen=True)
class CachedBatch(Batch):
  """A batch with what exits read of the backbone.

  Attributes:
    streams: in the order of `Depths.streams`; None where none is read.
    residuals: in the order of `Depths.residuals`; None likewise.
  """

  streams: Float[np.ndarray, 'B streams T D'] | None = None
  residuals: Float[np.ndarray, 'B residuals T D'] | None = None

  def as_dict(self) -> dict[str, np.ndarray]:
    """Return the arrays that are there by name, without copying them."""
    return {k: v for k, v in super().as_dict().items() if v is not None}


def record(
  folder: str | os.PathLike,
  batches: Iterator[Batch],
  *,
  count: int,
  config: EarlyExitConfig,
  backbone: Params,
  identity: Mapping[str, Any],
  full_depth: bool = False,
  forward: Forward = PLAIN_FORWARD,
  placement: DevicePlacement = ONE_DEVICE,
  told: Callable[[int], None] = lambda done: None,
) -> 'CachedBatches':
  """Run a backbone over batches and keep what exits read of it.

  The cache is there once it is whole. It takes, for each depth, as many
  numbers as there are tokens times D.

  Args:
    folder: of the cache; what is there is replaced.
    batches: all of one shape.
    count: how many of them are kept.
    config: the model with its exits.
    backbone: its parameters, as far as exits need them.
    identity: plain values that say which backbone and which data.
    full_depth: whether the final head's input is kept, too: for exits that
      imitate it and gates that predict it.
    forward: how the backbone is run; its dtype is that of the cache.
    placement: where it is run.
    told: called with the number of batches that are done.

  Raises:
    EejaxError: there are fewer batches.
  """
  folder = storage.local_path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / MANIFEST).unlink(missing_ok=True)
  depths = Depths.read_by(config, full_depth=full_depth)
  run = jax.jit(_reader(config, depths, forward))
  files: dict[str, np.ndarray] = {}
  with placement.active():
    backbone = placement.place({'backbone': backbone})['backbone']
    for done in range(count):
      batch = next(batches, None)
      if batch is None:
        raise EejaxError(
          f'the corpus has {done} batches and {count} were to be cached; ask '
          'for fewer.'
        )
      kept = jax.device_get(run(backbone, placement.batch(batch)))
      values = {n: getattr(batch, n) for n in _TOKENS} | kept
      for name, value in values.items():
        value = value.view(_STORED.get(value.dtype.name, value.dtype))
        if not done:
          files[name] = np.lib.format.open_memmap(
            folder / f'{name}.npy', 'w+', value.dtype, (count, *value.shape)
          )
        files[name][done] = value
      told(done + 1)
  for file in files.values():
    file.flush()  # type: ignore[attr-defined]
  values = {
    'format': _FORMAT,
    'identity': dict(identity),
    'dtype': forward.dtype,
    'batches': count,
    **dataclasses.asdict(depths),
  }
  serialization.write_json(folder / MANIFEST, values)
  return CachedBatches(folder, depths=depths, identity=identity)


def _reader(config: EarlyExitConfig, depths: Depths, forward: Forward):
  """Return `(backbone, batch) -> arrays by name`, rows first."""

  def read(backbone: Params, batch: TokenBatch) -> dict[str, jax.Array]:
    x = decoder.embed(
      backbone,
      batch.tokens,
      positions=batch.positions,
      config=config.model,
      dtype=jnp.dtype(forward.dtype),
    )
    out = decoder.run_blocks(
      backbone,
      x,
      config=config,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
      implementation=forward.implementation,
    )
    by_depth = {e.depth: out.exit_inputs[e.name] for e in config.exits}
    last = config.model.num_layers
    stream = lambda d: by_depth[d].hidden if d in by_depth else None
    streams = [
      out.hidden if d == last and stream(d) is None else stream(d)
      for d in depths.streams
    ]
    residuals = [by_depth[d].mlp_residual for d in depths.residuals]
    parts: dict[str, list[Any]] = {'streams': streams, 'residuals': residuals}
    return {k: jnp.stack(v, axis=1) for k, v in parts.items() if v}

  return read


class CachedBatches:
  """Iterate over a cache for ever, in the order in which it was recorded."""

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    depths: Depths,
    identity: Mapping[str, Any],
  ):
    """Open a cache at its first batch.

    Args:
      folder: of the cache.
      depths: what is read of it.
      identity: of the backbone whose exits are tuned, and of the data.

    Raises:
      CheckpointError: there is no whole cache, or another one than is needed.
    """
    self.folder = storage.local_path(folder)
    manifest = _read(self.folder)
    wanted = json.loads(json.dumps(dict(identity)))
    for name, value in wanted.items():
      if manifest['identity'].get(name) != value:
        raise CheckpointError(
          f'the activations in {folder} are of another {name}; name another '
          'folder, or remove it.'
        )
    held = Depths(tuple(manifest['streams']), tuple(manifest['residuals']))
    if not held.covers(depths):
      raise CheckpointError(
        f'the activations in {folder} are of streams at {held.streams} and '
        f'residuals at {held.residuals}, and the exits read {depths.streams} '
        f'and {depths.residuals}; record them anew.'
      )
    self._count = manifest['batches']
    self._dtype = jnp.dtype(manifest['dtype'])
    self._slots = {
      'streams': [held.streams.index(d) for d in depths.streams],
      'residuals': [held.residuals.index(d) for d in depths.residuals],
    }
    self._files = {
      path.stem: np.load(path, mmap_mode='r')
      for path in sorted(self.folder.glob('*.npy'))
    }
    self._next = 0

  def __len__(self) -> int:
    return self._count

  def __iter__(self) -> 'CachedBatches':
    return self

  def __next__(self) -> CachedBatch:
    index = self._next % self._count
    self._next += 1
    values = {name: np.array(self._files[name][index]) for name in _TOKENS}
    return CachedBatch(
      **values,
      streams=self._part('streams', index),
      residuals=self._part('residuals', index),
    )

  def state(self) -> dict[str, Any]:
    """Return what `restore` needs."""
    return {'cached': self._next}

  def restore(self, state: dict[str, Any]) -> None:
    """Go on where `state` was taken.

    Raises:
      EejaxError: it was taken without a cache.
    """
    if 'cached' not in state:
      raise EejaxError(
        'this run began without cached activations; go on without them, or '
        'start a new run.'
      )
    self._next = state['cached']

  def _part(self, name: str, index: int) -> np.ndarray | None:
    slots: Sequence[int] = self._slots[name]
    if not slots:
      return None
    return np.ascontiguousarray(self._files[name][index][:, slots]).view(
      self._dtype
    )


def is_whole(folder: str | os.PathLike) -> bool:
  """Return whether there is a cache that was recorded to its end."""
  return (storage.local_path(folder) / MANIFEST).is_file()


def _read(folder: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    if values['format'] != _FORMAT:
      raise ValueError(f'format {values["format"]}')
    return values
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(
      f'{folder} holds no activations that can be read ({error}); record them '
      'anew.'
    ) from error
