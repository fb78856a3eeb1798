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
"""A model written as a checkpoint."""

import os

from eejax.checkpoint import folder
from eejax.checkpoint.atomic import Existing
from eejax.checkpoint.model import Model


def save(
  model: Model, path: str | os.PathLike, *, overwrite: bool = False
) -> Model:
  """Write a model as an eejax checkpoint, whole or not at all.

  Args:
    model: its backbone must be whole.
    path: the folder to make.
    overwrite: whether a checkpoint that is at `path` is replaced.

  Returns:
    The model as it is there: with the hash of what was written and the
    tokenizer of the folder.

  Raises:
    ArgumentError: something is at `path`.
    CheckpointError: arrays do not fit the configuration, or the disk is full.

  Example:
    >>> import eejax
    >>> model = eejax.add_exits(eejax.load('default'), '8:norm')
    >>> _ = eejax.save(model, 'with_exits')
    >>> eejax.load('with_exits').config.exit_depths
    (8,)
  """
  existing = Existing.OVERWRITE if overwrite else Existing.REFUSE
  return folder.save(path, model, existing=existing)
