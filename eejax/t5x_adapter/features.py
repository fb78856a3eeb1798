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
"""Features of seqio's decoder converter as eejax's batches and prompts.

`seqio.DecoderFeatureConverter` makes `decoder_input_tokens` (targets shifted
right behind a start token), `decoder_target_tokens` and
`decoder_loss_weights`; packed rows also have `decoder_positions` and
`decoder_segment_ids`, and rows with inputs `decoder_causal_attention`, which
is 1 at the start token and at every input.
"""

from collections.abc import Mapping

import flax.struct
import jax.numpy as jnp

from eejax.errors import ArgumentError
from eejax.training.loss_sums import TokenBatch
from eejax.types import Array, Int

Features = Mapping[str, Array]


def token_batch(features: Features) -> TokenBatch:
  """Return the batch that eejax's objective reads.

  A row that is not packed is one text, padding at its end included: nothing
  before it sees the padding, and its weight is 0.
  """
  tokens = features['decoder_input_tokens']
  targets = features['decoder_target_tokens']
  weights = features.get('decoder_loss_weights')
  if weights is None:
    weights = targets > 0
  positions = features.get('decoder_positions')
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  segment_ids = features.get('decoder_segment_ids')
  if segment_ids is None:
    segment_ids = jnp.ones_like(tokens)
  return TokenBatch(
    tokens=tokens,
    targets=targets,
    weights=weights.astype(jnp.float32),
    positions=positions.astype(jnp.int32),
    segment_ids=segment_ids.astype(jnp.int32),
  )


@flax.struct.dataclass
class DecoderPrompts:
  """The inputs of rows that are to be continued.

  Attributes:
    tokens: start token and inputs, then zeros.
    lengths: how many tokens of each row they are, 1 at least.
  """

  tokens: Int[Array, 'B T']
  lengths: Int[Array, 'B']


def prompts(features: Features) -> DecoderPrompts:
  """Return what each row begins with.

  Raises:
    ArgumentError: the features do not say where inputs end.
  """
  if 'decoder_causal_attention' not in features:
    raise ArgumentError(
      'nothing says which tokens are the prompt: give the task the feature '
      '`inputs`, and TASK_FEATURE_LENGTHS a length for it.'
    )
  is_prompt = features['decoder_causal_attention'].astype(jnp.int32)
  # A padded row has no input, and its start token stands for it.
  lengths = jnp.maximum(jnp.sum(is_prompt, axis=-1), 1)
  return DecoderPrompts(features['decoder_input_tokens'] * is_prompt, lengths)
