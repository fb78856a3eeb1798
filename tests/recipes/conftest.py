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
"""Texts and models of recipes: for training, and for calibration."""

import jax
import numpy as np
import pytest

from eejax.checkpoint import surgery
from eejax.checkpoint.model import Model
from eejax.config import parse_exits
from eejax.data.tokenizer import train_bpe
from eejax.recipes.text import read_text
from eejax.testing import tiny
from eejax.testing.planted import idle_from

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']


@pytest.fixture(scope='session')
def calibration_folder(tmp_path_factory):
  """Return a folder with texts, a document a line, and a tokenizer."""
  root = tmp_path_factory.mktemp('calibrate')
  random = np.random.default_rng(0)
  documents = [' '.join(random.choice(WORDS, 12)) for _ in range(60)]
  (root / 'text.txt').write_text('\n'.join(documents))
  (root / 'short.txt').write_text('\n'.join(documents[:6]))
  others = [' '.join(random.choice(WORDS, 12)) for _ in range(12)]
  (root / 'other.txt').write_text('\n'.join(others))
  train_bpe(['\n'.join(documents)], vocab_size=290).save(root / 'tokenizer')
  return root


@pytest.fixture(scope='session')
def calibration_text(calibration_folder):
  """Return a text whose documents are lines."""
  return read_text(calibration_folder / 'text.txt', unit='line')


@pytest.fixture(scope='session')
def calibration_models(calibration_folder):
  """Return models by name: blocks after the first change nothing, or do."""
  folder = calibration_folder / 'tokenizer'
  config = tiny.tiny_config(
    '', vocab_size=290, max_length=40, num_layers=4, eos_ids=()
  )
  params = tiny.tiny_params(config)
  models = {}
  for name, tree in (('perfect', idle_from(params, 1)), ('random', params)):
    with_exits, configured = surgery.add_exits(
      tree, config, parse_exits('1:norm,3:norm'), key=jax.random.key(0)
    )
    models[name] = Model(configured, with_exits, tokenizer_folder=folder)
  return models


@pytest.fixture(scope='session')
def training_text(tmp_path_factory):
  """Return a text of sixty paragraphs."""
  random = np.random.default_rng(0)
  file = tmp_path_factory.mktemp('text') / 'text.txt'
  paragraphs = [f'{i} ' + ' '.join(random.choice(WORDS, 40)) for i in range(60)]
  file.write_text('\n\n'.join(paragraphs))
  return read_text(file, unit='paragraph')


@pytest.fixture(scope='session')
def untrained(training_text, tmp_path_factory):
  """Return a tiny model in memory with exits at 1 and 3, and a tokenizer."""
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer = train_bpe(training_text.documents(), vocab_size=300)
  tokenizer.save(folder)
  config = tiny.tiny_config(
    '1:norm,3:mlp',
    vocab_size=300,
    bos_id=tokenizer.bos_id,
    eos_ids=(),
    max_length=64,
  )
  params = jax.tree.map(lambda x: 2 * x, tiny.tiny_params(config))
  return Model(config, params, tokenizer_folder=folder)
