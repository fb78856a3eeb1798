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
"""Test how results show, draw and save themselves."""

import dataclasses
import json

import pytest

from eejax.errors import ArgumentError
from eejax.recipes.result import Result


@dataclasses.dataclass(frozen=True)
class Speeds(Result):
  values: tuple[float, ...]

  title = 'Speeds'

  def summary(self):
    return 'faster & <safer>'

  def table(self):
    return [{'speed': value} for value in self.values]

  def draw(self, axes):
    axes.plot(self.values)


def test_a_result_shows_itself():
  result = Speeds((1.5, 2.0))
  assert str(result).splitlines()[0] == 'faster & <safer>'
  assert '1.5' in str(result)
  shown = result._repr_html_()
  assert 'faster &amp; &lt;safer&gt;' in shown
  assert '<td>1.5</td>' in shown
  # It must not change the page that it stands in.
  assert '@scope (.eejax)' in shown
  assert ':root' not in shown


@pytest.mark.parametrize('ending', ['json', 'html', 'png'])
def test_a_result_saves_itself(tmp_path, ending):
  path = Speeds((1.5, 2.0)).save(tmp_path / f'speeds.{ending}')
  content = path.read_bytes()
  if ending == 'json':
    assert json.loads(content) == {'values': [1.5, 2.0]}
  elif ending == 'html':
    assert content.startswith(b'<!DOCTYPE html>')
  else:
    assert content.startswith(b'\x89PNG')
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_another_ending_is_refused(tmp_path):
  with pytest.raises(ArgumentError, match='json, .html or .png'):
    Speeds(()).save(tmp_path / 'speeds.csv')
  assert not list(tmp_path.iterdir())


def test_a_picture_says_what_it_needs(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
  with pytest.raises(ArgumentError, match=r'eejax\[plot\]'):
    Speeds((1.0,)).plot()
