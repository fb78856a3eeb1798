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
"""Tests of the decoder; parity with transformers has a file of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.models import decoder, stacking
from eejax.models.block import Block
from eejax.models.decoder import LayerDropout, Rematerialization
from eejax.models.exits import ExitInput, apply_exit_head, output_kernel
from eejax.models.intermediates import CollectedDepths
from eejax.models.patterns import positions_of
from eejax.ops.softcap import soft_cap
from eejax.testing import tiny

EXITS = tiny.EVERY_KIND_OF_EXIT


@pytest.fixture(scope='module')
def config():
  return tiny.tiny_config(EXITS)


@pytest.fixture(scope='module')
def params(config):
  return tiny.tiny_params(config)


@pytest.fixture(scope='module')
def tokens(config):
  return tiny.tiny_tokens(config)


def embedded(backbone, tokens, config):
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return decoder.embed(
    backbone,
    tokens,
    positions=positions,
    config=config.model,
    dtype=jnp.float32,
  )


def _in_turn(params, tokens, config):
  """Return what an exit at each depth could read, from blocks in turn."""
  backbone = params['backbone']
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  x = embedded(backbone, tokens, config)
  inputs = {0: ExitInput(hidden=x)}
  for i, block in enumerate(stacking.unstack(backbone['blocks'])):
    out = Block(config.model).apply(
      {'params': block},
      x,
      positions=positions_of(positions, block=i, config=config.model),
      window=config.model.window_of(i),
    )
    inputs[i + 1] = ExitInput(out.hidden, out.mlp_residual, out.mlp_input)
    x = out.hidden
  return inputs


def _logits(params, tokens, config, **options):
  run = jax.jit(lambda p, t: decoder.logits(p, t, config=config, **options))
  return run(params, tokens)


def test_scan_equals_blocks_in_turn(config, params, tokens):
  """Walk the blocks one by one, and apply each exit where it stands."""
  backbone, model = params['backbone'], config.model
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  got = _logits(params, tokens, config)
  inputs = _in_turn(params, tokens, config)
  x = inputs[model.num_layers].hidden
  for e in config.exits:
    ready = apply_exit_head(
      params['exits'].get(e.name, {}),
      inputs[e.depth],
      exit=e,
      config=model,
      positions=positions,
    )
    kernel = output_kernel(params, exit=e, config=model)
    expected = soft_cap(ready.hidden @ kernel, model.logit_softcap)
    np.testing.assert_allclose(got[e.name], expected, atol=1e-5)
  final = decoder.final_hidden(backbone, x, config=model)
  kernel = output_kernel(params, exit=None, config=model)
  expected = soft_cap(final @ kernel, model.logit_softcap)
  np.testing.assert_allclose(got['final'], expected, atol=1e-5)


@pytest.mark.parametrize('kind', tiny.KINDS_OF_BLOCK)
def test_scan_equals_blocks_in_turn_of_every_kind(kind, tokens):
  config = tiny.tiny_config(EXITS, **tiny.KINDS_OF_BLOCK[kind])
  test_scan_equals_blocks_in_turn(config, tiny.tiny_params(config), tokens)


def test_later_tokens_change_nothing_before_them(config, params, tokens):
  changed = tokens.at[:, 4].set((tokens[:, 4] + 1) % config.model.vocab_size)
  before, after = (_logits(params, t, config) for t in (tokens, changed))
  for name in before:
    np.testing.assert_array_equal(before[name][:, :4], after[name][:, :4])
    assert not np.allclose(before[name][:, 4:], after[name][:, 4:])


def test_packed_texts_equal_texts_alone(config, params, tokens):
  first, second = tokens[:1, :3], tokens[1:2, :4]
  packed = _logits(
    params,
    jnp.concatenate([first, second], axis=1),
    config,
    positions=jnp.array([[0, 1, 2, 0, 1, 2, 3]]),
    segment_ids=jnp.array([[1, 1, 1, 2, 2, 2, 2]]),
  )
  for name, alone in _logits(params, second, config).items():
    np.testing.assert_allclose(packed[name][:, 3:], alone, atol=1e-5)


def test_an_exit_depends_on_no_block_above_it(config, params, tokens):
  poisoned = jax.tree.map(lambda leaf: leaf, params)
  blocks = params['backbone']['blocks']
  poisoned['backbone']['blocks'] = jax.tree.map(
    lambda leaf: leaf.at[2:].set(jnp.nan), blocks
  )
  got, clean = (_logits(p, tokens, config) for p in (poisoned, params))
  for name in ('exit_0', 'exit_1', 'exit_2'):
    np.testing.assert_array_equal(got[name], clean[name])
  assert np.isnan(got['exit_3']).all()


def test_a_truncated_stack_gives_the_same_exits(params, tokens):
  config = tiny.tiny_config('1:norm:gate,2:mlp:untied:mlp_gate')
  backbone = stacking.truncate(params, depth=2)['backbone']
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

  def run(backbone):
    x = embedded(backbone, tokens, config)
    return decoder.run_blocks(
      backbone, x, config=config, positions=positions
    ).exit_inputs

  short, full = run(backbone), run(params['backbone'])
  jax.tree.map(np.testing.assert_array_equal, short, full)


def test_streams_that_are_asked_for_are_returned(config, params, tokens):
  config = config.with_exits(config.exits[:1])
  inputs = _in_turn(params, tokens, config)
  run = functools.partial(
    decoder.run_blocks,
    params['backbone'],
    inputs[0].hidden,
    config=config,
    positions=jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
  )
  out = run(collect=CollectedDepths(streams=(0, 2, 3), residuals=(1, 3)))
  assert (set(out.streams), set(out.residuals)) == ({0, 2, 3}, {1, 3})
  for depth, stream in out.streams.items():
    np.testing.assert_allclose(stream, inputs[depth].hidden, atol=1e-5)
  for depth, stream in out.residuals.items():
    np.testing.assert_allclose(stream, inputs[depth].mlp_residual, atol=1e-5)
  assert set(out.exit_inputs) == {e.name for e in config.exits}
  with pytest.raises(ArgumentError, match='depth 5 lies beyond the 4 blocks'):
    run(collect=CollectedDepths(residuals=(5,)))


def test_an_exit_beyond_the_stack_is_refused(params, config, tokens):
  backbone = stacking.truncate(params, depth=2)['backbone']
  with pytest.raises(ArgumentError, match='depth 4 lies beyond the 2 blocks'):
    decoder.run_blocks(
      backbone,
      embedded(backbone, tokens, config),
      config=config,
      positions=jnp.zeros(tokens.shape, jnp.int32),
    )


@pytest.mark.parametrize(
  'mode', [Rematerialization.BLOCK, Rematerialization.DOTS]
)
def test_rematerialization_changes_no_gradient(config, params, tokens, mode):
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

  def loss(backbone, mode):
    out = decoder.run_blocks(
      backbone,
      embedded(backbone, tokens, config),
      config=config,
      positions=positions,
      rematerialization=mode,
    )
    streams = [i.hidden for i in out.exit_inputs.values()]
    return sum(jnp.sum(jnp.square(s)) for s in [*streams, out.hidden])

  grad = jax.jit(jax.grad(loss), static_argnums=1)
  plain = grad(params['backbone'], Rematerialization.NONE)
  lean = grad(params['backbone'], mode)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    plain,
    lean,
  )


def test_tapping_exits_keeps_no_copy_per_block_for_the_backward_pass():
  """Temp memory may grow by a block's own residuals, not by the buffers."""

  def temp(num_layers):
    config = tiny.tiny_config('1:norm,2:norm,3:norm', num_layers=num_layers)
    params = jax.eval_shape(
      lambda k: decoder.init(config, k), jax.random.key(0)
    )
    tokens = jax.ShapeDtypeStruct((8, 48), jnp.int32)

    def loss(backbone, tokens):
      out = decoder.run_blocks(
        backbone,
        embedded(backbone, tokens, config),
        config=config,
        positions=jnp.zeros(tokens.shape, jnp.int32),
        rematerialization=Rematerialization.BLOCK,
      )
      return sum(jnp.sum(i.hidden) for i in out.exit_inputs.values())

    compiled = jax.jit(jax.grad(loss)).lower(params['backbone'], tokens)
    return compiled.compile().memory_analysis().temp_size_in_bytes

  stream = 8 * 48 * 16 * 4
  assert (temp(32) - temp(16)) / 16 < 3 * stream


def test_layer_dropout_skips_whole_blocks_by_row(params, tokens):
  config = tiny.tiny_config('')
  backbone = params['backbone']

  def run(rates):
    return decoder.run_blocks(
      backbone,
      embedded(backbone, tokens, config),
      config=config,
      positions=jnp.zeros(tokens.shape, jnp.int32),
      layer_dropout=LayerDropout(jnp.array(rates), jax.random.key(3)),
    ).hidden

  x = embedded(backbone, tokens, config)
  np.testing.assert_array_equal(run([1.0] * 4), x)
  plain = decoder.run_blocks(
    backbone,
    x,
    config=config,
    positions=jnp.zeros(tokens.shape, jnp.int32),
  ).hidden
  np.testing.assert_allclose(run([0.0] * 4), plain, atol=1e-6)


def test_bfloat16_stays_near_float32(config, params, tokens):
  wide = _logits(params, tokens, config)
  narrow = _logits(params, tokens, config, dtype=jnp.bfloat16)
  for name in wide:
    assert narrow[name].dtype == jnp.bfloat16
    difference = jnp.abs(narrow[name].astype(jnp.float32) - wide[name])
    assert difference.max() < 0.05 * jnp.abs(wide[name]).max()


def test_sliding_window_spares_full_attention_blocks(params, tokens):
  """With every block sliding, a far token reaches fewer outputs."""
  reach = {}
  for full in (0, 4):
    config = tiny.tiny_config('', sliding_window=2, full_attention_blocks=full)
    changed = tokens.at[:, 0].set((tokens[:, 0] + 1) % 29)
    a, b = (_logits(params, t, config)['final'] for t in (tokens, changed))
    reach[full] = int(jnp.sum(jnp.any(a != b, axis=(0, 2))))
  # Four blocks that see two tokens pass a change on by four positions.
  assert reach == {0: 5, 4: 7}
