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
"""Tests of the facts in `configs/`."""

import pathlib

import jax
import pytest

from eejax import resources
from eejax.config import EarlyExitConfig, ExitHeadKind, architectures
from eejax.errors import ArgumentError
from eejax.models import decoder

CONFIGS = resources.folder('configs')
names = lambda kind: sorted(p.stem for p in (CONFIGS / kind).glob('*.json'))

# Published sizes, in billions of parameters.
SIZES = {
  'llama_2_7b': 6.74,
  'llama_2_13b': 13.02,
  'llama_2_70b': 68.98,
  'llama_3_8b': 8.03,
  'llama_3_70b': 70.55,
  'mistral_7b': 7.24,
  'qwen3_8b': 8.19,
}


@pytest.mark.parametrize('name', names('models'))
def test_every_model_has_the_size_it_is_known_by(name):
  config = EarlyExitConfig(architectures.read_model(name))
  shapes = jax.eval_shape(lambda k: decoder.init(config, k), jax.random.key(0))
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e9
  if name in SIZES:
    assert size == pytest.approx(SIZES[name], rel=2e-3)
  else:
    known = float(name.removeprefix('ee_llm_').removesuffix('b'))
    assert size == pytest.approx(known, rel=0.3)


@pytest.mark.parametrize('name', names('exits'))
def test_every_placement_fits_its_model(name):
  size = name.split('_')[2]
  model = f'ee_llm_{size}' if name.startswith('ee_llm') else f'llama_2_{size}'
  config = architectures.read_early_exit(model, exits=name)
  assert config.exits
  if name.startswith('ee_tuning'):
    assert {e.head for e in config.exits} == {ExitHeadKind.MLP}


def test_a_file_of_ones_own_is_read(tmp_path):
  path = tmp_path / 'mine.json'
  path.write_text(
    (CONFIGS / 'models' / 'llama_2_7b.json').read_text().replace('32000', '99')
  )
  assert architectures.read_model(str(path)).vocab_size == 99


@pytest.mark.parametrize(
  'text, message',
  [
    (None, "no configuration 'mine'; known are ee_llm_13b"),
    ('{', 'is not JSON'),
    ('{"layers": 3}', 'does not describe a model'),
  ],
)
def test_what_is_no_model_is_refused(tmp_path, text, message):
  name = 'mine'
  if text is not None:
    path = pathlib.Path(tmp_path) / 'mine.json'
    path.write_text(text)
    name = str(path)
  with pytest.raises(ArgumentError, match=message):
    architectures.read_model(name)
