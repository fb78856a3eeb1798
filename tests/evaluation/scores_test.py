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
"""Test logged scores against whole logits."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.data.batch import Batch
from eejax.decoding.policy.criteria import Evidence, get_criterion
from eejax.errors import ArgumentError
from eejax.evaluation.scores import ExitScores, collect_scores
from eejax.models import decoder
from eejax.testing import tiny


def make_batch(config, *, rows=3, length=8, padded=0, seed=0):
  random = np.random.default_rng(seed)
  ids = random.integers(3, config.model.vocab_size, (rows, length + 1))
  ones = np.ones((rows, length))
  ones[-1, length - padded :] = 0
  return Batch(
    tokens=ids[:, :-1].astype(np.int32),
    targets=ids[:, 1:].astype(np.int32),
    weights=ones.astype(np.float32),
    positions=(np.arange(length) * np.ones_like(ones)).astype(np.int32),
    segment_ids=ones.astype(np.int32),
  )


@pytest.mark.parametrize('chunk_size', [7, 1024])
def test_scores_equal_whole_logits(chunk_size):
  config = tiny.tiny_config('1:norm:gate,2:mlp:mlp_gate,3:block:untied:gate')
  params = tiny.tiny_params(config)
  batch = make_batch(config, padded=2)
  names = ('gate', 'max_prob', 'margin', 'entropy')
  found = collect_scores(
    params, [batch], config=config, criteria=names, chunk_size=chunk_size
  )
  logits = decoder.logits(
    params,
    jnp.asarray(batch.tokens),
    config=config,
    segment_ids=jnp.asarray(batch.segment_ids),
  )
  final = jnp.argmax(logits['final'], -1)
  for i, exit in enumerate(config.exits):
    agree = jnp.argmax(logits[exit.name], -1) == final
    np.testing.assert_array_equal(found['gate'].agree[i], agree)
    for name in names[1:]:
      score = get_criterion(name).score(Evidence(logits=logits[exit.name]))
      np.testing.assert_allclose(found[name].scores[i], score, atol=1e-5)
  assert found['gate'].num_tokens == 22
  assert found['gate'].depths == (1, 2, 3)
  assert ((found['gate'].scores > 0) & (found['gate'].scores < 1)).all()
  assert not np.allclose(found['gate'].scores[0], found['gate'].scores[1])


def test_exits_are_compared_with_those_before_them():
  config = tiny.tiny_config('1:norm:gate,2:mlp:gate,3:norm')
  params = tiny.tiny_params(config)
  batch = make_batch(config)
  names = ('js', 'kl', 'patience(1)', 'cosine', 'static(2)', 'schedule(4)')
  found = collect_scores(
    params, [batch], config=config, criteria=names, chunk_size=7
  )
  logits = decoder.logits(
    params,
    jnp.asarray(batch.tokens),
    config=config,
    segment_ids=jnp.asarray(batch.segment_ids),
  )
  by_exit = [logits[e.name] for e in config.exits]
  for name in names[:4]:
    assert not found[name].scores[0].any()
  for i in (1, 2):
    evidence = Evidence(
      logits=by_exit[i],
      previous_logits=by_exit[i - 1],
      has_previous=jnp.ones(batch.tokens.shape, bool),
    )
    for name in ('js', 'kl'):
      score = get_criterion(name).score(evidence)
      np.testing.assert_allclose(found[name].scores[i], score, atol=1e-5)
    same = jnp.argmax(by_exit[i], -1) == jnp.argmax(by_exit[i - 1], -1)
    np.testing.assert_array_equal(found['patience(1)'].scores[i], same)
  assert (found['cosine'].scores[1:] > 0).all()
  static = found['static(2)'].scores
  assert static[:, 0, 0].tolist() == [0, 1, 1]
  # 4, 3, 2, 1 and then 0 blocks are asked for as the row goes on.
  falling = found['schedule(4)'].scores[0, 0]
  assert falling.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
  'name, message',
  [('cosine', 'depth 2 is not given'), ('stable', 'is an oracle')],
)
def test_what_has_no_score_along_a_text_is_refused(name, message):
  config = tiny.tiny_config('1:norm,2:mlp')
  with pytest.raises(ArgumentError, match=message):
    collect_scores(
      tiny.tiny_params(config),
      [make_batch(config)],
      config=config,
      criteria=[name],
    )


def test_batches_are_joined_row_by_row(tiny_config, tiny_params):
  batches = [make_batch(tiny_config, seed=s) for s in range(2)]
  both = collect_scores(
    tiny_params, batches, config=tiny_config, criteria=['max_prob']
  )['max_prob']
  second = collect_scores(
    tiny_params, batches[1:], config=tiny_config, criteria=['max_prob']
  )['max_prob']
  assert both.scores.shape == (3, 6, 8)
  np.testing.assert_allclose(both.scores[:, 3:], second.scores, atol=1e-6)


def test_a_missing_gate_is_an_error(tiny_config, tiny_params):
  with pytest.raises(ArgumentError, match='no.* at depths 1, 2'):
    collect_scores(
      tiny_params,
      [make_batch(tiny_config)],
      config=tiny_config,
      criteria=['gate'],
    )


def test_a_model_without_exits_is_an_error():
  config = tiny.tiny_config('')
  with pytest.raises(ArgumentError, match='no exits'):
    collect_scores(
      tiny.tiny_params(config),
      [make_batch(config)],
      config=config,
      criteria=['max_prob'],
    )


def test_no_text_is_an_error(tiny_config, tiny_params):
  with pytest.raises(ArgumentError, match='no text'):
    collect_scores(tiny_params, [], config=tiny_config, criteria=['margin'])


class TestHalves:
  def scores(self, counted):
    rows = len(counted)
    values = np.arange(rows, dtype=np.float32)[None, :, None] * np.ones(
      (1, 1, 2), np.float32
    )
    present = np.asarray(counted)[:, None] & np.ones((1, 2), bool)
    return ExitScores('gate', (1,), 2, values, values > 0, present)

  def test_no_row_is_in_both(self):
    one, other = self.scores([True] * 5).halves()
    assert one.scores[0, :, 0].tolist() == [0, 2, 4]
    assert other.scores[0, :, 0].tolist() == [1, 3]

  def test_empty_rows_are_in_neither(self):
    one, other = self.scores([True, False, True]).halves()
    assert (one.num_tokens, other.num_tokens) == (2, 2)

  def test_one_row_cannot_be_halved(self):
    with pytest.raises(ArgumentError, match='give more text'):
      self.scores([True, False]).halves()
