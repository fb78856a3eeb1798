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
"""Tests of the comparison between a model and its quantised form."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation.quantized import compare_quantized
from eejax.models import decoder
from eejax.models.quantized import quantize_backbone
from eejax.ops.quant import Quantization
from eejax.testing import tiny

NONE, INT8 = Quantization.NONE, Quantization.INT8


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm,3:norm', eos_ids=())
  params = tiny.tiny_params(config)
  # Heads that are sure of something, and blocks that change much.
  table = params['backbone']['embedding']['table']
  params['backbone']['embedding']['table'] = 20 * table
  params['backbone']['head']['kernel'] *= 40
  return config, params


def as_batch(rows):
  ids = np.array(rows, np.int32)
  ones = np.ones_like(ids)
  return Batch(
    tokens=ids,
    targets=ids,
    weights=ones.astype(np.float32),
    positions=np.arange(ids.shape[1], dtype=np.int32) * ones,
    segment_ids=ones,
  )


@pytest.fixture(scope='module')
def text():
  random = np.random.default_rng(0)
  batch = as_batch(random.integers(3, 29, (3, 24)))
  weights = batch.weights.copy()
  weights[-1, 20:] = 0
  return dataclasses.replace(batch, weights=weights)


def early(*thresholds, **fields):
  return Policy(Mode.EARLY_EXIT, 'max_prob', thresholds, **fields)


def median_score(model, text):
  config, params = model
  logits = decoder.logits(params, jnp.asarray(text.tokens), config=config)
  top = jnp.exp(logits['exit_1']).max(-1) / jnp.exp(logits['exit_1']).sum(-1)
  return float(np.median(top))


def test_a_model_agrees_with_itself(model, text):
  config, params = model
  report = compare_quantized(
    params, [text], config=config, policy=early(0.5), quantization=NONE
  )
  assert report.num_tokens == 68 and report.depths == (1, 3)
  assert report.token_agreement == report.depth_agreement == 1
  assert report.score_changes == (0, 0)
  assert report.exact_depth == report.quantized_depth


@pytest.mark.parametrize('weights, kv', [(INT8, NONE), (NONE, INT8)])
def test_numbers_follow_from_logits(model, text, weights, kv):
  config, params = model
  # In the middle of the scores, so that errors move exits.
  threshold = median_score(model, text)
  report = compare_quantized(
    params,
    [text],
    config=config,
    policy=early(threshold, None, window=24),
    quantization=weights,
    kv_quantization=kv,
  )
  assert 0 < report.token_agreement <= 1
  assert 0.5 < report.depth_agreement <= 1
  assert 1 < report.exact_depth < 4 and 1 < report.quantized_depth < 4
  assert all(0 < change < 0.1 for change in report.score_changes)
  if kv is INT8:
    return
  counted = text.weights > 0
  tokens = jnp.asarray(text.tokens)
  exact = decoder.logits(params, tokens, config=config)
  small = decoder.logits(quantize_backbone(params), tokens, config=config)
  same = exact['final'].argmax(-1) == small['final'].argmax(-1)
  assert report.token_agreement == pytest.approx(same[counted].mean())
  top = lambda x: np.asarray(jnp.exp(x).max(-1) / jnp.exp(x).sum(-1))
  change = np.abs(top(exact['exit_1']) - top(small['exit_1']))[counted]
  assert report.score_changes[0] == pytest.approx(change.mean(), rel=1e-2)
  # A row is cut off by no window here: depths are a matter of one score.
  leaves = lambda x: top(x['exit_1']) >= threshold
  moved = (leaves(exact) != leaves(small))[counted]
  assert report.depth_agreement == pytest.approx(1 - moved.mean(), abs=0.05)


def test_depths_are_those_of_decoding(model):
  config, params = model
  policy = early(0.3, 0.4, window=4)
  found = generate(
    prepare(params, config=config, quantization=INT8, kv_quantization=INT8),
    config=config,
    prompts=[[5], [9]],
    policy=policy,
    max_new_tokens=20,
  )
  rows = [[*row.prompt_tokens, *row.tokens[:-1]] for row in found.rows]
  report = compare_quantized(
    params,
    [as_batch(rows)],
    config=config,
    policy=policy,
    kv_quantization=INT8,
  )
  depths = [depth for row in found.rows for depth in row.exit_depths]
  assert report.num_tokens == len(depths) and len(set(depths)) > 1
  assert report.quantized_depth == pytest.approx(np.mean(depths))


@pytest.mark.parametrize(
  'policy, message',
  [
    (Policy(), 'mode full takes no exit'),
    (early(0.5, kv_strategy=KVStrategy.COPY), 'kv strategy deferred alone'),
    (early(0.5, threshold_rule='decaying(4)'), 'threshold rule constant'),
    (early(0.5, scored_vocabulary='frequent(4)'), 'vocabulary whole'),
  ],
)
def test_policies_whose_depths_do_not_follow_are_refused(
  model, text, policy, message
):
  config, params = model
  with pytest.raises(ArgumentError, match=message):
    compare_quantized(params, [text], config=config, policy=policy)


def test_no_text_is_refused(model):
  config, params = model
  with pytest.raises(ArgumentError, match='no text'):
    compare_quantized(params, [], config=config, policy=early(0.5))
