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
"""Tests of what a model keeps."""

import jax.numpy as jnp
import pytest

from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError
from eejax.testing import tiny


def test_what_takes_long_is_made_once_for_the_same_arrays():
  config = tiny.tiny_config('')
  model = Model(config, {'a': jnp.zeros(2), 'b': {'c': jnp.ones(3)}})
  made = []

  def make():
    made.append(len(made))
    return made[-1]

  assert [model.kept('x', make), model.kept('x', make)] == [0, 0]
  assert model.kept('y', make) == 1
  model.params['b']['c'] = jnp.ones(3)
  assert model.kept('x', make) == 2
  model.params['d'] = jnp.ones(3)
  assert model.kept('x', make) == model.kept('x', make) == 3


def test_a_model_without_a_tokenizer_says_so():
  config = tiny.tiny_config('')
  with pytest.raises(ArgumentError, match='no tokenizer'):
    _ = Model(config, {}).tokenizer
