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
"""Read the steps of a training run back, for a look at how a model grew.

Of each step only what was trained is read; the state of the optimizer, twice
its size, stays on the disk.
"""

import os
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp

from eejax import storage
from eejax.checkpoint import arrays  # noqa: F401  (keeps Orbax quiet)
from eejax.errors import ArgumentError, CheckpointError
from eejax.types import Params

CHECKPOINTS = 'checkpoints'
_STATE = 'state'
_TRAINABLE = 'trainable'


def list_steps(run: str | os.PathLike) -> tuple[int, ...]:
  """Return the steps that a run folder keeps, oldest first.

  Raises:
    ArgumentError: the folder keeps none.
  """
  folder = storage.as_path(run) / CHECKPOINTS
  steps = sorted(
    int(p.name)
    for p in (folder.iterdir() if folder.is_dir() else ())
    if p.name.isdigit() and (p / _STATE).is_dir()
  )
  if not steps:
    raise ArgumentError(
      f'{run} keeps no checkpoint of a run; name the folder of a run, with '
      'LoopConfig.save_every and LoopConfig.keep set to keep several.'
    )
  return tuple(steps)


def read_steps(run: str | os.PathLike) -> Iterator[tuple[int, Params]]:
  """Yield each step of a run with the parameters that were trained.

  Raises:
    ArgumentError: the folder keeps none.
    CheckpointError: a step cannot be read.
  """
  for step in list_steps(run):
    yield step, read_step(run, step)


def read_step(run: str | os.PathLike, step: int) -> Params:
  """Return what was trained, as it was at a step.

  Raises:
    CheckpointError: it cannot be read.
  """
  path = storage.absolute(run) / CHECKPOINTS / str(step) / _STATE
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      found = reader.metadata(path)
      # Shapes of the trained part alone, so that no more than it is read.
      wanted = {
        _TRAINABLE: jax.tree.map(
          lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
          found.item_metadata.tree[_TRAINABLE],
        )
      }
      as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
      restored = reader.restore(
        path,
        args=ocp.args.PyTreeRestore(
          item=wanted,
          restore_args=jax.tree.map(lambda _: as_numpy, wanted),
          partial_restore=True,
        ),
      )
  # A damaged step shows as almost any exception, from JSON's to TensorStore's.
  except Exception as error:
    words = ' '.join(str(error).split())[:200] or type(error).__name__
    raise CheckpointError(
      f'step {step} of {run} cannot be read: {words}.'
    ) from error
  return restored[_TRAINABLE]
