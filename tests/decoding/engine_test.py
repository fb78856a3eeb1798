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
"""Test the serving core against texts decoded alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding import admission
from eejax.decoding.engine import Engine, EngineFull, EngineLimits
from eejax.decoding.generate import generate
from eejax.decoding.loop import programs
from eejax.decoding.policy.batching import ACCELERATOR, CPU, Batching
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingConfig, SamplingMethod

TEXTS = [
  ([3, 17, 8, 25, 11], 9),
  ([7], 14),
  ([21, 4, 4, 19, 28, 13, 6, 9, 12], 3),
  ([5, 14], 11),
  ([2, 9, 1, 27, 22, 8], 6),
]
POLICY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.35, 0.4, 0.5), window=2)
SPECULATIVE = Policy(Mode.SPECULATIVE, 'max_prob', (0.2,), window=4)
LOOKUP = dataclasses.replace(
  SPECULATIVE, prompt_lookup=1, draft_length=3, draft_depth=1
)
QUEUED = Policy(
  Mode.EARLY_EXIT,
  'max_prob',
  (0.35, 0.4, 0.5),
  window=4,
  batching=Batching.DEPTH_QUEUE,
)


def make_engine(model, policy=POLICY, *, slots=2, platform=None, **limits):
  config, params = model
  return Engine(
    params,
    config=config,
    policy=policy,
    limits=EngineLimits(slots=slots, max_length=32, **limits),
    method=limits.pop('method', SamplingMethod.GREEDY),
    platform=platform,
  )


def alone(model, prompt, num_tokens, policy=POLICY, **options):
  config, params = model
  return generate(
    params,
    config=config,
    prompts=[prompt],
    policy=policy,
    max_new_tokens=num_tokens,
    **options,
  ).rows[0]


def drain(engine):
  steps = 0
  while not engine.is_idle:
    engine.step()
    steps += 1
    assert steps < 200
  return steps


@pytest.fixture(scope='module')
def model(lively):
  return lively(seed=1)


@pytest.mark.parametrize(
  'policy',
  [POLICY, SPECULATIVE, LOOKUP, QUEUED],
  ids=['exit', 'speculative', 'lookup', 'queued'],
)
def test_texts_that_share_slots_equal_texts_alone(model, policy):
  engine = make_engine(model, policy, ticks_per_step=3)
  ids = [engine.submit(p, max_new_tokens=n) for p, n in TEXTS]
  drain(engine)
  looked_up = 0
  for request_id, (prompt, count) in zip(ids, TEXTS, strict=True):
    found = engine.result(request_id)
    expected = alone(model, prompt, count, policy)
    assert found.tokens == expected.tokens
    assert found.finish_reason is expected.finish_reason
    if policy.mode is Mode.EARLY_EXIT:
      assert found.exit_depths == expected.exit_depths
    # Nothing is looked up in the text that had the slot before.
    assert found.accounting.looked_up == expected.accounting.looked_up
    looked_up += found.accounting.looked_up
  assert (looked_up > 0) == (policy is LOOKUP)


@pytest.mark.parametrize('platform', [CPU, ACCELERATOR])
def test_a_text_that_joins_drafts_as_it_pays_for_all(model, platform):
  adaptive = dataclasses.replace(LOOKUP, draft_length=None)
  engine = make_engine(model, adaptive, platform=platform)
  # They end as they began, so there is something to be looked up at once.
  texts = [[3, 17, 8, 3, 17], [7, 4, 7, 4]] * 2
  ids = [engine.submit(text, max_new_tokens=6) for text in texts]
  drain(engine)
  drafted = [engine.result(request_id).accounting.drafted for request_id in ids]
  assert (sum(drafted) > 0) == (platform is ACCELERATOR)


def test_few_programs_are_compiled(model):
  programs.decode_chunk.clear_cache()
  admission.insert.clear_cache()
  engine = make_engine(model)
  for prompt, count in TEXTS * 2:
    engine.submit(prompt, max_new_tokens=count)
  engine.submit([4] * 20, max_new_tokens=2)
  drain(engine)
  assert programs.decode_chunk._cache_size() == 1
  # Prompts of one token, of up to 16 more, and of up to 24 more.
  assert admission.insert._cache_size() == 3


def test_texts_have_settings_of_their_own(lively):
  config, params = lively(seed=1)
  engine = Engine(
    params, config=config, policy=POLICY, limits=EngineLimits(slots=3)
  )
  sampling = SamplingConfig(temperature=1.3, top_k=12, seed=11)
  sampled = engine.submit([7, 3], max_new_tokens=8, sampling=sampling)
  full = engine.submit([7, 3], max_new_tokens=8, thresholds=[None] * 3)
  usual = engine.submit([7, 3], max_new_tokens=8)
  drain(engine)
  options = {'policy': POLICY}
  one = lambda **more: alone((config, params), [7, 3], 8, **{**options, **more})
  assert engine.result(sampled).tokens == one(sampling=sampling).tokens
  assert engine.result(full).tokens == one(policy=Policy()).tokens
  assert engine.result(usual).tokens == one().tokens


def test_texts_may_arrive_while_others_are_decoded(model):
  engine = make_engine(model, ticks_per_step=2)
  first = engine.submit([3, 4], max_new_tokens=12)
  seen = [u.row for u in engine.step()]
  second = engine.submit([9], max_new_tokens=5)
  seen += [u.row for u in engine.step()]
  assert seen == [first, first, second]
  drain(engine)
  assert engine.result(second).tokens == alone(model, [9], 5).tokens
  assert engine.result(first).tokens == alone(model, [3, 4], 12).tokens


def test_a_cancelled_text_keeps_what_it_has_and_frees_its_slot(model):
  engine = make_engine(model, slots=1, ticks_per_step=4)
  running = engine.submit([3, 4], max_new_tokens=20)
  waiting = engine.submit([5], max_new_tokens=20)
  last = engine.submit([9], max_new_tokens=5)
  engine.step()
  engine.cancel(running)
  engine.cancel(waiting)
  engine.cancel(99)
  drain(engine)
  cut = engine.result(running)
  assert cut.tokens == alone(model, [3, 4], 20).tokens[:4]
  assert cut.finish_reason is FinishReason.CANCELLED
  assert engine.result(waiting).tokens == ()
  assert engine.result(last).tokens == alone(model, [9], 5).tokens


def test_no_more_texts_wait_than_may(model):
  engine = make_engine(model, slots=1, max_waiting=2)
  engine.submit([3])
  engine.submit([4])
  with pytest.raises(EngineFull, match='2 requests wait already'):
    engine.submit([5])
  engine.step()
  engine.submit([5])


def test_updates_stream(model):
  engine = make_engine(model, ticks_per_step=3)
  updates = []
  request_id = engine.submit(
    [3, 4], max_new_tokens=10, on_update=updates.append
  )
  drain(engine)
  tokens = sum((u.tokens for u in updates), ())
  assert tokens == engine.result(request_id).tokens
  assert [len(u.tokens) for u in updates] == [3, 3, 3, 1]
  assert updates[-1].finish_reason is FinishReason.LENGTH


def test_numbers_that_are_none_end_one_text_alone(lively):
  config, params = lively(seed=1)
  backbone = params['backbone']
  table = backbone['embedding']['table'].at[13].set(jnp.nan)
  broken = {**backbone, 'embedding': {'table': table}}
  engine = make_engine((config, {**params, 'backbone': broken}), slots=2)
  ids = [engine.submit(p, max_new_tokens=6) for p in ([3, 13], [3, 4], [9])]
  drain(engine)
  bad, good, after = map(engine.result, ids)
  assert bad.tokens == () and bad.finish_reason is FinishReason.NON_FINITE
  # The third text has the slot that held NaN.
  for row, prompt in ((good, [3, 4]), (after, [9])):
    expected = alone((config, params), prompt, 6)
    assert row.tokens == expected.tokens
    assert np.isfinite(row.logprobs).all()


def test_bad_settings(model):
  engine = make_engine(model)
  for wrong, words in [
    ({'thresholds': [0.5]}, '1 thresholds for 3 exits'),
    ({'thresholds': [0.5, 2.0, None]}, 'not 2.0'),
    ({'max_new_tokens': 0}, 'at least 1'),
    ({'sampling': SamplingConfig(temperature=1.0)}, 'temperature 0'),
  ]:
    with pytest.raises(ArgumentError, match=words):
      engine.submit([3], **wrong)
  with pytest.raises(ArgumentError, match='context of the model'):
    engine.submit([3] * 40)
  with pytest.raises(ArgumentError, match='token 99'):
    engine.submit([99])
  with pytest.raises(ArgumentError, match='no result'):
    engine.result(5)
  assert engine.is_idle
  with pytest.raises(ArgumentError, match='slots must be at least 1'):
    EngineLimits(slots=0)
