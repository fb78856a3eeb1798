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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from eejax import storage
from eejax.checkpoint import arrays  # noqa: F401  (keeps Orbax quiet)
from eejax.checkpoint.atomic import is_disk_full
from eejax.checkpoint.retention import KeptSteps
from eejax.errors import ArgumentError, CheckpointError
from eejax.parallel import memory
from eejax.types import PyTree

# What the names of steps begin with that are no longer the run's.
BROKEN = 'broken'
ABANDONED = 'abandoned'


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
    keep: int | KeptSteps = 2,
    warn: Callable[[str], None] | None = None,
  ):
    """Open or make the folder.

    Args:
      path: the folder.
      keep: how many of the newest steps are kept, at least 1, or which.
      warn: is told in a sentence when a step had to be passed over; by
        default it goes to the log of this module, and so to stderr.
    """
    self.path = storage.absolute(path)
    self._warn = warn or logging.getLogger(__name__).warning
    self._keep = KeptSteps(keep) if isinstance(keep, int) else keep
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._keep.policy(),
      # Without it Orbax writes no metrics beside a step.
      best_fn=self._keep.score if self._keep.best else None,
      create=True,
      cleanup_tmp_directories=True,
      # Where a store refuses to have them, Orbax's threads would wait for them
      # for five minutes, and a process does not end before its threads.
      async_options=ocp.AsyncOptions(
        create_directories_asynchronously=not storage.is_remote(self.path)
      ),
    )
    try:
      self._manager = ocp.CheckpointManager(self.path, options=options)
    except storage.failures() as error:
      words = getattr(error, 'strerror', None) or storage.reason(error)
      raise CheckpointError(
        f'{self.path} cannot be used for checkpoints: {words}.'
      ) from error
    self._whole = max(self._manager.all_steps(), default=None)
    self._begun = self._whole

  @property
  def steps(self) -> tuple[int, ...]:
    """Return the steps that are there, oldest first."""
    return tuple(sorted(self._manager.all_steps()))

  def save(
    self,
    step: int,
    state: PyTree,
    metadata: Mapping[str, Any],
    *,
    measured: Mapping[str, float] | None = None,
  ) -> None:
    """Begin to save a step, and return once `state` may be changed.

    Args:
      step: its number, larger than those before; saving the newest step
        again does nothing.
      state: a tree of JAX arrays, NumPy arrays and numbers.
      metadata: an object for JSON.
      measured: held-out means at this step, by which the best are found.

    Raises:
      ArgumentError: what the best are found by was not measured.
      CheckpointError: this step or the one before could not be written.
    """
    if step in self._manager.all_steps():
      return
    self._check_measured(measured)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      metadata=ocp.args.JsonSave(dict(metadata)),
    )
    try:
      self._manager.save(
        step,
        args=arguments,
        force=True,
        metrics=None if measured is None else dict(measured),
      )
    except _failures() as error:
      raise self._not_written(error) from error
    # The manager has waited for the step before.
    self._whole, self._begun = self._begun, step

  def wait(self) -> None:
    """Wait until everything that was begun is on the disk.

    Raises:
      CheckpointError: it could not be written.
    """
    try:
      self._manager.wait_until_finished()
    except _failures() as error:
      raise self._not_written(error) from error
    self._whole = self._begun

  def go_back(self, step: int) -> None:
    """Set the steps after `step` aside, so that it is the newest.

    Raises:
      ArgumentError: there is no such step.
    """
    if step not in self.steps:
      known = ', '.join(map(str, self.steps)) or 'none'
      raise ArgumentError(
        f'{self.path} keeps no checkpoint of step {step}; it has: {known}.'
      )
    for later in self.steps:
      if later > step:
        self._set_aside(later, ABANDONED)
    self._whole = self._begun = step

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
        self._set_aside(broken, BROKEN)
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
      try:
        self._manager.close()
      except _failures() as error:
        raise self._not_written(error) from error

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

  def _check_measured(self, measured: Mapping[str, float] | None) -> None:
    name = self._keep.metric
    if measured is not None and self._keep.best and name:
      if name not in measured:
        raise ArgumentError(
          f'the best checkpoint is looked for by {name!r}, which is not '
          f'measured; name one of {", ".join(sorted(measured))}.'
        )

  def _set_aside(self, step: int, name: str) -> None:
    """Rename a step, so that its number can be saved again."""
    if jax.process_index() == 0:
      folder = self.path / str(step)
      aside = self.path / f'{name}-{step}'
      number = 1
      while aside.exists():
        number += 1
        aside = self.path / f'{name}-{step}-{number}'
      folder.rename(aside)
    ocp.multihost.sync_global_processes(f'eejax_set_aside_{step}')
    self._manager.reload()

  def _not_written(self, error: Exception) -> CheckpointError:
    # Orbax tells of a failure once, and later calls of the same step nothing.
    self._begun = self._whole
    if is_disk_full(error):
      return CheckpointError(
        f'the disk is full: the newest checkpoint in {self.path} was not '
        'written; make room and start again from the one before.'
      )
    kept = (
      'there is none before it'
      if self._whole is None
      else f'the one of step {self._whole} stays'
    )
    reason = _reason(error)
    if storage.is_remote(self.path):
      reason = storage.reason(error)
    return CheckpointError(
      f'a checkpoint in {self.path} was not written ({kept}): {reason}.'
    )


def _failures() -> tuple[type[Exception], ...]:
  """Return what Orbax raises when it cannot write."""
  return (*storage.failures(), ValueError, RuntimeError)


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
