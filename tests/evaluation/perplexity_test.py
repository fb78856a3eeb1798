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
"""Test the quality of every head against whole logits in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, EejaxError
from eejax.evaluation import perplexity
from eejax.models import decoder
from eejax.testing import tiny


def make_batch(config, *, seed=0, rows=3, length=8, padded=0):
  random = np.random.default_rng(seed)
  ids = random.integers(3, config.model.vocab_size, (rows, length + 1))
  weights = np.ones((rows, length), np.float32)
  segments = np.ones((rows, length), np.int32)
  if padded:
    weights[-1, -padded:] = 0
    segments[-1, -padded:] = 0
  positions = np.broadcast_to(np.arange(length), (rows, length))
  return Batch(
    tokens=ids[:, :-1].astype(np.int32),
    targets=ids[:, 1:].astype(np.int32),
    weights=weights,
    positions=positions.astype(np.int32),
    segment_ids=segments,
  )


def by_hand(params, batch, config):
  """Return loss, accuracy and agreement of every head from whole logits."""
  logits = decoder.logits(
    params,
    jnp.asarray(batch.tokens),
    config=config,
    positions=jnp.asarray(batch.positions),
    segment_ids=jnp.asarray(batch.segment_ids),
  )
  kept = batch.weights > 0
  final = np.argmax(logits['final'], -1)[kept]
  rows = {}
  for name, value in logits.items():
    log_probs = np.asarray(jax.nn.log_softmax(value))
    loss = -np.take_along_axis(log_probs, batch.targets[..., None], -1)
    top1 = np.argmax(value, -1)[kept]
    rows[name] = (
      loss[..., 0][kept].mean(),
      (top1 == batch.targets[kept]).mean(),
      (top1 == final).mean(),
    )
  return rows


@pytest.mark.parametrize('chunk_size', [5, 1024])
def test_every_head_equals_whole_logits(chunk_size):
  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)
  params = tiny.tiny_params(config)
  batch = make_batch(config, padded=3)
  found = perplexity.evaluate(
    params, [batch], config=config, chunk_size=chunk_size
  )
  assert [h.depth for h in found.heads] == [0, 1, 2, 3, 4, 4]
  assert found.tokens == 21 and found.rows == 3
  expected = by_hand(params, batch, config)
  for head in found.heads:
    loss, accuracy, agreement = expected[head.name]
    assert head.loss.value == pytest.approx(loss, abs=1e-5)
    assert head.accuracy.value == pytest.approx(accuracy)
    assert head.agreement.value == pytest.approx(agreement)
    assert head.perplexity.value == pytest.approx(np.exp(loss), rel=1e-5)
    gap = loss - expected['final'][0]
    assert head.loss_gap.value == pytest.approx(gap, abs=1e-5)
  final = found.head('final')
  assert final.agreement.value == 1.0
  assert (final.loss_gap.low, final.loss_gap.high) == (0.0, 0.0)


def test_batches_add_up(tiny_config, tiny_params):
  batches = [make_batch(tiny_config, seed=s) for s in range(3)]
  together = perplexity.evaluate(tiny_params, batches, config=tiny_config)
  alone = [
    perplexity.evaluate(tiny_params, [b], config=tiny_config) for b in batches
  ]
  losses = [e.heads[0].loss.value for e in alone]
  assert together.heads[0].loss.value == pytest.approx(np.mean(losses))
  assert together.rows == 9


def test_a_model_without_exits_has_a_final_head():
  config = tiny.tiny_config('')
  found = perplexity.evaluate(
    tiny.tiny_params(config), [make_batch(config)], config=config
  )
  assert [h.name for h in found.heads] == ['final']


def test_whole_logits_of_an_exit_never_stand(tiny_config):
  # A vocabulary far wider than everything else shows in the compiled memory.
  model = tiny.tiny_model_config(vocab_size=40_000, num_layers=1)
  config = EarlyExitConfig(model, tiny.tiny_exits('1:norm'))
  params = jax.eval_shape(lambda: decoder.init(config, jax.random.key(0)))
  batch = make_batch(config, rows=2, length=64).as_dict()
  compiled = perplexity.row_sums.lower(
    params, batch, config=config, dtype='float32', chunk_size=8
  ).compile()
  whole = 2 * 64 * 40_000 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < whole / 2


def test_no_text_is_an_error(tiny_config, tiny_params):
  with pytest.raises(ArgumentError, match='no text'):
    perplexity.evaluate(tiny_params, [], config=tiny_config)


def test_a_damaged_exit_is_named(tiny_config, tiny_params):
  exits = tiny_params['exits']
  broken = jax.tree.map(lambda x: x * jnp.nan, exits['exit_2'])
  params = {**tiny_params, 'exits': {**exits, 'exit_2': broken}}
  with pytest.raises(EejaxError, match='exit_2 is not finite'):
    perplexity.evaluate(params, [make_batch(tiny_config)], config=tiny_config)
