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
"""Test what gin files of t5x say in plain values."""

import pytest

from eejax.checkpoint import folder, t5x_layout
from eejax.checkpoint.model import Model
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError, EejaxError
from eejax.t5x_adapter import settings
from eejax.training.freeze import Regime
from eejax.training.weight_schedules import Curriculum


@pytest.fixture(scope='module')
def model(tiny_config, tiny_params):
  return Model(tiny_config, tiny_params)


def test_a_model_comes_from_wherever_it_is_described(model, tmp_path):
  folder.save(tmp_path / 'own', model)
  checkpoint = t5x_layout.save(model, tmp_path / 't5x')
  for source in (tmp_path / 'own', tmp_path / 't5x', checkpoint):
    assert settings.early_exit_config(source) == model.config
  named = settings.early_exit_config('llama_3_8b', exits='8:norm')
  assert (named.model.num_layers, named.exit_depths) == (32, (8,))


def test_exits_are_added_to_those_there_are(model, tmp_path):
  folder.save(tmp_path / 'own', model)
  config = settings.early_exit_config(tmp_path / 'own', exits='4:norm')
  assert config.exit_depths == (1, 2, 3, 4)


def test_a_folder_that_says_nothing_is_refused(tmp_path):
  with pytest.raises(ArgumentError, match='does not say what model'):
    settings.early_exit_config(tmp_path)
  with pytest.raises(EejaxError, match='no tokenizer'):
    settings.tokenizer(tmp_path)


def test_an_objective_in_plain_values():
  found = settings.objective(
    regime='tune', exit_weights=[0.5, 1.0], curriculum='rotational'
  )
  assert found.regime is Regime.TUNE
  assert found.exit_weights.weights == (0.5, 1.0)
  assert found.exit_weights.curriculum is Curriculum.ROTATIONAL
  assert not settings.constant_weights(found)
  assert settings.constant_weights(settings.objective())


def test_words_that_are_none_are_refused_with_those_there_are():
  with pytest.raises(ArgumentError, match='regime must be one of standard'):
    settings.objective(regime='tuned')
  with pytest.raises(ArgumentError, match='rematerialization must be one of'):
    settings.forward(rematerialization='all')


def test_a_policy_in_plain_values(tiny_config):
  assert settings.policy(tiny_config) == Policy()
  found = settings.policy(
    tiny_config, mode='early_exit', criterion='max_prob', thresholds='0.5'
  )
  assert (found.mode, found.thresholds) == (Mode.EARLY_EXIT, (0.5,))
  with pytest.raises(ArgumentError, match='mode must be one of'):
    settings.policy(tiny_config, mode='early')


def test_a_policy_of_a_file_says_all(tiny_config, tmp_path):
  kept = Policy(Mode.EARLY_EXIT, 'max_prob', (0.25,), minimum_depth=2)
  kept.save(tmp_path / 'policy.json')
  found = settings.policy(tiny_config, file=str(tmp_path / 'policy.json'))
  assert found == kept
