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
"""Tests of the recipes that add exits and drop them."""

import jax
import numpy as np
import pytest

import eejax
from eejax.checkpoint import surgery
from eejax.checkpoint.model import Model
from eejax.config import Initialization
from eejax.errors import ArgumentError
from eejax.testing import tiny


@pytest.fixture(scope='module')
def model():
  """Return a tiny model without exits."""
  config = tiny.tiny_config('')
  params = tiny.tiny_params(config)
  return Model(config, params, backbone_hash='ab' * 32, provenance={'a': 1})


@pytest.mark.parametrize('initialization', ['copy', 'random'])
def test_exits_are_those_of_surgery(model, initialization):
  found = eejax.add_exits(
    model, '1:norm,3:mlp:gate', initialization=initialization, seed=3
  )
  wanted, config = surgery.add_exits(
    model.params,
    model.config,
    eejax.parse_exits('1:norm,3:mlp:gate'),
    initialization=Initialization(initialization),
    key=jax.random.key(3),
  )
  assert found.config == config
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted)
  # The backbone is the same arrays, so what is known of it stays.
  assert found.params['backbone'] is model.params['backbone']
  assert found.backbone_hash == model.backbone_hash
  assert found.provenance == model.provenance
  assert model.config.exits == ()


def test_exits_are_dropped_one_by_one(model):
  both = eejax.add_exits(model, '1:norm,3:mlp')
  one = eejax.drop_exits(both, [1])
  assert one.config.exit_depths == (3,)
  assert set(one.params['exits']) == {'exit_3'}
  assert eejax.drop_exits(one, [3]).config == model.config


@pytest.mark.parametrize(
  'exits, fields, message',
  [
    ('6:mlp', {}, 'depth'),
    ('first', {}, 'is not an exit'),
    ('1:norm,1:mlp', {}, 'already an exit at depth 1'),
    ('1:norm', {'initialization': 'zeros'}, 'one of copy, random'),
  ],
)
def test_wrong_exits_are_one_sentence(model, exits, fields, message):
  with pytest.raises(ArgumentError, match=message):
    eejax.add_exits(model, exits, **fields)
  with pytest.raises(ArgumentError, match='no exit at depth 2'):
    eejax.drop_exits(model, [2])
