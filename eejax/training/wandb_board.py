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
"""Metrics at Weights & Biases, with the extra `wandb`."""

import hashlib
from collections.abc import Mapping
from typing import Any

from eejax import storage
from eejax.errors import EejaxError
from eejax.storage import AnyPath

_STEP = 'step'


class WandbBoard:
  """Sends scalars to a project, under one id for all processes of a run.

  Steps are values of their own, for a run that goes on from an earlier
  checkpoint tells some of them again.
  """

  def __init__(self, project: str, *, folder: AnyPath, local: AnyPath):
    """Begin, or go on with, the run of a folder.

    Args:
      project: its name there.
      folder: of the run, wherever it is.
      local: a folder of this machine for wandb's own files.

    Raises:
      EejaxError: wandb is not installed, or does not begin.
    """
    try:
      import wandb
    except ImportError:
      raise EejaxError(
        'Weights & Biases is not installed; pip install "eejax[wandb]", or '
        'leave wandb out.'
      ) from None
    address = storage.address(folder)
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    try:
      self._run: Any = wandb.init(
        project=project,
        id=digest,
        name=folder.name,
        dir=str(local),
        resume='allow',
      )
    except wandb.errors.Error as error:
      raise EejaxError(
        f'Weights & Biases does not begin: {error}; WANDB_MODE=offline keeps '
        'the metrics on this machine.'
      ) from error
    self._run.define_metric('*', step_metric=_STEP)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Send named numbers of a step."""
    self._run.log({_STEP: step, **values})

  def close(self) -> None:
    """Wait until all has arrived."""
    self._run.finish()
