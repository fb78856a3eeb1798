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

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding import admission
from eejax.decoding.engine import Engine, EngineFull, EngineLimits
from eejax.decoding.generate import generate
from eejax.decoding.loop import programs
from eejax.decoding.loop.accounting import Accounting
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


def make_engine(
  model,
  policy=POLICY,
  *,
  slots=2,
  method=SamplingMethod.GREEDY,
  platform=None,
  eos_ids=None,
  **limits,
):
  config, params = model
  return Engine(
    params,
    config=config,
    policy=policy,
    limits=EngineLimits(slots=slots, max_length=32, **limits),
    method=method,
    platform=platform,
    eos_ids=eos_ids,
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


@pytest.fixture
def count_traces():
  """Return a function that says how often jax traces while it calls another."""
  traces = []
  listen = lambda event, *_, **__: traces.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)

  def count(call):
    traces.clear()
    call()
    return sum('jaxpr_trace' in event for event in traces)

  yield count
  jax.monitoring.unregister_event_duration_listener(listen)


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


# MARK: What a request may bring

MODES = {'full': Policy(), 'exit': POLICY, 'speculative': LOOKUP}


@pytest.fixture(params=MODES.values(), ids=MODES)
def mode(request):
  return request.param


def make_serving_engine(model, policy, *, eos_ids=(), ticks_per_step=3):
  """Return an engine with all features; all of them share programs."""
  return make_engine(
    model,
    policy,
    slots=3,
    ticks_per_step=ticks_per_step,
    top_logprobs=6,
    eos_ids=eos_ids,
    max_stop_token_ids=4 - len(eos_ids),
  )


def test_a_bias_is_one_requests_own(model, mode):
  engine = make_serving_engine(model, mode)
  biased = SamplingConfig(logit_bias={5: 100.0})
  banned = SamplingConfig(logit_bias={t: -100.0 for t in range(14)})
  requests = [
    ([3, 17, 8], biased),
    ([3, 17, 8], SamplingConfig()),
    ([3, 17, 8], banned),
    # The slots of those that changed logits.
    ([7, 4], SamplingConfig()),
    ([7, 4], banned),
  ]
  ids = [
    engine.submit(prompt, max_new_tokens=8 + i, sampling=sampling)
    for i, (prompt, sampling) in enumerate(requests)
  ]
  drain(engine)
  rows = list(map(engine.result, ids))
  for i, (row, (prompt, sampling)) in enumerate(
    zip(rows, requests, strict=True)
  ):
    expected = alone(model, prompt, 8 + i, mode, sampling=sampling)
    assert row.tokens == expected.tokens
    np.testing.assert_allclose(row.logprobs, expected.logprobs, atol=1e-5)
  assert set(rows[0].tokens) == {5}
  assert min(rows[2].tokens) >= 14
  # It is not the bias that makes a token probable.
  assert max(rows[0].logprobs) < -0.1


def test_bias_speculates_losslessly(model):
  sampling = SamplingConfig(logit_bias={5: 3.0, 17: -100.0}, min_tokens=4)
  full, drafted = (
    alone(model, [3, 17, 8], 16, policy, sampling=sampling)
    for policy in (Policy(), LOOKUP)
  )
  assert full.tokens == drafted.tokens and drafted.accounting.drafted
  assert full.tokens != alone(model, [3, 17, 8], 16, Policy()).tokens


def test_requests_bring_end_tokens(model, mode):
  usual = alone(model, [3, 4], 12, mode).tokens
  stop, place = usual[5], usual.index(usual[5])
  engine = make_serving_engine(model, mode, eos_ids=(stop,))
  submit = lambda **fields: engine.submit(
    [3, 4], max_new_tokens=12, sampling=SamplingConfig(**fields)
  )
  ended, ignored = submit(), submit(ignore_eos=True)
  own = submit(ignore_eos=True, stop_token_ids=(usual[1], 28))
  late = submit(min_tokens=place + 2)
  drain(engine)
  rows = [engine.result(i) for i in (ended, ignored, own, late)]
  assert rows[0].tokens == usual[: place + 1]
  assert rows[0].finish_reason is FinishReason.EOS
  assert rows[1].tokens == usual
  assert rows[1].finish_reason is FinishReason.LENGTH
  assert rows[2].tokens == usual[: usual.index(usual[1]) + 1]
  assert rows[2].finish_reason is FinishReason.EOS
  assert stop not in rows[3].tokens[: place + 2]
  assert rows[3].tokens[:place] == usual[:place]


def test_the_likeliest_tokens_are_reported(model, mode):
  engine = make_serving_engine(model, mode)
  ask = functools.partial(engine.submit, [3, 17, 8], max_new_tokens=9)
  ids = [ask(top_logprobs=6), ask(), ask(top_logprobs=2)]
  drain(engine)
  rows = list(map(engine.result, ids))
  for row in rows:
    assert row.tokens == rows[0].tokens
    assert len(row.top_logprobs) == 9
  assert rows[1].top_logprobs == ((),) * 9
  for place, top in enumerate(rows[0].top_logprobs):
    tokens, logprobs = zip(*top, strict=True)
    # Greedily chosen, it is the likeliest one.
    assert tokens[0] == rows[0].tokens[place] and len(set(tokens)) == 6
    assert logprobs[0] == pytest.approx(rows[0].logprobs[place], abs=1e-6)
    assert list(logprobs) == sorted(logprobs, reverse=True)
    assert rows[2].top_logprobs[place] == top[:2]


def test_probabilities_are_those_of_the_logits_of_the_head(model):
  plain = alone(model, [3, 17], 1, Policy(), top_logprobs=20)
  every = dict(plain.top_logprobs[0])
  sampling = SamplingConfig(
    temperature=0.7, top_k=9, seed=4, logit_bias={plain.tokens[0]: -100.0}
  )
  other = alone(model, [3, 17], 1, Policy(), sampling=sampling, top_logprobs=20)
  assert other.tokens != plain.tokens
  assert other.logprobs[0] == pytest.approx(every[other.tokens[0]], abs=1e-6)
  assert dict(other.top_logprobs[0]) == pytest.approx(every, abs=1e-6)


def test_a_seed_alone_decides_what_is_drawn(model):
  policy = LOOKUP

  def tokens(*companions):
    engine = make_engine(
      model, policy, slots=3, method=SamplingMethod.RANDOM, ticks_per_step=2
    )
    for companion in companions:
      engine.submit([9, companion], max_new_tokens=5 + companion, sampling=hot)
    engine.step()
    request_id = engine.submit([7, 3], max_new_tokens=9, sampling=seeded)
    drain(engine)
    return engine.result(request_id).tokens

  hot = SamplingConfig(temperature=2.0, seed=1)
  seeded = SamplingConfig(temperature=1.3, min_p=0.02, seed=2**40 + 7)
  expected = tokens()
  assert tokens(1, 2) == tokens(4, 1, 8) == expected
  assert expected == alone(model, [7, 3], 9, policy, sampling=seeded).tokens


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


# MARK: Work and programs


def test_stats_count_what_was_done(model):
  engine = make_serving_engine(model, LOOKUP, ticks_per_step=4)
  ids = [engine.submit(p, max_new_tokens=n) for p, n in TEXTS]
  assert engine.stats().waiting == 5 and engine.stats().running == 0
  engine.step()
  early = engine.stats()
  assert (early.running, early.waiting, early.slots) == (3, 2, 3)
  assert early.tokens > 0 and early.work.blocks_run > 0 < early.kv_usage <= 1
  engine.cancel(ids[1])
  drain(engine)
  stats = engine.stats()
  rows = list(map(engine.result, ids))
  assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0)
  assert stats.ended == {FinishReason.LENGTH: 4, FinishReason.CANCELLED: 1}
  assert stats.prompt_tokens == sum(len(p) for p, _ in TEXTS)
  depths = collections.Counter(d for row in rows for d in row.exit_depths)
  assert stats.exit_depths == dict(depths)
  assert stats.tokens == sum(len(row.tokens) for row in rows)
  assert stats.work == sum((r.accounting for r in rows), start=Accounting())
  drafters = {d.name: d for d in stats.drafters}
  assert set(drafters) == {'exit_1', 'prompt_lookup'}
  lookup = drafters['prompt_lookup']
  assert lookup.drafted == stats.work.looked_up > 0
  assert lookup.accepted == stats.work.looked_up_accepted
  assert sum(d.drafted for d in stats.drafters) == stats.work.drafted
  assert sum(d.accepted for d in stats.drafters) == stats.work.accepted


def test_a_warm_engine_traces_nothing(model, count_traces):
  engine = make_engine(
    model,
    slots=3,
    ticks_per_step=2,
    top_logprobs=4,
    method=SamplingMethod.RANDOM,
  )
  cold = count_traces(lambda: engine.warm_up(max_prompt_length=31))
  assert cold > 0
  assert engine.is_idle and engine.stats().prompt_tokens == 0

  def serve():
    for length in (1, 2, 17, 18, 26, 31, *range(3, 12)):
      sampling = SamplingConfig(
        temperature=length % 3,
        top_k=length % 4,
        seed=length,
        logit_bias={3: 2.0} if length % 2 else {},
        min_tokens=length % 5,
        stop_token_ids=(5,),
      )
      engine.submit(
        [length % 29] * length,
        max_new_tokens=4,
        sampling=sampling,
        thresholds=[0.5, None, 0.1] if length % 2 else None,
        top_logprobs=length % 4,
      )
    engine.step()
    engine.cancel(0)
    engine.stats()
    drain(engine)
    assert engine.stats().ended[FinishReason.CANCELLED] == 1

  assert count_traces(serve) == 0


def test_a_warm_engine_decodes_as_a_cold_one(model):
  engine = make_serving_engine(model, LOOKUP)
  engine.warm_up()
  request_id = engine.submit([3, 4], max_new_tokens=12)
  with pytest.raises(ArgumentError, match='while no request is there'):
    engine.warm_up()
  drain(engine)
  expected = alone(model, [3, 4], 12, LOOKUP)
  assert engine.result(request_id).tokens == expected.tokens


def test_bad_settings(model):
  engine = make_engine(model)
  for wrong, words in [
    ({'thresholds': [0.5]}, '1 thresholds for 3 exits'),
    ({'thresholds': [0.5, 2.0, None]}, 'not 2.0'),
    ({'max_new_tokens': 0}, 'at least 1'),
    ({'sampling': SamplingConfig(temperature=1.0)}, 'temperature 0'),
    ({'sampling': SamplingConfig(logit_bias={99: 1.0})}, 'token 99'),
    ({'sampling': SamplingConfig(stop_token_ids=(99,))}, 'token 99'),
    ({'sampling': SamplingConfig(stop_token_ids=range(9))}, 'may bring 8'),
    ({'top_logprobs': 1}, 'from 0 to 0'),
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
