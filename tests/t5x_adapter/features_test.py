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
"""Test that seqio's features are the batches and prompts of eejax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.t5x_adapter import features
from eejax.training import losses
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.weight_schedules import ExitWeights

# Inputs 9 4 6 1 and targets 3 9 1, as seqio's decoder converter has them.
ROW = {
  'decoder_target_tokens': [9, 4, 6, 1, 3, 9, 1, 0, 0],
  'decoder_input_tokens': [2, 9, 4, 6, 1, 3, 9, 1, 0],
  'decoder_loss_weights': [0, 0, 0, 0, 1, 1, 1, 0, 0],
  'decoder_causal_attention': [1, 1, 1, 1, 1, 0, 0, 0, 0],
}


def rows(**more):
  return {k: jnp.array([v], jnp.int32) for k, v in {**ROW, **more}.items()}


def test_a_row_is_one_text():
  batch = features.token_batch(rows())
  np.testing.assert_array_equal(batch.positions[0], np.arange(9))
  np.testing.assert_array_equal(batch.segment_ids[0], 1)
  np.testing.assert_array_equal(batch.weights[0], ROW['decoder_loss_weights'])
  assert batch.weights.dtype == jnp.float32


def test_a_packed_row_keeps_its_texts_apart():
  packed = rows(
    decoder_positions=[0, 1, 2, 3, 0, 1, 2, 0, 0],
    decoder_segment_ids=[1, 1, 1, 1, 2, 2, 2, 0, 0],
  )
  batch = features.token_batch(packed)
  np.testing.assert_array_equal(
    batch.positions[0], packed['decoder_positions'][0]
  )
  np.testing.assert_array_equal(
    batch.segment_ids[0], packed['decoder_segment_ids'][0]
  )


def test_padding_does_not_count_where_no_weights_are_given():
  some = rows()
  del some['decoder_loss_weights']
  batch = features.token_batch(some)
  np.testing.assert_array_equal(batch.weights[0], [1] * 7 + [0] * 2)


def test_the_prompt_is_the_start_token_and_the_inputs():
  prompts = features.prompts(rows())
  np.testing.assert_array_equal(prompts.lengths, [5])
  np.testing.assert_array_equal(prompts.tokens[0], [2, 9, 4, 6, 1, 0, 0, 0, 0])


def test_without_inputs_there_is_no_prompt():
  some = rows()
  del some['decoder_causal_attention']
  with pytest.raises(ArgumentError, match='feature `inputs`'):
    features.prompts(some)


def test_a_packed_rows_loss_is_that_of_its_texts(
  t5x_batch, tiny_params, tiny_config
):
  """Compare eejax's objective with logits of every text by itself."""
  batch = {name: jnp.asarray(value) for name, value in t5x_batch.items()}
  weights = (0.5, 1.0, 2.0)
  total, sums = losses.objective_sum(
    tiny_params,
    {},
    features.token_batch(batch),
    config=tiny_config,
    objective=Objective(
      regime=Regime.JOINT, exit_weights=ExitWeights(weights), gate_weight=0.0
    ),
    forward=Forward(),
    step=0,
  )
  program = jax.jit(
    lambda tokens: decoder.logits(tiny_params, tokens, config=tiny_config)
  )
  counts = dict.fromkeys(['final', 'exit_1', 'exit_2', 'exit_3'], 0.0)
  for row in range(4):
    segments = t5x_batch['decoder_segment_ids'][row]
    for text in set(segments.tolist()) - {0}:
      at = np.flatnonzero(segments == text)
      # All of one width, padded behind, to compile once.
      tokens = np.zeros((1, 5), np.int32)
      tokens[0, : len(at)] = t5x_batch['decoder_input_tokens'][row, at]
      for name, logits in program(jnp.asarray(tokens)).items():
        log_probs = jax.nn.log_softmax(logits[0])
        targets = t5x_batch['decoder_target_tokens'][row, at]
        counted = t5x_batch['decoder_loss_weights'][row, at]
        chosen = np.asarray(log_probs)[np.arange(len(at)), targets]
        counts[name] -= float(np.sum(chosen * counted))
  assert float(sums.final.loss) == pytest.approx(counts['final'], abs=1e-4)
  exits = [counts['exit_1'], counts['exit_2'], counts['exit_3']]
  np.testing.assert_allclose(sums.exits.loss, exits, atol=1e-4)
  expected = counts['final'] + np.dot(weights, exits)
  assert float(total) == pytest.approx(expected, abs=1e-3)
