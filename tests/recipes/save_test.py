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
"""Tests of the recipe that saves a model."""

import jax
import numpy as np
import pytest

import eejax
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import backbone_hash
from eejax.errors import ArgumentError
from eejax.testing import tiny


def test_what_is_saved_is_loaded(tmp_path):
  config = tiny.tiny_config()
  model = Model(config, tiny.tiny_params(config), provenance={'from': 'here'})
  saved = eejax.save(model, tmp_path / 'model')
  loaded = eejax.load(tmp_path / 'model')
  assert loaded.config == config and loaded.provenance == {'from': 'here'}
  jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
  digest = backbone_hash(model.params)
  assert saved.backbone_hash == loaded.backbone_hash == digest
  with pytest.raises(ArgumentError, match='model'):
    eejax.save(model, tmp_path / 'model')
  fewer = eejax.drop_exits(model, [1])
  eejax.save(fewer, tmp_path / 'model', overwrite=True)
  assert eejax.load(tmp_path / 'model').config == fewer.config
