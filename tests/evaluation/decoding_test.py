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
"""Test that a replay on logged scores is what decoding really did."""

import numpy as np
import pytest

from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.decoding.replay import replay
from eejax.evaluation.scores import collect_scores
from eejax.testing import tiny

PROMPT, LENGTH = 5, 30


def sharpened(params):
  """Return `params` whose exits are sometimes sure of themselves."""
  backbone = params['backbone']
  kernel = 40 * backbone['head']['kernel']
  return {**params, 'backbone': {**backbone, 'head': {'kernel': kernel}}}


def logged_scores(params, config, tokens, criterion):
  """Return scores of the exits at the places that predict new tokens."""
  ids = np.asarray(tokens, np.int32)[None]
  ones = np.ones_like(ids[:, :-1])
  batch = Batch(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    weights=ones.astype(np.float32),
    positions=np.arange(ids.shape[1] - 1, dtype=np.int32)[None],
    segment_ids=ones,
  )
  found = collect_scores(params, [batch], config=config, criteria=[criterion])
  return found[criterion].scores[:, :, PROMPT - 1 :]


@pytest.mark.parametrize('criterion', ['max_prob', 'gate'])
@pytest.mark.parametrize('window', [3, 8])
def test_depths_and_work_are_those_of_the_generation(criterion, window):
  config = tiny.tiny_config('1:norm:gate,2:mlp:gate,3:norm:mlp_gate')
  params = sharpened(tiny.tiny_params(config))
  # Fresh gates are undecided everywhere.
  for i, exit in enumerate(params['exits'].values()):
    kernel = exit['gate']['output']['kernel']
    noise = np.random.default_rng(i).normal(size=kernel.shape)
    exit['gate']['output']['kernel'] = kernel + 3 * noise.astype(np.float32)
  prompt = tiny.tiny_tokens(config, batch_size=1, length=PROMPT)[0].tolist()
  thresholds = (0.75, 0.7, 0.65)
  result = generate(
    params,
    config=config,
    prompts=[prompt],
    policy=Policy(Mode.EARLY_EXIT, criterion, thresholds, window=window),
    max_new_tokens=LENGTH,
    eos_ids=(),
  )
  (row,) = result.rows
  assert len(row.tokens) == LENGTH
  found = replay(
    logged_scores(params, config, [*prompt, *row.tokens], criterion),
    counted=np.ones((1, LENGTH), bool),
    thresholds=threshold_values([thresholds]),
    window=window,
  )
  levels = np.array([1, 2, 3, 4])
  assert levels[found.taken[0, 0]].tolist() == list(row.exit_depths)
  # The test is worth something only where several exits are taken.
  assert len(set(row.exit_depths)) >= 3
  runs = found.work[0].segment_runs.sum(axis=1)
  # Every segment of this model has one block.
  assert int(runs.sum()) == result.batch.block_reads
  if criterion == 'gate':
    assert row.accounting.head_calls == LENGTH
