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
"""Tests of what becomes of drafts, by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.drafting import adaptive
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.verification import TargetTokens, accept
from eejax.decoding.policy.policy import Mode, Policy
from eejax.ops.sampling import SamplingMethod
from eejax.testing.tiny import tiny_config

A, B, C, X = 11, 12, 13, 19
FIRST = 7


def first_draft(plan, *, text):
  costs = jnp.ones((1, plan.window))
  return adaptive.first_draft(plan, text=text, window_costs=costs)


@pytest.mark.parametrize(
  'target, kept',
  [([A, B, X], 2), ([A, B, C, X], 3), ([X, B, C], 0), ([A, X, C], 1)],
)
def test_drafts_stand_up_to_the_first_that_differs(target, kept):
  # The example of `accept`: t was emitted, the exit drafted a, b and c.
  policy = Policy(Mode.SPECULATIVE, 'max_prob', (0.5,), draft_length=4)
  plan, _ = make_plan(
    tiny_config('2:norm'), policy=policy, method=SamplingMethod.GREEDY
  )
  text = np.zeros((1, 16), np.int32)
  text[0, FIRST : FIRST + 4] = [5, A, B, C]
  draft = dataclasses.replace(
    first_draft(plan, text=jnp.asarray(text)),
    scores=jnp.array([[0.0, 0.6, 0.7, jnp.nan, 0.0]]),
  )
  tokens = jnp.array([[*target, 0, 0][: plan.window]])
  log_probs = jnp.arange(5, dtype=jnp.float32)[None]
  accepted = accept(
    draft,
    TargetTokens(tokens, log_probs),
    first=jnp.array([FIRST]),
    verified=jnp.array([True]),
    fed=jnp.array([4]),
    plan=plan,
  )
  emission, num = accepted.emission, kept + 1
  assert accepted.kept.tolist() == [kept] and emission.num.tolist() == [num]
  assert emission.token[0, :num].tolist() == target[:num]
  assert accepted.next_token.tolist() == [target[kept]]
  # The third draft came from the text, the last token from the final head.
  assert emission.depth[0, :num].tolist() == [2, 2, 0][:kept] + [4]
  scores = [0.6, 0.7, np.nan][:kept] + [np.nan]
  np.testing.assert_allclose(emission.score[0, :num], scores, rtol=1e-6)


def test_a_window_on_its_way_emits_nothing():
  policy = Policy(Mode.SPECULATIVE, 'max_prob', (0.5,), draft_length=4)
  plan, _ = make_plan(
    tiny_config('2:norm'), policy=policy, method=SamplingMethod.GREEDY
  )
  draft = first_draft(plan, text=jnp.zeros((1, 16), jnp.int32))
  blank = jnp.zeros((1, plan.window))
  accepted = accept(
    draft,
    TargetTokens(blank.astype(jnp.int32), blank),
    first=jnp.array([FIRST]),
    verified=jnp.array([False]),
    fed=jnp.array([4]),
    plan=plan,
  )
  assert accepted.kept.tolist() == accepted.emission.num.tolist() == [0]
