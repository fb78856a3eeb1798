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
"""Test that fields of configurations are checked against annotations."""

import dataclasses
import enum
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from eejax.config import field_types
from eejax.errors import ArgumentError


class Only(enum.Enum):
  ONE = 1


class Colour(enum.Enum):
  RED = 'red'
  BLUE = 'blue'


@dataclasses.dataclass(frozen=True)
class Ink:
  colour: Colour = Colour.RED
  drops: int = 1

  def __post_init__(self):
    field_types.check_fields(self)


@pytest.mark.parametrize(
  ('hint', 'value', 'fits'),
  [
    (int, 3, True),
    (int, np.int64(3), True),
    (int, 3.0, False),
    (int, True, False),
    (int, 'many', False),
    (float, 3, True),
    (float, False, False),
    (bool, True, True),
    (bool, 1, False),
    (str, 'red', True),
    (str, None, False),
    (str | None, None, True),
    (tuple[int, ...], (1, 2, 3), True),
    (tuple[int, ...], [1, 2], True),
    (tuple[int, ...], (1, 'two'), False),
    (tuple[int, str], (1, 'two'), True),
    (tuple[int, str], (1,), False),
    (tuple[int], (1, 2), False),
    (float | Sequence[float], (0.1, 1), True),
    (float | Sequence[float], None, False),
    (Colour, 'red', False),
    (Colour, Colour.RED, True),
    (Ink | None, 'red', False),
    (Ink | None, None, True),
    (Callable[[int], int], 'whatever it takes', True),
    (Any, None, True),
  ],
)
def test_a_value_fits_its_annotation_or_does_not(hint, value, fits):
  assert field_types.accepts(hint, value) is fits


@pytest.mark.parametrize(
  ('hint', 'words'),
  [
    (int | None, 'a whole number or None'),
    (str | int | None, 'a text, a whole number or None'),
    (float | Sequence[float], 'a number or (a number, ...)'),
    (Colour, 'Colour.RED or Colour.BLUE'),
    (Ink, 'Ink'),
    (Only, 'Only.ONE'),
  ],
)
def test_annotations_are_put_into_words(hint, words):
  assert field_types.describe(hint) == words


@pytest.mark.parametrize(
  ('fields', 'sentence'),
  [
    ({'drops': 1.5}, 'Ink.drops must be a whole number, not 1.5.'),
    (
      {'colour': 'red'},
      "Ink.colour must be Colour.RED or Colour.BLUE, not 'red'.",
    ),
  ],
)
def test_what_does_not_fit_is_named(fields, sentence):
  with pytest.raises(ArgumentError) as caught:
    Ink(**fields)
  assert str(caught.value) == sentence


def test_what_gin_files_and_policies_say_is_checked():
  # In a process of its own, for here annotations are checked before.
  script = """
from eejax.analysis.sections import SectionSettings
from eejax.analysis.suitability.score import ScoreSettings
from eejax.analysis.suitability.skip import SweepSettings
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import Bootstrap

for kind, fields in [
  (Bootstrap, {'draws': 'many'}),
  (ScoreSettings, {'alpha': 'half'}),
  (SweepSettings, {'thresholds': 4.5}),
  (SectionSettings, {'lengths': 3}),
  (Policy, {'thresholds': ('high',)}),
  (Policy, {'window': 2.5}),
]:
  try:
    kind(**fields)
  except ArgumentError as error:
    print(error)
"""
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, check=True
  )
  named = [line.split(' must be ')[0] for line in done.stdout.splitlines()]
  assert named == [
    'Bootstrap.draws',
    'ScoreSettings.alpha',
    'SweepSettings.thresholds',
    'SectionSettings.lengths',
    'Policy.thresholds',
    'Policy.window',
  ]
