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
"""Test that planted models are what they are said to be."""

import jax
import numpy as np
import pytest

from eejax.capture.capture import capture
from eejax.capture.captured import ReadoutKind, compared_with
from eejax.capture.settings import EVERYWHERE, CaptureConfig
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.testing import planted
from eejax.testing.planted import PlantedPlan

VOCABULARY, LAYERS = 11, 3
EXACT = 1e-5


def mixed_plan(attention_blocks=()):
  """Return a plan in which answers come, go and come back."""
  random = np.random.default_rng(0)
  settled = random.random((VOCABULARY, LAYERS + 1)) < 0.5
  settled[:, -1] = random.random(VOCABULARY) < 0.8
  token = np.arange(VOCABULARY)
  return PlantedPlan(
    settled=tuple(tuple(row) for row in settled.tolist()),
    answers=tuple(((token + 1) % VOCABULARY).tolist()),
    guesses=tuple(((token + 3) % VOCABULARY).tolist()),
    answer_confidence=0.8,
    guess_confidence=0.3,
    attention_blocks=attention_blocks,
    exits=(1, 2),
  )


def text(rows=3, length=9, seed=0):
  random = np.random.default_rng(seed)
  draw = lambda: random.integers(0, VOCABULARY, (rows, length))
  return draw(), draw()


@pytest.mark.parametrize('attention_blocks', [(), (2,)])
def test_every_reading_equals_its_closed_form(attention_blocks):
  plan = mixed_plan(attention_blocks)
  tokens, targets = text()
  found = capture(
    planted.planted_params(plan),
    [planted.token_batch(tokens, targets)],
    config=plan.config,
    settings=CaptureConfig(kinds=EVERYWHERE, num_candidates=2, chunk_size=8),
  )
  wanted = planted.expected(
    plan,
    tokens.reshape(-1),
    targets.reshape(-1),
    depths=[r.depth for r in found.readouts],
    previous=compared_with(found.readouts),
  )
  np.testing.assert_array_equal(found.top1, wanted['top1'])
  np.testing.assert_allclose(
    found.top_log_probs[..., 0], wanted['top1_log_prob'], atol=EXACT
  )
  for name in (
    'loss',
    'entropy',
    'kl_final',
    'js_final',
    'logit_cosine',
    'hidden_cosine',
    'js_previous',
    'hidden_cosine_previous',
  ):
    np.testing.assert_allclose(
      found[name], wanted[name], atol=EXACT, err_msg=name
    )
  exits = list(found.facts.indices(ReadoutKind.EXIT))
  np.testing.assert_allclose(
    found.gate_score[exits], wanted['gate_score'][exits], atol=EXACT
  )
  # A plan in which nothing changed would show nothing.
  assert 0.1 < found.agree[:-1].mean() < 0.9


def test_the_tree_is_that_of_a_model():
  plan = mixed_plan()
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  fresh = jax.eval_shape(
    lambda key: decoder.init(plan.config, key), jax.random.key(0)
  )
  assert shapes(planted.planted_params(plan)) == shapes(fresh)


def test_idle_blocks_change_nothing(tiny_config, tiny_params, tiny_tokens):
  idle = planted.idle_from(tiny_params, 2)
  inner = tiny_config.model.with_depth(2)
  cut = jax.tree.map(lambda x: x[:2], idle['backbone']['blocks'])
  short = {**idle, 'backbone': {**idle['backbone'], 'blocks': cut}}
  bare = tiny_config.with_exits(())
  full = decoder.logits(idle, tiny_tokens, config=bare)['final']
  shallow = decoder.logits(short, tiny_tokens, config=type(bare)(inner))[
    'final'
  ]
  np.testing.assert_array_equal(full, shallow)
  assert (tiny_params['backbone']['blocks']['mlp']['down']['kernel'] != 0).all()


def test_a_confidence_is_what_its_height_gives():
  height = planted.logit_height(0.7, 11)
  assert np.exp(height) / (np.exp(height) + 10) == pytest.approx(0.7)


def test_a_plan_is_checked():
  with pytest.raises(ArgumentError, match='confidence'):
    PlantedPlan.settling([0, 1, 2], num_layers=2, guess_confidence=0.2)
  with pytest.raises(ArgumentError, match='differ'):
    PlantedPlan.settling([0, 1], num_layers=1, guesses=(1, 0), answers=(1, 1))
  with pytest.raises(ArgumentError, match='an answer and a guess'):
    PlantedPlan.settling([0, 1], num_layers=1, guesses=(1,))
