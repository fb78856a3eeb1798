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
"""Test that plain values gin binds are held against annotations."""

import argparse
import dataclasses
import enum
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gin
import pytest

from eejax.cli import gin_config, gin_types
from eejax.errors import ArgumentError


class Only(enum.Enum):
  ONE = 1


class Colour(enum.Enum):
  RED = 'red'
  BLUE = 'blue'


@gin.configurable(module='gin_types_test')
@dataclasses.dataclass(frozen=True)
class Ink:
  colour: Colour = Colour.RED
  drops: int = 1


@gin.configurable(module='gin_types_test')
def paint(ink: Ink | None = None, where: str = '', layers: int | None = None):
  return ink, where, layers


@pytest.mark.parametrize(
  ('hint', 'value', 'fits'),
  [
    (int, 3, True),
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
    (Ink | None, 'red', False),
    (Ink | None, None, True),
    (Callable[[int], int], 'whatever it takes', True),
    (Any, None, True),
  ],
)
def test_a_value_fits_its_annotation_or_does_not(hint, value, fits):
  assert gin_types.accepts(hint, value) is fits


@pytest.mark.parametrize(
  ('hint', 'words'),
  [
    (int | None, 'a whole number or None'),
    (str | int | None, 'a text in quotes, a whole number or None'),
    (float | Sequence[float], 'a number or (a number, ...)'),
    (Colour, '%Colour.RED or %Colour.BLUE'),
    (Ink, '@Ink()'),
    (Only, '%Only.ONE'),
  ],
)
def test_annotations_are_put_into_words(hint, words):
  assert gin_types.describe(hint) == words


def _parse(text: str, folder: pathlib.Path) -> None:
  file = folder / 'run.gin'
  file.write_text(text)
  parser = argparse.ArgumentParser()
  gin_config.add_gin_arguments(parser)
  gin_config.parse(parser.parse_args(['--gin_file', str(file)]))


@pytest.fixture(autouse=True)
def forget():
  yield
  gin.clear_config()


def test_what_fits_is_left_alone(tmp_path):
  _parse(
    """
WHERE = 'wall'
paint.where = %WHERE
paint.ink = @Ink()
Ink.drops = 2
paint.layers = None
""",
    tmp_path,
  )
  ink, where, layers = paint()
  assert (ink.drops, where, layers) == (2, 'wall', None)


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    (
      'WHERE = None\npaint.where = %WHERE',
      'WHERE must be a text in quotes, not None.',
    ),
    (
      "A = 'x'\nB = %A\nInk.drops = %B",
      "A must be a whole number, not 'x'.",
    ),
    ('Ink.drops = 1.5', 'Ink.drops must be a whole number, not 1.5.'),
    (
      "Ink.colour = 'red'",
      "Ink.colour must be %Colour.RED or %Colour.BLUE, not 'red'.",
    ),
    ("paint.ink = 'red'", "paint.ink must be @Ink() or None, not 'red'."),
  ],
)
def test_what_does_not_fit_is_named_by_what_the_user_writes(
  text, sentence, tmp_path
):
  with pytest.raises(ArgumentError) as caught:
    _parse(text, tmp_path)
  assert str(caught.value) == sentence


def test_macros_in_a_circle_are_left_to_gin(tmp_path):
  _parse('A = %B\nB = %A\nInk.drops = %A', tmp_path)
  assert not list(gin_types._bindings())
