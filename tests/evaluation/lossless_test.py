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
"""Test the comparison of speculative with full decoding."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation import lossless
from eejax.evaluation.lossless import (
  DifferenceKind,
  LosslessCheck,
  LosslessSummary,
)
from eejax.models import decoder
from eejax.ops.sampling import SamplingConfig
from eejax.testing import tiny

PROMPTS = [[3, 4, 5, 6], [9, 8], [20, 7, 11]]
DRAFTS = Policy(Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=2)
GREEDY = SamplingConfig()
NEW = 8


@pytest.fixture(scope='module')
def model():
  """Return a model whose exits are sometimes right."""
  config = tiny.tiny_config('1:norm,3:mlp', eos_ids=())
  return jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config)), config


def check_of(model, sampling=GREEDY, **changes):
  params, config = model
  settings = {'policy': DRAFTS, 'prompts': PROMPTS, 'dtype': 'float32'}
  return LosslessCheck(
    params,
    config=config,
    sampling=sampling,
    max_new_tokens=NEW,
    **{**settings, **changes},
  )


def rows_of(check, **plan):
  trials = lossless.plan_trials(len(PROMPTS), **plan)
  return [row for found in check.run(trials) for row in found]


def lie(monkeypatch, row, place, token):
  """Let speculation emit another token."""

  def decode(*args, policy, **kwargs):
    result = generate(*args, policy=policy, **kwargs)
    if policy.mode is Mode.FULL:
      return result
    rows = list(result.rows)
    tokens = list(rows[row].tokens)
    tokens[place:] = [] if token is None else [token, *tokens[place + 1 :]]
    rows[row] = dataclasses.replace(rows[row], tokens=tuple(tokens))
    return dataclasses.replace(result, rows=tuple(rows))

  monkeypatch.setattr(lossless, 'generate', decode)


@pytest.mark.parametrize('temperature', [0.0, 0.9])
def test_equal_texts_are_lossless(model, temperature):
  check = check_of(model, SamplingConfig(temperature))
  rows = rows_of(check, batch_sizes=(1, 2))
  verdict = LosslessSummary.of(rows)
  assert verdict.is_lossless
  # Two batches of two for three prompts: the first stands twice.
  assert [r.prompt for r in rows] == [1, 2, 3, 1, 2, 3, 1]
  assert verdict.rows == 7 and verdict.tokens == 7 * NEW
  assert verdict.near_ties == verdict.real_differences == 0
  assert verdict.drafted >= 7 and verdict.acceptance is not None


def test_batches_draft_though_it_does_not_pay(model):
  adaptive = dataclasses.replace(DRAFTS, draft_length=None, window=3)
  rows = rows_of(check_of(model, policy=adaptive), batch_sizes=(3,))
  fixed = rows_of(check_of(model), batch_sizes=(3,))
  assert rows == fixed and all(row.drafted for row in rows)
  params, config = model
  decoded = generate(
    params,
    config=config,
    prompts=PROMPTS,
    policy=adaptive,
    max_new_tokens=NEW,
  )
  # Two exits, three rows and a head of little: on a CPU none drafts.
  assert decoded.accounting.drafted < LosslessSummary.of(rows).drafted


def test_a_wrong_token_is_a_real_difference(model, monkeypatch):
  (honest, *_) = rows_of(check_of(model), batch_sizes=(3,))
  assert honest.difference is None
  lie(monkeypatch, 1, 3, 0)
  rows = rows_of(check_of(model), batch_sizes=(3,))
  assert [r.difference is None for r in rows] == [True, False, True]
  found = rows[1].difference
  assert (found.place, found.speculative_token) == (3, 0)
  assert found.kind is DifferenceKind.REAL and rows[1].tokens == 4
  params, config = model
  full = generate(
    params, config=config, prompts=[PROMPTS[1]], max_new_tokens=3
  ).rows[0]
  text = jnp.array([[*PROMPTS[1], *full.tokens]])
  logits = decoder.logits(params, text, config=config)['final'][0, -1]
  second, best = sorted(logits.tolist())[-2:]
  assert found.gap == pytest.approx(best - second, abs=1e-4)
  assert found.full_token == int(logits.argmax())
  verdict = LosslessSummary.of(rows)
  assert not verdict.is_lossless and verdict.real_differences == 1


def test_a_text_that_ends_sooner_is_a_real_difference(model, monkeypatch):
  lie(monkeypatch, 0, 5, None)
  rows = rows_of(check_of(model), batch_sizes=(3,))
  found = rows[0].difference
  assert found.place == 5 and found.speculative_token is None
  assert found.kind is DifferenceKind.REAL


@pytest.mark.parametrize('temperature', [0.0, 0.7])
def test_only_the_two_best_tokens_can_tie(model, monkeypatch, temperature):
  params, config = model
  sampling = SamplingConfig(temperature)
  full = generate(
    params,
    config=config,
    prompts=PROMPTS,
    sampling=sampling,
    seeds=[0, 1, 2],
    max_new_tokens=NEW,
  ).rows[0]
  token = full.tokens[2]
  # Another token gets the output row of the one that is emitted.
  twin, other = (token + 1) % 29, (token + 2) % 29
  kernel = params['backbone']['head']['kernel']
  nearly = kernel.at[:, twin].set(kernel[:, token] * (1 - 1e-7))
  backbone = {**params['backbone'], 'head': {'kernel': nearly}}
  tied = ({**params, 'backbone': backbone}, config)
  kinds = []
  for said in (twin, other):
    with monkeypatch.context() as patched:
      lie(patched, 0, 2, said)
      row = rows_of(check_of(tied, sampling), batch_sizes=(3,))[0]
    assert row.difference is not None
    kinds.append((row.difference.place, row.difference.kind))
  if temperature == 0:
    assert kinds == [(2, DifferenceKind.NEAR_TIE), (2, DifferenceKind.REAL)]
  else:
    # Each token has noise of its own, which tells twins apart.
    assert kinds == [(2, DifferenceKind.REAL), (2, DifferenceKind.REAL)]


def test_nothing_drafted_shows_nothing(model):
  never = Policy(Mode.SPECULATIVE, 'max_prob', (None,))
  verdict = LosslessSummary.of(
    rows_of(check_of(model, policy=never), batch_sizes=(3,))
  )
  assert verdict.drafted == 0 and verdict.acceptance is None
  assert verdict.real_differences == 0 and not verdict.is_lossless


def test_every_seed_is_another_text():
  trials = lossless.plan_trials(3, batch_sizes=(2, 4), num_seeds=2)
  assert [len(t.prompts) for t in trials] == [2, 2, 2, 2, 4, 4]
  assert trials[1].prompts == (2, 0) and trials[4].prompts == (0, 1, 2, 0)
  for size in (2, 4):
    seeds = [s for t in trials if len(t.prompts) == size for s in t.seeds]
    assert len(set(seeds)) == len(seeds)


def test_first_difference():
  assert lossless.first_difference([1, 2], [1, 2]) is None
  assert lossless.first_difference([1, 2], [1, 3]) == 1
  assert lossless.first_difference([1], [1, 2]) == 1
  assert lossless.first_difference([], []) is None


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'policy': Policy()}, 'mode speculative, not full'),
    ({'sampling': SamplingConfig(1.0, top_k=3)}, 'temperature alone'),
  ],
)
def test_what_cannot_be_verified_is_refused(model, changes, message):
  with pytest.raises(ArgumentError, match=message):
    check_of(model, **changes)


def test_trials_need_something_to_try():
  for numbers in ((0, (1,), 1), (1, (), 1), (1, (0,), 1), (1, (1,), 0)):
    with pytest.raises(ArgumentError, match='at least'):
      lossless.plan_trials(
        numbers[0], batch_sizes=numbers[1], num_seeds=numbers[2]
      )
