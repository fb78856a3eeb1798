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
"""Test manifests: what is read, and what each mistake is called."""

import json
import pathlib

import pytest

from eejax.analysis.manifest import (
  DataEntry,
  ModelEntry,
  ModelKind,
  Tuning,
  parse_manifest,
  read_manifest,
)
from eejax.errors import ArgumentError

STUDY = pathlib.Path(__file__).parents[2] / 'gin/studies/model_classes.json'
MODEL = {'name': 'a', 'checkpoint': 'models/a'}


def with_model(**fields):
  return {'models': [{**MODEL, **fields}]}


def test_the_study_of_real_models_can_be_read():
  found = read_manifest(STUDY)
  kinds = {model.kind for model in found.models}
  assert kinds == set(ModelKind)
  assert {model.tuning for model in found.models} == set(Tuning)
  assert found.reference in [model.name for model in found.models]
  # Paths are as seen from the file, which is copied beside the models.
  assert all(
    pathlib.Path(model.checkpoint).parent == STUDY.parent
    for model in found.models
  )


def test_a_whole_manifest(tmp_path):
  path = tmp_path / 'models.json'
  facts = {
    'release': '2024-07-23',
    'family': 'llama',
    'kind': 'moe',
    'tuning': 'instruct',
    'parameters': 8e9,
  }
  path.write_text(
    json.dumps(
      {
        **with_model(**facts),
        'data': [
          {'path': 'notes.txt', 'unit': 'line'},
          {'name': 'library', 'path': 'stdlib', 'split': 'test'},
        ],
        'reference': 'a',
      }
    )
  )
  found = read_manifest(path)
  model = found.models[0]
  assert model.checkpoint == str(tmp_path / 'models/a')
  assert (model.kind, model.tuning) == (ModelKind.MOE, Tuning.INSTRUCT)
  assert model.year == pytest.approx(2024 + 6 / 12 + 22 / 365)
  assert model.size == '1 to 10 billion'
  assert found.data == (
    DataEntry('notes.txt', str(tmp_path / 'notes.txt'), unit='line'),
    DataEntry('library', 'stdlib', split='test'),
  )
  assert found.reference == 'a'


def test_facts_are_optional():
  found = parse_manifest(with_model())
  assert found.models == (ModelEntry('a', 'models/a'),)
  assert found.models[0].year is None
  assert found.models[0].size == ''
  assert found.data == (DataEntry('stdlib', 'stdlib'),)


@pytest.mark.parametrize(
  'parameters, size',
  [(1e7, 'under 0.1 billion'), (1e9, '1 to 10 billion'), (7e10, '20 billion')],
)
def test_size_classes(parameters, size):
  model = parse_manifest(with_model(parameters=parameters)).models[0]
  assert model.size.startswith(size)


@pytest.mark.parametrize(
  'text', ['', ' \n', '{}', '{"models": []}'], ids=['none', 'blank', '{}', '[]']
)
def test_an_empty_manifest_is_one_sentence(tmp_path, text):
  path = tmp_path / 'models.json'
  path.write_text(text)
  with pytest.raises(ArgumentError, match='names no model; write') as caught:
    read_manifest(path)
  assert 'models.json' in str(caught.value)


@pytest.mark.parametrize(
  'values, words',
  [
    ([], 'must be a JSON object'),
    ({'models': {}}, 'models must be a list'),
    ({'model': []}, "'model', which means nothing"),
    ({'models': [3]}, 'model 1, is not a JSON object'),
    ({'models': [{'name': 'a'}]}, 'model 1, has no checkpoint'),
    ({'models': [MODEL, MODEL]}, "two models named 'a'"),
    (with_model(release='July'), "release 'July'; write YYYY-MM-DD"),
    (with_model(release='2024-13'), "release '2024-13'"),
    (with_model(kind='rnn'), "the kind 'rnn'; it is dense or moe or ssm"),
    (with_model(tuning='chat'), 'it is base or instruct'),
    (with_model(parameters=-1), 'no number of parameters'),
    (with_model(parameters='7B'), 'no number of parameters'),
    (with_model(family=3), 'a family that is no text'),
    (with_model(colour='red'), "'colour', which means nothing"),
    ({**with_model(), 'data': [{'name': 'x'}]}, 'text 1, has no path'),
    ({**with_model(), 'reference': 'b'}, "'b', which is none of its models"),
  ],
)
def test_mistakes_are_named(values, words):
  with pytest.raises(ArgumentError, match=words):
    parse_manifest(values)


def test_files_that_are_no_manifest(tmp_path):
  with pytest.raises(ArgumentError, match='there is no manifest'):
    read_manifest(tmp_path / 'no.json')
  path = tmp_path / 'models.json'
  path.write_text('{"models": ')
  with pytest.raises(ArgumentError, match='is not JSON'):
    read_manifest(path)
  path.write_bytes(b'{"models": "\xff"}')
  with pytest.raises(ArgumentError, match='not UTF-8 text: byte 12'):
    read_manifest(path)
