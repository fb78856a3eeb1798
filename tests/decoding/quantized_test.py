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
"""Tests of decoding with int8 weights, and with int8 keys and values."""

import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.generate import generate
from eejax.decoding.loop import programs
from eejax.decoding.loop.cache import BatchSettings
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.evaluation.heads import run_heads
from eejax.ops.quant import Quantization, Quantized, dequantize
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling
from eejax.testing import tiny

INT8 = Quantization.INT8
EXITS = '1:norm:gate,2:mlp:gate,3:block'


def early(*thresholds, **fields):
  return Policy(Mode.EARLY_EXIT, 'max_prob', thresholds, **fields)


def restored(prepared):
  """Return the same model with float kernels in place of int8 ones."""
  is_quantized = lambda leaf: isinstance(leaf, Quantized)
  # Int8 matrices lie by input, others by output.
  restore = lambda leaf: (
    dequantize(leaf, axes=(0,)).T if is_quantized(leaf) else leaf
  )
  blocks = jax.tree.map(restore, prepared.blocks, is_leaf=is_quantized)
  return prepared.replace(blocks=blocks)


# MARK: Weights


@pytest.mark.parametrize(
  'policy',
  [
    Policy(),
    early(0.35, 0.4, 0.5, window=2),
    early(0.35, 0.4, 0.5, kv_strategy=KVStrategy.PROPAGATE),
    early(0.35, 0.4, 0.5, window=2, batching=Batching.DEPTH_QUEUE),
    Policy(Mode.SPECULATIVE, 'max_prob', (0.2,), draft_length=1),
  ],
  ids=['full', 'deferred', 'propagate', 'depth_queue', 'speculative'],
)
def test_int8_weights_decode_as_what_they_stand_for(lively, prompts, policy):
  config, params = lively(EXITS, seed=3, qkv_bias=True, qk_norm=True)
  small = prepare(params, config=config, quantization=INT8)
  decode = lambda model: generate(
    model, config=config, prompts=prompts, policy=policy, max_new_tokens=12
  )
  found, wanted = decode(small), decode(restored(small))
  for ours, theirs in zip(found.rows, wanted.rows, strict=True):
    assert ours.tokens == theirs.tokens
    assert ours.exit_depths == theirs.exit_depths
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_int8_weights_are_as_small_as_they_should_be(dtype):
  config = tiny.tiny_config('', embed_dim=64, mlp_dim=160, head_dim=16)
  params = tiny.tiny_params(config)
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  made = lambda quantization: prepare(
    params, config=config, dtype=dtype, quantization=quantization
  )
  plain, small = made(Quantization.NONE), made(INT8)
  width = jnp.dtype(dtype).itemsize
  d, f, n, k, h = 64, 160, 4, 2, 16
  weights = d * (n + 2 * k) * h + n * h * d + 3 * d * f
  channels = (n + 2 * k) * h + d + 2 * f + d
  norms = 2 * d
  assert size(plain.blocks) == 4 * width * (weights + norms)
  assert size(small.blocks) == 4 * (weights + 4 * channels + width * norms)
  if dtype == jnp.float32:
    assert size(small.blocks) / size(plain.blocks) < 0.27
  rest = lambda x: (x.table, x.kernels, x.final_norm)
  jax.tree.map(np.testing.assert_array_equal, rest(plain), rest(small))


# MARK: Keys and values


def prepared(model, *, kv_quantization=INT8):
  config, params = model
  return prepare(params, config=config, kv_quantization=kv_quantization)


def decoded(model, prompts, policy, *, num_tokens=14):
  found = generate(
    prepared(model),
    config=model[0],
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
  )
  return [(row.tokens, row.exit_depths) for row in found.rows]


def full_pass(model, texts, kv_quantization):
  """Return the likeliest token after each of some texts, from one pass."""
  config, params = model
  tokens = np.zeros((len(texts), max(map(len, texts))), np.int32)
  for row, text in enumerate(texts):
    tokens[row, : len(text)] = text  # padding is behind what is looked at

  @jax.jit
  def likeliest(params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    ready = run_heads(
      params,
      {
        'tokens': tokens,
        'positions': positions,
        'segment_ids': jnp.ones_like(tokens),
      },
      config=config,
      kv_quantization=kv_quantization,
    )
    head = ready.heads[-1]
    return (head.hidden @ head.kernel).argmax(axis=-1)

  return np.asarray(likeliest(params, jnp.asarray(tokens)))


def test_int8_caches_show_what_a_rounded_full_pass_does(lively, prompts):
  # Heads are 6 wide, so texts of a model this lively change.
  model = lively(EXITS, seed=3)
  found = decoded(model, prompts, Policy())
  exact = decoded_with_float(model, prompts)
  assert [tokens for tokens, _ in found] != exact
  texts = [
    [*prompt, *tokens]
    for prompt, (tokens, _) in zip(prompts, found, strict=True)
  ]
  rows = full_pass(model, texts, INT8)
  for prompt, text, row in zip(prompts, texts, rows, strict=True):
    ours = slice(len(prompt) - 1, len(text) - 1)
    assert text[len(prompt) :] == row[ours].tolist()


def decoded_with_float(model, prompts):
  found = generate(
    prepared(model, kv_quantization=Quantization.NONE),
    config=model[0],
    prompts=prompts,
    max_new_tokens=14,
  )
  return [row.tokens for row in found.rows]


@pytest.mark.parametrize(
  'policy',
  [
    early(0.35, 0.4, 0.5, window=2),
    early(0.35, 0.4, 0.5, window=2, batching=Batching.DEPTH_QUEUE),
    early(0.35, 0.4, 0.5, window=2, kv_strategy=KVStrategy.RECOMPUTE),
  ],
  ids=['deferred', 'depth_queue', 'recompute'],
)
def test_int8_caches_do_not_depend_on_which_tokens_ran_together(
  lively, prompts, policy
):
  # The reference runs every token alone, through the whole model.
  reference = early(0.35, 0.4, 0.5, window=2, batching=Batching.REFERENCE)
  model = lively(EXITS, seed=3)
  found = decoded(model, prompts, policy)
  assert found == decoded(model, prompts, reference)
  assert len({depth for _, depths in found for depth in depths}) > 2


def test_speculation_loses_nothing_with_int8_caches(lively, prompts):
  model = lively(EXITS, seed=3)
  policy = Policy(Mode.SPECULATIVE, 'max_prob', (0.2,), draft_length=1)
  found = decoded(model, prompts, policy)
  tokens = lambda rows: [row[0] for row in rows]
  assert tokens(found) == tokens(decoded(model, prompts, Policy()))
  assert any(depth < 4 for _, depths in found for depth in depths)


@pytest.mark.parametrize(
  'strategy', [KVStrategy.PROPAGATE, KVStrategy.COPY, KVStrategy.MASK]
)
def test_rows_stay_independent_with_int8_caches(lively, prompts, strategy):
  model = lively(EXITS, seed=3)
  policy = early(0.35, 0.4, 0.5, kv_strategy=strategy)
  together = decoded(model, prompts[:2], policy)
  assert together[1:] == decoded(model, prompts[1:2], policy)


def test_an_engine_serves_from_int8_caches(lively, prompts):
  model = lively(EXITS, seed=3)
  policy = early(0.35, 0.4, 0.5, window=2)
  engine = Engine(
    prepared(model),
    config=model[0],
    policy=policy,
    limits=EngineLimits(slots=2, max_length=32),
    method=SamplingMethod.GREEDY,
  )
  tickets = [engine.submit(p, max_new_tokens=14) for p in prompts]
  while not engine.is_idle:
    engine.step()
  rows = [engine.result(ticket) for ticket in tickets]
  found = [(row.tokens, row.exit_depths) for row in rows]
  assert found == decoded(model, prompts, policy)


# MARK: Compiled form

_SIZE = 2048
_LARGE = {
  'num_heads': 4,
  'num_kv_heads': 4,
  'head_dim': 64,
  'embed_dim': 256,
  'mlp_dim': 512,
  'max_length': 4096,
}


class Compiled:
  """Compile the loop of full decoding, one token of one row a tick."""

  def __init__(self, **options):
    config = tiny.tiny_config('', **_LARGE)
    params = prepare(tiny.tiny_params(config), config=config, **options)
    plan, _ = make_plan(config, policy=Policy(), method=SamplingMethod.GREEDY)
    request = BatchSettings(
      end_ids=jnp.zeros((1, 0), jnp.int32),
      thresholds=jnp.zeros((1, 0), jnp.float32),
      sampling=row_sampling(SamplingConfig(), seeds=[0]),
    )
    tokens = jnp.array([[3]])
    segments = programs.prefill(
      params, tokens, jnp.array([1]), plan=plan, size=_SIZE
    )
    state = programs.first_state(
      params,
      request,
      segments,
      plan=plan,
      size=_SIZE,
      prompts=tokens,
      tokens=tokens[0],
      live=jnp.ones(1, bool),
      remaining=jnp.ones(1, jnp.int32),
    )
    self.caches = jax.tree.leaves((segments[0].keys, segments[0].values))
    jaxtyping.config.update('jaxtyping_disable', True)
    try:
      program = programs.decode_chunk.lower(
        params, request, state, jnp.int32(1), plan=plan, capacity=32
      ).compile()
    finally:
      jaxtyping.config.update('jaxtyping_disable', False)
    self.memory, self.text = program.memory_analysis(), program.as_text()


def test_no_weights_are_dequantised_in_the_loop():
  kernel = 256 * 2 * 512  # the largest of four in each of four blocks
  blocks = 4 * (kernel + 512 * 256 + 256 * 12 * 64 + 256 * 256)
  program = Compiled(quantization=INT8)
  assert program.memory.temp_size_in_bytes < 1.25 * 4 * kernel < 4 * blocks / 6
  # Slices of them are; whole kernels are nowhere.
  for shape in ('256,1024', '512,256', '256,768'):
    assert f'f32[{shape}]' not in program.text


def test_int8_caches_are_small_and_read_where_they_lie():
  program = Compiled(kv_quantization=INT8)
  numbers = 4 * _SIZE * 64
  # A byte a number, two a token and head; keys and values of four blocks.
  assert sum(x.nbytes for x in program.caches) == 8 * (numbers + 2 * 4 * _SIZE)
  # What stands in the loop is less than one cache in float32, of eight.
  assert program.memory.temp_size_in_bytes < 4 * numbers
  assert program.memory.alias_size_in_bytes >= 8 * numbers  # donated
  assert not re.findall(
    rf's8\[1,4,{_SIZE},64\]\S* (copy|transpose)\(', program.text
  )
