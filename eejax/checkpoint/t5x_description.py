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
"""What stands beside checkpoints of t5x, which say nothing of the model.

RUN/checkpoint_100/state    Orbax, written by t5x or by `eejax export`
RUN/eejax_model/model.json  the configuration, with the exits
RUN/eejax_model/tokenizer.json ...
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from etils import epath

from eejax import storage
from eejax.checkpoint.tokenizer_files import find_tokenizer, list_tokenizer
from eejax.config import EarlyExitConfig, config_json
from eejax.errors import ArgumentError, CheckpointError

FOLDER = 'eejax_model'
NAME = 'model.json'
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Description:
  """Describe the model of a t5x run.

  Attributes:
    config: the model with its exits.
    provenance: where it came from, plain values.
    folder: where the description lies.
  """

  config: EarlyExitConfig
  provenance: dict[str, Any]
  folder: pathlib.Path

  @property
  def tokenizer_folder(self) -> pathlib.Path | None:
    """Return where the tokenizer's files are, if it has any."""
    return find_tokenizer(self.folder)


def find(path: str | os.PathLike) -> pathlib.Path | None:
  """Return the folder of the description of a run or of its checkpoint.

  Args:
    path: a run, one of its checkpoints, or what lies in one.
  """
  path = storage.local_path(path).absolute()
  if not path.exists():
    return None
  for parent in (path, *path.parents[:2]):
    if (parent / FOLDER / NAME).is_file():
      return parent / FOLDER
  return None


def read(path: str | os.PathLike) -> Description | None:
  """Return the description that `find` finds, None where there is none.

  Raises:
    CheckpointError: it cannot be understood.
  """
  folder = find(path)
  if folder is None:
    return None
  file = folder / NAME
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
    if values['format'] != FORMAT:
      raise CheckpointError(
        f'{file} has format {values["format"]}, this version of eejax reads '
        f'format {FORMAT}; update eejax.'
      )
    config = config_json.from_json(values['config'])
    return Description(config, dict(values['provenance']), folder)
  except (ValueError, KeyError, TypeError, ArgumentError) as error:
    raise CheckpointError(
      f'{file} is broken ({error}); copy it from the run again.'
    ) from error


def write(
  run: str | os.PathLike,
  config: EarlyExitConfig,
  *,
  tokenizer: pathlib.Path | None = None,
  provenance: dict[str, Any] | None = None,
) -> None:
  """Write the description of a run; `run` may be a bucket's address."""
  folder = epath.Path(run) / FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  values = {
    'format': FORMAT,
    'config': config_json.to_json(config),
    'provenance': provenance or {},
  }
  (folder / NAME).write_text(json.dumps(values, indent=1) + '\n')
  for file in list_tokenizer(tokenizer):
    (folder / file.name).write_bytes(file.read_bytes())
