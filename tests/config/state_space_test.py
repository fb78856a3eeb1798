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
"""Tests of descriptions of state-space mixers, and of models with them."""

import pytest

from eejax.config import EarlyExitConfig, PositionKind, config_json, parse_exits
from eejax.config.state_space import StateSpaceConfig, StateSpaceKind
from eejax.errors import ArgumentError
from eejax.testing import tiny

MAMBA, MAMBA2 = StateSpaceKind.MAMBA, StateSpaceKind.MAMBA2
KINDS = tiny.KINDS_OF_RECURRENT_BLOCK


@pytest.mark.parametrize(
  'fields, named',
  [
    ({'kind': MAMBA}, 'step_rank'),
    ({'kind': MAMBA, 'step_rank': 2, 'num_heads': 4}, 'has no num_heads'),
    ({'kind': MAMBA, 'step_rank': 2, 'state_dim': 0}, 'state_dim'),
    ({'kind': MAMBA2, 'num_heads': 5, 'num_groups': 1}, 'multiple'),
    ({'kind': MAMBA2, 'num_heads': 4, 'num_groups': 3}, 'num_groups'),
    ({'kind': MAMBA2, 'num_heads': 4}, 'num_groups'),
  ],
)
def test_contradictions_are_named(fields, named):
  with pytest.raises(ArgumentError, match=named):
    StateSpaceConfig(**{'inner_dim': 24, 'state_dim': 3, **fields})


@pytest.mark.parametrize('kind', KINDS)
def test_a_model_goes_through_json(kind):
  config = tiny.tiny_config('1:norm,3:block', **KINDS[kind])
  assert config_json.from_json(config_json.to_json(config)) == config


def test_other_models_say_nothing_of_it():
  assert 'state_space' not in config_json.to_json(tiny.tiny_config())['model']


@pytest.mark.parametrize(
  'fields, named',
  [
    ({'num_heads': 0, 'num_kv_heads': 0, 'head_dim': 0}, 'num_heads'),
    ({**KINDS['mamba'], 'state_space': None}, 'num_heads'),
    ({**KINDS['mamba'], 'head_dim': 6}, 'num_heads'),
    ({**KINDS['mamba'], 'positions': PositionKind.ROTARY}, 'rotary'),
    ({**KINDS['mamba'], 'sliding_window': 3}, 'no window'),
    ({'mlp_dim': 0}, 'mlp_dim'),
  ],
)
def test_parts_that_a_block_lacks_are_named(fields, named):
  with pytest.raises(ArgumentError, match=named):
    tiny.tiny_model_config(**fields)


def test_no_exit_is_the_twin_of_an_mlp_that_is_not_there():
  model = tiny.tiny_model_config(**KINDS['mamba2'])
  with pytest.raises(ArgumentError, match='twin of an MLP'):
    EarlyExitConfig(model, parse_exits('1:mlp'))
