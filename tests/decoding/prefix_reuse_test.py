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
"""Test that a text that goes on from another one's keys is what it is alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.decoding.prefix_reuse import Placement, SlotTexts
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingConfig

EVERY = [0.35, 0.4, 0.5]


def early(**fields):
  return Policy(Mode.EARLY_EXIT, 'max_prob', tuple(EVERY), **fields)


EXACT = {
  'full': Policy(),
  'deferred': early(window=4),
  'recompute': early(window=4, kv_strategy=KVStrategy.RECOMPUTE),
  'speculative': Policy(
    Mode.SPECULATIVE,
    'max_prob',
    (0.2,),
    prompt_lookup=1,
    draft_length=3,
    draft_depth=1,
  ),
}
APPROXIMATE = {
  'propagate': early(kv_strategy=KVStrategy.PROPAGATE),
  'mask': early(kv_strategy=KVStrategy.MASK),
}
ANY = {**EXACT, **APPROXIMATE}

PROMPT = [3, 17, 8, 25, 11, 7, 21, 4, 4, 19, 28, 13, 6, 9, 12, 5, 14, 2]


@pytest.fixture(scope='module')
def model(lively):
  return lively('1:norm:gate,2:mlp:gate,3:block', seed=1, max_length=128)


def make_engine(model, policy, *, ticks_per_step=8, min_prefix=16):
  """Return an engine; all of one policy share programs."""
  config, params = model
  limits = EngineLimits(
    slots=2,
    max_length=60,
    ticks_per_step=ticks_per_step,
    min_prefix=min_prefix,
  )
  return Engine(params, config=config, policy=policy, limits=limits)


def drain(engine):
  while not engine.is_idle:
    engine.step()


def decode(engine, prompt, **fields):
  request_id = engine.submit(prompt, **fields)
  before = engine.stats().reused_tokens
  drain(engine)
  return engine.result(request_id), engine.stats().reused_tokens - before


def check_whole(model, row, policy):
  """Check a text against one whose prompt was run whole, in an empty slot."""
  engine = make_engine(model, policy, min_prefix=None)
  expected, _ = decode(
    engine, row.prompt_tokens, max_new_tokens=len(row.tokens)
  )
  assert row.tokens == expected.tokens
  np.testing.assert_allclose(row.logprobs, expected.logprobs, atol=2e-4)
  if policy.mode is Mode.EARLY_EXIT:
    assert row.exit_depths == expected.exit_depths


@pytest.mark.parametrize('policy', ANY.values(), ids=ANY)
def test_turns_of_a_conversation(model, policy):
  engine = make_engine(model, policy)
  text = PROMPT
  reused, lengths = [], []
  for added in ([9], [8, 1, 22] * 6, []):
    row, count = decode(engine, text, max_new_tokens=6)
    check_whole(model, row, policy)
    reused.append(count)
    lengths.append(len(text))
    text = [*text, *row.tokens, *added]
  assert reused[0] == 0
  for length, count in zip(lengths, reused[1:], strict=False):
    if policy.kv_strategy.is_exact:
      # The newest token was not fed, and deeper blocks wait for some more.
      most = length + 6 - 1
      assert most - policy.window < count <= most
    else:
      # Keys and values of tokens that exited are not those of a full pass.
      assert count == length - 1


@pytest.mark.parametrize('name', ['deferred', 'speculative'])
def test_texts_that_run_share_their_beginning(model, name):
  policy = EXACT[name]
  engine = make_engine(model, policy, ticks_per_step=3)
  ends = [[5, 9], [1], [27, 22, 8], [19, 3]]
  ids = [
    engine.submit([*PROMPT, *end], max_new_tokens=6 + 2 * i)
    for i, end in enumerate(ends)
  ]
  drain(engine)
  for request_id in ids:
    check_whole(model, engine.result(request_id), policy)
  assert engine.stats().reused_tokens >= 3 * len(PROMPT)


def test_a_prompt_that_is_there_whole(model):
  engine = make_engine(model, Policy())
  first, _ = decode(engine, PROMPT, max_new_tokens=4)
  again, reused = decode(engine, PROMPT, max_new_tokens=4)
  assert again.tokens == first.tokens
  assert reused == len(PROMPT) - 1


def test_what_was_cancelled_or_stopped_is_reused(model):
  policy = early(window=4)
  engine = make_engine(model, policy, ticks_per_step=5)
  request_id = engine.submit(PROMPT, max_new_tokens=30)
  engine.step()
  engine.cancel(request_id)
  cut = engine.result(request_id)
  assert len(cut.tokens) == 5
  row, reused = decode(engine, [*PROMPT, *cut.tokens, 4], max_new_tokens=8)
  check_whole(model, row, policy)
  assert reused > len(PROMPT)


def test_settings_of_the_text_before_are_gone(model):
  engine = make_engine(model, EXACT['deferred'])
  hot = SamplingConfig(temperature=2.0, seed=3, logit_bias={4: 9.0})
  row, _ = decode(
    engine, PROMPT, max_new_tokens=5, sampling=hot, thresholds=[0.0] * 3
  )
  row, reused = decode(engine, [*PROMPT, *row.tokens, 9], max_new_tokens=9)
  assert reused >= len(PROMPT) - 1
  check_whole(model, row, EXACT['deferred'])


def test_numbers_that_are_none_are_not_reused(model):
  config, params = model
  backbone = params['backbone']
  table = backbone['embedding']['table'].at[26].set(jnp.nan)
  broken = {**backbone, 'embedding': {'table': table}}
  engine = make_engine((config, {**params, 'backbone': broken}), Policy())
  bad = engine.submit([*PROMPT, 26, 3], max_new_tokens=4)
  # The other one has not failed yet when this one looks for its beginning.
  good = engine.submit([*PROMPT, 3], max_new_tokens=4)
  drain(engine)
  assert engine.result(bad).tokens == ()
  check_whole(model, engine.result(good), Policy())
  again, reused = decode(engine, [*PROMPT, 26, 3], max_new_tokens=4)
  assert again.tokens == ()
  # The good text alone was of use.
  assert engine.stats().reused_tokens == reused == len(PROMPT)


def test_reuse_can_be_left_out(model):
  engine = make_engine(model, Policy(), min_prefix=None)
  for _ in range(2):
    row, reused = decode(engine, PROMPT, max_new_tokens=4)
    assert reused == 0
  check_whole(model, row, Policy())
  engine = make_engine(model, Policy(), min_prefix=len(PROMPT))
  for _ in range(2):
    assert decode(engine, PROMPT, max_new_tokens=4)[1] == 0
  with pytest.raises(ArgumentError, match='min_prefix must be at least 1'):
    EngineLimits(min_prefix=0)


class TestPlaces:
  def texts(self, *texts, shortest=2):
    slots = SlotTexts(len(texts), shortest=shortest)
    for slot, text in enumerate(texts):
      if text:
        slots.put(slot, text)
    return slots

  def test_an_empty_slot_is_taken_first(self):
    slots = self.texts([1, 2, 3], [], [4])
    assert slots.place([9, 9], free=[0, 1, 2], complete=[3, 0, 1]) == Placement(
      1
    )

  def test_the_slot_that_was_freed_first_comes_next(self):
    slots = self.texts([1, 2, 3], [4, 5])
    slots.put(0, [1, 2])
    assert slots.place([9, 9], free=[0, 1], complete=[2, 2]) == Placement(1)

  def test_a_text_that_goes_on_takes_its_slot(self):
    slots = self.texts([], [1, 2, 3], [])
    found = slots.place([1, 2, 3, 4, 5], free=[0, 1, 2], complete=[0, 3, 0])
    assert found == Placement(1, source=1, reused=3)

  def test_a_text_of_which_a_part_is_shared_is_kept(self):
    slots = self.texts([], [1, 2, 3, 4])
    found = slots.place([1, 2, 9, 9], free=[0, 1], complete=[0, 4])
    assert found == Placement(0, source=1, reused=2)
    # Even where it is the one that was used longest ago.
    slots = self.texts([1, 2, 3, 4], [7, 7])
    found = slots.place([1, 2, 9, 9], free=[0, 1], complete=[4, 2])
    assert found == Placement(1, source=0, reused=2)
    slots = self.texts([], [1, 2, 3, 4])
    found = slots.place([1, 2, 9, 9], free=[1], complete=[0, 4])
    assert found == Placement(1, source=1, reused=2)

  def test_a_text_that_runs_is_never_overwritten(self):
    slots = self.texts([1, 2, 3], [7])
    found = slots.place([1, 2, 3, 4], free=[1], complete=[3, 1])
    assert found == Placement(1, source=0, reused=3)

  def test_what_is_not_complete_is_not_shared(self):
    slots = self.texts([1, 2, 3, 4])
    find = lambda n: slots.place([1, 2, 3, 4, 5], free=[0], complete=[n])
    assert find(3).reused == 3
    assert find(1) == Placement(0)

  def test_the_last_token_is_run(self):
    slots = self.texts([1, 2, 3])
    assert slots.place([1, 2, 3], free=[0], complete=[3]).reused == 2
    assert slots.place([1, 2], free=[0], complete=[3]) == Placement(0)

  def test_what_was_forgotten_is_not_shared(self):
    slots = self.texts([1, 2, 3])
    slots.forget(0)
    assert slots.place([1, 2, 3], free=[0], complete=[3]) == Placement(0)
