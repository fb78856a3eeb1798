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
"""What a quickstart is made with, and the models it makes."""

import argparse
import dataclasses
import functools
import pathlib
import sys
from typing import Any

from eejax import config as config_lib
from eejax.checkpoint.model import Model
from eejax.cli import measuring
from eejax.cli.measuring import Text
from eejax.errors import ArgumentError
from eejax.recipes.calibration.request import CalibrationRequest
from eejax.recipes.stages import fingerprint
from eejax.stats.bounds import samples_needed

BACKBONE, WITH_EXITS, TUNING = 'backbone', 'with_exits', 'tuning'
TUNED = f'{TUNING}/model'
# Of the sequences that thresholds are certified on.
CALIBRATION_TOKENS, CALIBRATION_SEQUENCES = 32, 256


@dataclasses.dataclass(frozen=True)
class Settings:
  """Say what a quickstart is made with; see the flags of the verb."""

  backbone: str | None
  data: str
  unit: str
  exits: str | None
  target: float
  seed: int
  steps: int
  eval_tokens: int
  prompts: int
  new_tokens: int
  repeats: int
  window: int

  def __post_init__(self):
    if not 0 < self.target < 1:
      raise ArgumentError(
        'the target agreement must lie between 0 and 1, both left out, not '
        f'{self.target}.'
      )
    if self.exits:
      config_lib.parse_exits(self.exits)
    if self.backbone and not pathlib.Path(self.backbone).exists():
      raise ArgumentError(f'there is no backbone at {self.backbone}.')

  @classmethod
  def of(cls, args: argparse.Namespace) -> 'Settings':
    """Return the settings that the verb's arguments name."""
    names = {f.name for f in dataclasses.fields(cls)}
    values = {k: v for k, v in vars(args).items() if k in names}
    is_library = args.data == measuring.STANDARD_LIBRARY
    values['unit'] = args.unit or ('file' if is_library else 'paragraph')
    return cls(**values)

  def text(self, split: str) -> Text:
    """Return a held-out part of the text."""
    return Text(
      data=self.data, split=split, unit=self.unit, max_tokens=self.eval_tokens
    )

  def calibration(self, max_length: int) -> CalibrationRequest:
    """Return what is to be certified, on the validation part.

    Args:
      max_length: context of the model.
    """
    tokens = min(CALIBRATION_TOKENS, max(max_length // 3, 1))
    risk = 1 - self.target
    request = functools.partial(
      CalibrationRequest,
      risk=risk,
      search_sequences=64,
      prompt_tokens=tokens,
      max_new_tokens=tokens,
      window=self.window,
    )
    least = samples_needed(risk=risk, delta=0.05) or 1
    return request(sequences=max(CALIBRATION_SEQUENCES, 2 * least))

  @property
  def data_stamp(self) -> list[Any]:
    """Return what tells whether the text has changed."""
    path = pathlib.Path(self.data)
    files = fingerprint(path) if path.exists() else []
    return [self.data, self.unit, sys.version, files]


@dataclasses.dataclass
class Models:
  """Hold the quickstart's models, each read when it is first needed."""

  folder: pathlib.Path

  @functools.cached_property
  def untuned(self) -> Model:
    """Return the model whose exits are as they were added."""
    return self._read(WITH_EXITS)

  @functools.cached_property
  def tuned(self) -> Model:
    """Return the model whose exits are tuned."""
    return self._read(TUNED)

  @functools.cached_property
  def backbone(self) -> Model:
    """Return the model without exits."""
    return self._read(BACKBONE)

  def _read(self, name: str) -> Model:
    return measuring.open_model(self.folder / name, dtype='float32')
