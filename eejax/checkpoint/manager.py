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
"""Checkpoints of a training run: written in the background, kept to a limit.

A step is a folder of Orbax's, with the state of the run and a JSON object. It
appears under its name only once it is whole. One that is damaged later is set
aside when a run resumes, which then starts from the one before.
"""

import contextlib
import gc
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from eejax.checkpoint import arrays  # noqa: F401  (keeps Orbax quiet)
from eejax.checkpoint.atomic import is_disk_full
from eejax.errors import CheckpointError
from eejax.parallel import memory
from eejax.types import PyTree

BROKEN = 'broken'


class Restored(NamedTuple):
  """A step that was read back.

  Attributes:
    step: the number it was saved under.
    state: the tree, with the shardings that were asked for.
    metadata: the JSON object that was saved beside it.
  """

  step: int
  state: PyTree
  metadata: dict[str, Any]


class RunCheckpoints:
  """Keep the newest states of a training run in a folder.

  Example:
    >>> checkpoints = RunCheckpoints('runs/a/checkpoints', keep=2)
    >>> checkpoints.save(100, state, {'data': {}})  # doctest: +SKIP
    >>> checkpoints.close()
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    keep: int = 2,
    warn: Callable[[str], None] | None = None,
  ):
    """Open or make the folder.

    Args:
      path: the folder.
      keep: how many of the newest steps are kept, at least 1.
      warn: is told in a sentence when a step had to be passed over; by
        default it goes to the log of this module, and so to stderr.
    """
    self.path = pathlib.Path(path).absolute()
    self._warn = warn or logging.getLogger(__name__).warning
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, create=True, cleanup_tmp_directories=True
    )
    try:
      self._manager = ocp.CheckpointManager(self.path, options=options)
    except OSError as error:
      raise CheckpointError(
        f'{self.path} cannot be used for checkpoints: {error.strerror}.'
      ) from error

  @property
  def steps(self) -> tuple[int, ...]:
    """Return the steps that are there, oldest first."""
    return tuple(sorted(self._manager.all_steps()))

  def save(self, step: int, state: PyTree, metadata: Mapping[str, Any]) -> None:
    """Begin to save a step, and return once `state` may be changed.

    Args:
      step: its number, larger than those before; saving the newest step
        again does nothing.
      state: a tree of JAX arrays, NumPy arrays and numbers.
      metadata: an object for JSON.

    Raises:
      CheckpointError: this step or the one before could not be written.
    """
    if step in self._manager.all_steps():
      return
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      metadata=ocp.args.JsonSave(dict(metadata)),
    )
    try:
      self._manager.save(step, args=arguments, force=True)
    except (OSError, ValueError, RuntimeError) as error:
      raise self._not_written(error) from error

  def wait(self) -> None:
    """Wait until everything that was begun is on the disk.

    Raises:
      CheckpointError: it could not be written.
    """
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      raise self._not_written(error) from error

  def restore_latest(self, state: PyTree) -> Restored | None:
    """Read the newest step that is whole.

    Args:
      state: the tree to be filled: arrays or `jax.ShapeDtypeStruct`, whose
        shardings the result has.

    Returns:
      The step, or None when there is none.

    Raises:
      CheckpointError: there are steps, but none can be read into `state`.
      EejaxError: there is no room on the mesh for what is not there yet.
    """
    self.wait()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    if self.steps:
      _check_room(state)
    failures: dict[int, str] = {}
    for step in reversed(self.steps):
      with _unheard_tasks():
        try:
          restored = self._restore(step, abstract)
        # A damaged step shows as almost any exception, from JSON's to
        # TensorStore's.
        except Exception as error:
          failures[step] = _reason(error)
          continue
      for broken in failures:
        self._set_aside(broken)
        self._warn(
          f'the checkpoint of step {broken} in {self.path} is cut short or '
          f'damaged; the one of step {step} is used instead.'
        )
      return restored
    if not failures:
      return None
    newest, reason = next(iter(failures.items()))
    raise CheckpointError(
      f'none of the checkpoints in {self.path} can be read into this model, '
      f'the newest (step {newest}) not because: {reason}; start a new run in '
      'another folder.'
    )

  def close(self) -> None:
    """Finish what was begun and let go of the folder.

    Raises:
      CheckpointError: something could not be written.
    """
    try:
      self.wait()
    finally:
      self._manager.close()

  def __enter__(self) -> 'RunCheckpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _restore(self, step: int, abstract: PyTree) -> Restored:
    arguments = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract),
      metadata=ocp.args.JsonRestore(),
    )
    restored = self._manager.restore(step, args=arguments)
    return Restored(step, restored['state'], restored['metadata'])

  def _set_aside(self, step: int) -> None:
    """Rename a broken step, so that its number can be saved again."""
    if jax.process_index() == 0:
      folder = self.path / str(step)
      aside = self.path / f'{BROKEN}-{step}'
      number = 1
      while aside.exists():
        number += 1
        aside = self.path / f'{BROKEN}-{step}-{number}'
      folder.rename(aside)
    ocp.multihost.sync_global_processes(f'eejax_set_aside_{step}')
    self._manager.reload()

  def _not_written(self, error: Exception) -> CheckpointError:
    if is_disk_full(error):
      return CheckpointError(
        f'the disk is full: the newest checkpoint in {self.path} was not '
        'written; make room and start again from the one before.'
      )
    return CheckpointError(
      f'a checkpoint in {self.path} was not written: {_reason(error)}.'
    )


def _check_room(state: PyTree) -> None:
  """Check the room for leaves that have only a place on a mesh so far."""
  missing = [
    leaf
    for leaf in jax.tree.leaves(state)
    if isinstance(leaf, jax.ShapeDtypeStruct)
    and isinstance(leaf.sharding, NamedSharding)
  ]
  if missing:
    places = [leaf.sharding for leaf in missing]
    memory.check_room(
      missing, mesh=places[0].mesh, places=places, what='the checkpoint'
    )


@contextlib.contextmanager
def _unheard_tasks() -> Iterator[None]:
  """Keep asyncio from logging every read that failed beside the first.

  It does so when the task is collected, hence the collection.
  """
  logger = logging.getLogger('asyncio')
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
    gc.collect()
  finally:
    logger.setLevel(level)


def _reason(error: Exception) -> str:
  """Return an error's first words, for a longer sentence."""
  text = ' '.join(str(error).split()) or type(error).__name__
  text = text.split(' [tensorstore_spec')[0]
  return text if len(text) <= 200 else text[:197] + '...'
