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
"""Test that the tiny models are usable, deterministic and telling."""

import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from eejax.config import ExitHeadKind, GateKind, OutputMatrix
from eejax.models import decoder
from eejax.testing import tiny


def test_every_dimension_differs():
  c = tiny.tiny_model_config()
  sizes = [c.vocab_size, c.num_layers, c.embed_dim, c.num_kv_heads]
  sizes += [c.head_dim, c.mlp_dim, c.max_length, c.num_heads * c.head_dim]
  assert len(set(sizes)) == len(sizes)


def test_overrides_and_exits():
  config = tiny.tiny_config('2:norm', num_layers=3)
  assert config.model.num_layers == 3
  assert config.exit_depths == (2,)
  assert tiny.tiny_config('').exits == ()


def test_every_kind_is_there():
  exits = tiny.tiny_exits(tiny.EVERY_KIND_OF_EXIT)
  assert {e.head for e in exits} == set(ExitHeadKind)
  assert {e.output for e in exits} == set(OutputMatrix)
  assert {e.gate for e in exits} == set(GateKind)


def test_parameters_repeat_and_run(tiny_config, tiny_params, tiny_tokens):
  again = tiny.tiny_params(tiny_config)
  jax.tree.map(np.testing.assert_array_equal, tiny_params, again)
  other = tiny.tiny_params(tiny_config, seed=1)
  assert not np.array_equal(
    other['backbone']['embedding']['table'],
    tiny_params['backbone']['embedding']['table'],
  )
  outputs = decoder.logits(tiny_params, tiny_tokens, config=tiny_config)
  assert len(outputs) == 4
  for value in outputs.values():
    assert value.shape == (2, 7, 29)
    assert np.isfinite(value).all()


def test_scales_are_not_all_one(tiny_params):
  scale = tiny_params['backbone']['final_norm']['scale']
  assert not np.allclose(scale, 1)


def test_tokens_are_in_the_vocabulary(tiny_config, tiny_tokens):
  assert tiny_tokens.min() >= 3
  assert tiny_tokens.max() < tiny_config.model.vocab_size


class TestSettings:
  """The settings of `conftest.py` and `setup.cfg` are really in force."""

  def test_shapes_are_checked_in_calls_into_the_package(self, tiny_config):
    with pytest.raises(jaxtyping.TypeCheckError):
      decoder.embed(
        {'embedding': {'table': jnp.zeros((5, 3))}},
        jnp.zeros((2, 3, 4), jnp.int32),
        positions=jnp.zeros((2, 3), jnp.int32),
        config=tiny_config.model,
        dtype=jnp.float32,
      )

  def test_ranks_are_not_promoted(self):
    with pytest.raises(ValueError, match='rank'):
      jnp.zeros((2, 3)) + jnp.zeros(3)

  def test_there_are_eight_devices(self):
    assert jax.device_count() == 8
    assert jax.devices()[0].platform == 'cpu'

  def test_a_warning_is_an_error(self):
    with pytest.raises(UserWarning):
      warnings.warn('unexpected', stacklevel=1)

  def test_a_deprecated_call_is_an_error_where_it_is_ours(self):
    def warn(module):
      warnings.warn_explicit('old', DeprecationWarning, 'x.py', 1, module)

    for ours in ('eejax', 'eejax.models.decoder', 'tests.cli.main_test'):
      with pytest.raises(DeprecationWarning):
        warn(ours)
    warn('tensorflow.python')
