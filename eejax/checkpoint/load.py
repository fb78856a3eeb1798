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
"""Load a model, whatever it is kept as."""

import os
import pathlib
from typing import Any

from eejax import resources
from eejax.checkpoint import folder, hub, huggingface, manifest, t5x_layout
from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError
from eejax.progress import SILENT, Progress

# The name of the model that eejax brings along.
DEFAULT = 'default'


def load(
  source: str | os.PathLike, *, dtype: Any = None, progress: Progress = SILENT
) -> Model:
  """Load a model from a folder or from the Hugging Face hub.

  Args:
    source: an eejax checkpoint, a Hugging Face folder, a checkpoint of t5x,
      a name `organisation/model` where the hub can be reached, or `default`,
      the small model that eejax brings along.
    dtype: what every array is converted to; by default each stays as stored.
    progress: is told while files are read.

  Returns:
    The model: configuration, parameters, tokenizer, provenance.

  Raises:
    ArgumentError: `source` is none of these.
    CheckpointError: its files are missing, cut short or misshapen, or the hub
      cannot be reached.

  Example:
    >>> import eejax
    >>> model = eejax.load('default')
    >>> model.config.model.num_layers
    12
  """
  path = pathlib.Path(source)
  if str(source) == DEFAULT and not path.exists():
    path = resources.default_backbone()
  with progress.waiting(f'reading {source}'):
    if (path / manifest.NAME).is_file():
      return folder.load(path, dtype=dtype)
    if (path / huggingface.CONFIG).is_file():
      return huggingface.import_folder(path, dtype=dtype)
    if t5x_layout.is_checkpoint(path):
      return t5x_layout.load(path, dtype=dtype)
    if not path.exists() and hub.is_hub_name(str(source)):
      return huggingface.import_folder(str(source), dtype=dtype)
  raise ArgumentError(_what_is_wrong(path))


def _what_is_wrong(path: pathlib.Path) -> str:
  kinds = (
    f'an eejax checkpoint (with {manifest.NAME}), a Hugging Face folder '
    f'(with {huggingface.CONFIG}) or a t5x checkpoint (checkpoint_STEP)'
  )
  if not path.exists():
    return (
      f'there is no folder {path}; name {kinds}, a model of the hub, or '
      f'{DEFAULT!r}.'
    )
  if path.is_file():
    return f'{path} is a file; name {kinds}.'
  return f'{path} is neither {kinds}.'
