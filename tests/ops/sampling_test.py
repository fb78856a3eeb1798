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
"""Tests of token choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.ops import sampling
from eejax.ops.sampling import SamplingConfig, SamplingMethod

LOGITS = np.log(np.array([[0.1, 0.4, 0.05, 0.3, 0.15]], np.float32))


def allowed(config, logits=LOGITS):
  rows = sampling.row_sampling(config, seeds=range(len(logits)))
  kept = sampling.filtered(jnp.asarray(logits), sampling=rows)
  return [np.flatnonzero(np.isfinite(row)).tolist() for row in kept]


def draw(config, *, seeds, logits=LOGITS, position=0, method=None):
  rows = sampling.row_sampling(config, seeds=seeds)
  tokens = sampling.choose(
    jnp.broadcast_to(jnp.asarray(logits), (len(seeds), logits.shape[-1])),
    method=method or config.method,
    sampling=rows,
    positions=jnp.full((len(seeds),), position, jnp.int32),
  )
  return np.asarray(tokens)


def test_greedy_takes_the_first_of_equals():
  logits = jnp.array([[0.0, 3.0, 3.0], [-1.0, -2.0, -1.0]])
  assert sampling.greedy(logits).tolist() == [1, 0]


def test_greedy_stays_inside_the_vocabulary_without_a_maximum():
  assert sampling.greedy(jnp.array([[0.0, jnp.nan, 1.0]])).tolist() == [2]


@pytest.mark.parametrize(
  'config, expected',
  [
    (SamplingConfig(1.0), [0, 1, 2, 3, 4]),
    (SamplingConfig(1.0, top_k=1), [1]),
    (SamplingConfig(1.0, top_k=3), [1, 3, 4]),
    (SamplingConfig(1.0, top_k=99), [0, 1, 2, 3, 4]),
    (SamplingConfig(1.0, top_p=0.39), [1]),
    (SamplingConfig(1.0, top_p=0.6), [1, 3]),
    (SamplingConfig(1.0, top_p=0.999), [0, 1, 2, 3, 4]),
    (SamplingConfig(1.0, min_p=0.3), [1, 3, 4]),
    # Of the two that top-k leaves, 0.4 / 0.7 > 0.5 is enough for top-p.
    (SamplingConfig(1.0, top_k=2, top_p=0.5), [1]),
    (SamplingConfig(1.0, top_p=0.8, min_p=0.5), [1, 3]),
  ],
)
def test_filters_by_hand(config, expected):
  assert allowed(config) == [expected]


def test_top_k_equals_a_sort_on_random_rows():
  logits = np.random.default_rng(0).normal(size=(4, 203)).astype(np.float32)
  for k in (1, 7, 202):
    expected = [sorted(np.argsort(row)[-k:].tolist()) for row in logits]
    assert allowed(SamplingConfig(1.0, top_k=k), logits) == expected


def test_top_p_equals_a_sort_on_random_rows():
  logits = np.random.default_rng(1).normal(size=(4, 203)).astype(np.float32)
  for p in (0.1, 0.5, 0.93):
    expected = []
    for row in logits:
      order = np.argsort(-row)
      probabilities = np.exp(row[order]) / np.exp(row).sum()
      count = int(np.searchsorted(np.cumsum(probabilities), p)) + 1
      expected.append(sorted(order[:count].tolist()))
    assert allowed(SamplingConfig(1.0, top_p=p), logits) == expected


def test_filters_survive_infinite_logits_and_ties():
  logits = np.array([[-np.inf, 2.0, 2.0, -np.inf]], np.float32)
  assert allowed(SamplingConfig(1.0, top_k=1), logits) == [[1, 2]]
  assert allowed(SamplingConfig(1.0, top_p=0.4), logits) == [[1, 2]]


def test_rows_have_their_own_settings():
  rows = sampling.RowSampling(
    temperature=jnp.ones(3),
    top_k=jnp.array([1, 0, 0]),
    top_p=jnp.array([1.0, 0.6, 1.0]),
    min_p=jnp.zeros(3),
    seed=jnp.zeros(3, jnp.int32),
  )
  logits = jnp.broadcast_to(jnp.asarray(LOGITS), (3, 5))
  kept = np.isfinite(sampling.filtered(logits, sampling=rows))
  assert kept.sum(-1).tolist() == [1, 2, 5]


def test_random_draws_follow_the_distribution():
  count = 4000
  tokens = draw(SamplingConfig(1.0), seeds=range(count))
  frequencies = np.bincount(tokens, minlength=5) / count
  # Four standard deviations of the commonest token's share.
  np.testing.assert_allclose(frequencies, np.exp(LOGITS[0]), atol=0.031)


def test_temperature_sharpens():
  tokens = draw(SamplingConfig(0.5), seeds=range(4000))
  squares = np.exp(LOGITS[0]) ** 2
  frequencies = np.bincount(tokens, minlength=5) / 4000
  np.testing.assert_allclose(frequencies, squares / squares.sum(), atol=0.032)


def test_temperature_0_is_greedy_in_a_random_program():
  config = SamplingConfig(0.0)
  assert config.method is SamplingMethod.GREEDY
  tokens = draw(config, seeds=range(9), method=SamplingMethod.RANDOM)
  assert set(tokens.tolist()) == {1}


def test_a_draw_depends_on_its_seed_and_position_alone():
  config = SamplingConfig(1.0)
  together = draw(config, seeds=range(64))
  alone = [draw(config, seeds=[s])[0] for s in (0, 5, 63)]
  assert together[[0, 5, 63]].tolist() == alone
  assert (draw(config, seeds=range(64), position=1) != together).any()


def test_log_probability_is_untempered():
  tokens = jnp.array([3])
  found = sampling.log_probability(jnp.asarray(LOGITS) + 7.0, tokens)
  np.testing.assert_allclose(found, [np.log(0.3)], rtol=1e-5)


def test_settings_are_data_of_the_program():
  traces = []

  @jax.jit
  def run(logits, rows):
    traces.append(1)
    return sampling.choose(
      logits,
      method=SamplingMethod.RANDOM,
      sampling=rows,
      positions=jnp.zeros(1, jnp.int32),
    )

  for config in (SamplingConfig(0.5), SamplingConfig(1.0, 2, 0.5, 0.1)):
    run(jnp.asarray(LOGITS), sampling.row_sampling(config, seeds=[1]))
  assert len(traces) == 1


@pytest.mark.parametrize(
  'fields',
  [
    {'temperature': -1.0},
    {'temperature': float('nan')},
    {'top_k': -1},
    {'top_p': 0.0},
    {'top_p': 1.5},
    {'min_p': -0.1},
    {'logit_bias': {3: float('inf')}},
    {'min_tokens': -1},
  ],
)
def test_settings_out_of_range_are_refused(fields):
  with pytest.raises(ArgumentError):
    SamplingConfig(**fields)


# MARK: What changes logits


def bias_of(config, *, ends=((),), starts=(0,)):
  return sampling.row_bias(
    config,
    end_ids=sampling.end_table(ends),
    starts=starts,
    vocab_size=5,
  )


def test_bias_is_added_and_end_tokens_wait():
  config = SamplingConfig(logit_bias={1: 2, 3: -1.5}, min_tokens=2)
  bias = bias_of(config, ends=[(4, 0), (2,)], starts=[7, 9])
  changed = lambda *positions: np.asarray(
    sampling.biased(jnp.zeros((2, 5)), bias, positions=jnp.array(positions))
  )
  added, never = [0, 2, 0, -1.5, 0], -np.inf
  np.testing.assert_array_equal(
    changed(8, 10), [[never, 2, 0, -1.5, never], [0, 2, never, -1.5, 0]]
  )
  np.testing.assert_array_equal(changed(9, 11), [added, added])


def test_the_likeliest_token_stays_however_small_its_share():
  config = SamplingConfig(1.0, top_p=1e-50)
  tokens = sampling.choose(
    jnp.asarray(LOGITS)[:1],
    method=sampling.SamplingMethod.RANDOM,
    sampling=sampling.row_sampling(config, seeds=[3]),
    positions=jnp.array([4]),
  )
  assert tokens.tolist() == [int(np.argmax(LOGITS[0]))]


def test_end_tokens_may_wait_beyond_every_text():
  bias = bias_of(SamplingConfig(min_tokens=2**40), ends=[(4,)], starts=[7])
  found = sampling.biased(jnp.zeros((1, 5)), bias, positions=jnp.array([2**30]))
  assert found[0, 4] == -np.inf


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_bias_decides_what_is_chosen(temperature):
  config = SamplingConfig(temperature, logit_bias={2: 1000.0})
  logits = jnp.asarray(LOGITS)[:1]
  tokens = sampling.choose(
    logits,
    method=sampling.SamplingMethod.RANDOM,
    sampling=sampling.row_sampling(config, seeds=[3]),
    positions=jnp.array([4]),
    bias=bias_of(config),
  )
  assert tokens.tolist() == [2]


def test_nothing_is_changed_where_nobody_asks():
  assert bias_of(SamplingConfig(1.0, stop_token_ids=(3,))) is None


def test_end_tokens_of_a_request():
  ends = lambda **fields: SamplingConfig(**fields).end_ids([2, 3])
  assert ends() == (2, 3)
  assert ends(stop_token_ids=[5, 3]) == (2, 3, 5)
  assert ends(ignore_eos=True) == ()
  assert ends(ignore_eos=True, stop_token_ids=[5]) == (5,)


def test_top_log_probabilities_are_untempered_and_ordered():
  top = sampling.top_log_probabilities(jnp.asarray(LOGITS) + 7.0, count=3)
  every = jax.nn.log_softmax(jnp.asarray(LOGITS))
  order = np.argsort(-np.asarray(every), axis=-1, kind='stable')[:, :3]
  assert top.ids.tolist() == order.tolist()
  expected = np.take_along_axis(np.asarray(every), order, axis=-1)
  np.testing.assert_allclose(top.log_probs, expected, atol=1e-6)


def test_configs_that_say_the_same_are_equal():
  one = SamplingConfig(logit_bias={3: 1.0, 1: 2})
  assert one == SamplingConfig(logit_bias=((1, 2.0), (3, 1.0)))
  assert hash(one) == hash(SamplingConfig(logit_bias=one.logit_bias))
