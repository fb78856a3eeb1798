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

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.t5x_adapter import features

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
