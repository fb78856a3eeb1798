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
"""Test the forward pass with stand-ins against decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.analysis.natural.kv_forward import check_strategy, likeliest_tokens
from eejax.capture.generated_text import generated_batch
from eejax.decoding.generate import generate
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.testing import tiny

PROMPTS = [[5, 6, 7], [8, 9], [11, 4, 4, 10]]
LENGTH = 16
FILLS = [KVStrategy.PROPAGATE, KVStrategy.COPY, KVStrategy.MASK]


@pytest.fixture(scope='module')
def model():
  # Windows, biases and norms of queries, for a block may have them.
  config = tiny.tiny_config(
    '1:norm,3:norm', qk_norm=True, qkv_bias=True, sliding_window=9
  )
  params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config))
  return config, params


def say(model, batch, left, strategy):
  config, params = model
  found = likeliest_tokens(
    params,
    batch.as_dict(),
    np.asarray(left, np.int32),
    config=config.model,
    strategy=strategy,
  )
  return np.asarray(found)


@pytest.mark.parametrize('strategy', [*FILLS, KVStrategy.DEFERRED])
def test_where_nobody_leaves_it_is_a_plain_forward(model, strategy):
  config, params = model
  random = np.random.default_rng(0)
  batch = generated_batch(
    [([3], random.integers(3, 29, LENGTH).tolist())] * 2, rows=2, length=LENGTH
  )
  # A text of two documents, for none may see the other.
  batch.segment_ids[1, 9:] = 2
  batch.positions[1, 9:] -= 9
  wanted = decoder.logits(
    params,
    jnp.asarray(batch.tokens),
    config=config,
    positions=jnp.asarray(batch.positions),
    segment_ids=jnp.asarray(batch.segment_ids),
  )['final']
  found = say(model, batch, np.full((2, LENGTH), 4), strategy)
  np.testing.assert_array_equal(found, np.argmax(wanted, axis=-1))


@pytest.mark.parametrize('strategy', FILLS)
def test_it_says_what_decoding_says_with_the_same_stand_ins(model, strategy):
  config, params = model
  policy = Policy(
    Mode.EARLY_EXIT, 'max_prob', (0.35, 0.5), kv_strategy=strategy
  )
  result = generate(
    params,
    config=config,
    prompts=PROMPTS,
    policy=policy,
    max_new_tokens=LENGTH,
    eos_ids=(),
  )
  texts = [(r.prompt_tokens, r.tokens) for r in result.rows]
  batch = generated_batch(texts, rows=3, length=3 + LENGTH)
  left = np.full(batch.tokens.shape, 4)
  for row, generated in enumerate(result.rows):
    left[row, batch.weights[row] > 0] = generated.exit_depths
  found = say(model, batch, left, strategy)
  at_the_end = (batch.weights > 0) & (left == 4)
  np.testing.assert_array_equal(found[at_the_end], batch.targets[at_the_end])
  # Tokens left early, and the stand-ins show: with exact keys and values the
  # full model would say something else.
  assert (left < 4).sum() > 5 and at_the_end.sum() > 5
  exact = say(model, batch, left, KVStrategy.DEFERRED)
  assert (exact[at_the_end] != batch.targets[at_the_end]).any()


def test_what_cannot_be_written():
  with pytest.raises(ArgumentError, match='monotone writes no stand-ins'):
    check_strategy(KVStrategy.MONOTONE, shallowest=1)
  with pytest.raises(ArgumentError, match='exit at depth 0'):
    check_strategy(KVStrategy.COPY, shallowest=0)
  check_strategy(KVStrategy.COPY, shallowest=1)
