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
"""Tests of exit heads and gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.config import ExitConfig, GateKind, parse_exits
from eejax.models import decoder
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  gate_logit,
  init_exit,
  output_kernel,
)
from eejax.testing import tiny

MODEL = tiny.tiny_model_config()


def _inputs(key):
  shape = (2, 5, MODEL.embed_dim)
  draw = lambda k: jax.random.normal(k, shape)
  return ExitInput(*(draw(k) for k in jax.random.split(key, 3)))


def _apply(exit_, params, inputs):
  positions = jnp.broadcast_to(jnp.arange(5), (2, 5))
  return apply_exit_head(
    params, inputs, exit=exit_, config=MODEL, positions=positions
  )


def test_an_mlp_exit_is_the_twin_of_the_mlp_below_it(key):
  (exit_,) = parse_exits('2:mlp')
  inputs = _inputs(key)
  params = init_exit(key, exit=exit_, config=MODEL)
  z = _apply(exit_, params, inputs).hidden
  mlp = params['mlp']
  u = inputs.mlp_input
  gated = jax.nn.silu(u @ mlp['gate']['kernel']) * (u @ mlp['up']['kernel'])
  stream = inputs.mlp_residual + gated @ mlp['down']['kernel']
  rms = jnp.sqrt(jnp.mean(stream**2, axis=-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(z, stream / rms, atol=1e-5)


@pytest.mark.parametrize(
  'text, reads', [('2:mlp', 'mlp'), ('2:norm', 'hidden'), ('2:block', 'hidden')]
)
def test_a_head_reads_only_what_it_says(key, text, reads):
  (exit_,) = parse_exits(text)
  params = init_exit(key, exit=exit_, config=MODEL)
  inputs = _inputs(key)
  if reads == 'mlp':
    inputs = inputs.replace(hidden=None)
  else:
    inputs = inputs.replace(mlp_residual=None, mlp_input=None)
  assert jnp.all(jnp.isfinite(_apply(exit_, params, inputs).hidden))


def test_only_a_block_head_returns_keys_and_values(key):
  for text in ('1:embedding', '1:norm', '1:mlp', '1:bottleneck_mlp(3)'):
    (exit_,) = parse_exits(text)
    params = init_exit(key, exit=exit_, config=MODEL)
    assert _apply(exit_, params, _inputs(key)).keys is None
  (exit_,) = parse_exits('1:block')
  params = init_exit(key, exit=exit_, config=MODEL)
  out = _apply(exit_, params, _inputs(key))
  assert out.keys.shape == (2, MODEL.num_kv_heads, 5, MODEL.head_dim)


def test_a_block_head_knows_positions(key):
  """EE-LLM trains its block exits without rotary positions; ours have them."""
  (exit_,) = parse_exits('1:block')
  params = init_exit(key, exit=exit_, config=MODEL)
  inputs = _inputs(key)
  near, far = (
    apply_exit_head(
      params,
      inputs,
      exit=exit_,
      config=MODEL,
      positions=jnp.broadcast_to(jnp.arange(5) * step, (2, 5)),
    ).hidden
    for step in (1, 7)
  )
  assert not np.allclose(near[:, 1:], far[:, 1:], atol=1e-6)
  np.testing.assert_allclose(near[:, 0], far[:, 0], atol=1e-6)


@pytest.mark.parametrize('kind', [GateKind.LINEAR, GateKind.MLP])
def test_a_fresh_gate_is_undecided_and_can_learn(key, kind):
  exit_ = ExitConfig(2, gate=kind)
  params = init_exit(key, exit=exit_, config=MODEL)
  hidden = _inputs(key).hidden
  run = lambda p: gate_logit(p, hidden, exit=exit_, config=MODEL)
  np.testing.assert_array_equal(run(params), 0.0)
  gradient = jax.grad(lambda p: jnp.sum(run(p)[0]))(params)['gate']
  assert jnp.abs(gradient['output']['kernel']).max() > 0


def test_output_matrices():
  config = tiny.tiny_config('1:norm:untied,2:norm:tied_embedding,3:norm')
  params = tiny.tiny_params(config)
  kernel = lambda e: output_kernel(params, exit=e, config=config.model)
  untied, embedding, shared = (kernel(e) for e in config.exits)
  table = params['backbone']['embedding']['table']
  np.testing.assert_array_equal(
    untied, params['exits']['exit_1']['output']['kernel']
  )
  np.testing.assert_array_equal(embedding, table.T)
  np.testing.assert_array_equal(shared, kernel(None))
  assert not np.array_equal(shared, table.T)


def test_a_tied_model_shares_its_table():
  config = tiny.tiny_config('3:norm', tied_head=True)
  params = tiny.tiny_params(config)
  assert 'head' not in params['backbone']
  for e in (config.exits[0], None):
    np.testing.assert_array_equal(
      output_kernel(params, exit=e, config=config.model),
      params['backbone']['embedding']['table'].T,
    )


def test_dropping_an_exit_changes_no_other(tiny_tokens):
  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)
  params = tiny.tiny_params(config)
  whole = decoder.logits(params, tiny_tokens, config=config)
  for gone in config.exits:
    rest = config.with_exits(tuple(e for e in config.exits if e != gone))
    exits = {k: v for k, v in params['exits'].items() if k != gone.name}
    got = decoder.logits({**params, 'exits': exits}, tiny_tokens, config=rest)
    assert gone.name not in got
    for name, values in got.items():
      np.testing.assert_array_equal(values, whole[name])
