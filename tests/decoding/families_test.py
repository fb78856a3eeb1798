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
"""Tests of decoding with what blocks of other families do.

Each case joins what several families do; that each of them equals
transformers is tested in `tests/models/parity_test.py`.
"""

import pytest

from eejax.config import (
  Activation,
  MLPKind,
  NormKind,
  NormPlacement,
  PositionKind,
  QKNormSpan,
  Residual,
  RotaryConfig,
)
from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy

EXITS = '1:norm,2:mlp,3:block'
NUM_TOKENS = 13
LAYER_NORMS = {
  'norm': NormKind.LAYER,
  'mlp': MLPKind.PLAIN,
  'qkv_bias': True,
  'output_bias': True,
  'mlp_bias': True,
  'num_kv_heads': 4,
}
KINDS = {
  # GPT-NeoX
  'parallel': {
    **LAYER_NORMS,
    'residual': Residual.PARALLEL,
    'activation': Activation.GELU,
    'rotary': RotaryConfig(fraction=0.5),
    'head_dim': 8,
  },
  # OPT, GPT-2
  'learned': {
    **LAYER_NORMS,
    'positions': PositionKind.LEARNED,
    'position_offset': 2,
    'activation': Activation.RELU,
  },
  # Gemma 3 with the caps of Gemma 2, a block without positions as SmolLM3 and
  # the factors of Granite.
  'around': {
    'norm_placement': NormPlacement.AROUND,
    'norm_gain_offset': 1.0,
    'activation': Activation.GELU_TANH,
    'qk_norm': True,
    'sliding_window': 3,
    'windowed_blocks': (0, 3),
    'window_rotary': RotaryConfig(theta=100.0),
    'unrotated_blocks': (1,),
    'query_scale': 0.3,
    'embedding_scale': 4.0,
    'residual_scale': 0.7,
    'logit_scale': 2.0,
    'attention_softcap': 6.0,
    'logit_softcap': 8.0,
  },
  # OLMo2
  'after': {
    'norm_placement': NormPlacement.AFTER,
    'qk_norm': True,
    'qk_norm_span': QKNormSpan.ALL_HEADS,
  },
}


@pytest.fixture(params=KINDS)
def model(request, lively):
  return lively(EXITS, **KINDS[request.param])


def run(model, prompts, policy=FULL_DEPTH):
  config, params = model
  return generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=NUM_TOKENS,
  )


@pytest.mark.parametrize(
  'strategy', [KVStrategy.DEFERRED, KVStrategy.PROPAGATE]
)
def test_early_exits_equal_the_reference(
  model, prompts, assert_is_reference, strategy
):
  policy = Policy(
    Mode.EARLY_EXIT,
    'max_prob',
    (0.3, 0.45, 0.4),
    kv_strategy=strategy,
    window=4,
  )
  result = run(model, prompts, policy)
  assert_is_reference(model, result)
  assert len({d for row in result.rows for d in row.exit_depths}) >= 2


def test_speculative_equals_full_with_drafts_that_fail(
  model, prompts, assert_is_reference
):
  full = run(model, prompts)
  assert_is_reference(model, full)
  policy = Policy(
    Mode.SPECULATIVE, 'max_prob', (0.0,), draft_depth=2, draft_length=3
  )
  found = run(model, prompts, policy)
  assert [r.tokens for r in found.rows] == [r.tokens for r in full.rows]
  assert found.accounting.drafted > NUM_TOKENS
  assert found.accounting.accepted < found.accounting.drafted
