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
"""Tests of measuring what windows cost; no test of a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding import window_costs
from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.generate import generate
from eejax.decoding.loop.cache import BatchSettings, cache_size, empty_segment
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.loop.programs import decode_chunk
from eejax.decoding.policy.batching import ACCELERATOR, CPU
from eejax.decoding.policy.policy import Mode, Policy
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling

# Before a fixture of all tests puts what is stated in its place.
from eejax.decoding.window_costs import measure  # isort: skip

WINDOW = 4
CAPACITY = 4
TEXT = Policy(
  Mode.SPECULATIVE, 'max_prob', (None,), window=WINDOW, prompt_lookup=2
)
EXITS = Policy(Mode.SPECULATIVE, 'max_prob', (0.5,), window=WINDOW)
CASES = {'text': ('', TEXT), 'exits': ('1:norm,2:norm', EXITS)}


class Subject:
  """A model, a plan, and the settings of rows."""

  def __init__(self, model, policy, rows=2):
    self.config, params = model
    self.params = prepare(params, config=self.config)
    self.plan, thresholds = make_plan(
      self.config, policy=policy, method=SamplingMethod.GREEDY
    )
    self.size = cache_size(self.plan, longest=40)
    stated = window_costs.stated(CPU, plan=self.plan, rows=rows)
    self.settings = BatchSettings(
      end_ids=jnp.zeros((rows, 0), jnp.int32),
      thresholds=jnp.full((rows, self.plan.num_exits), 0.5),
      sampling=row_sampling(SamplingConfig(), seeds=[0] * rows),
      window_costs=window_costs.for_rows(stated, rows),
    )
    self.rows = rows

  def measure(self):
    return measure(
      self.params,
      self.settings,
      plan=self.plan,
      size=self.size,
      capacity=CAPACITY,
    )


@pytest.fixture(params=CASES.values(), ids=CASES)
def subject(request, lively):
  exits, policy = request.param
  return Subject(lively(exits), policy)


def test_a_window_of_every_width_is_run(subject):
  plan = subject.plan
  assert plan.widths == (1, 2, 4)
  for width in (0, *plan.widths):
    segments = tuple(
      empty_segment(
        plan,
        segment,
        batch_size=subject.rows,
        size=subject.size,
        dtype=jnp.float32,
      )
      for segment in plan.segments
    )
    state = window_costs._poised(
      subject.params,
      subject.settings,
      segments,
      plan=plan,
      size=subject.size,
      width=width,
    )
    state, _ = decode_chunk(
      subject.params,
      subject.settings,
      state,
      jnp.int32(min(width, 1)),
      plan=plan,
      capacity=CAPACITY,
    )
    # By the last segment, and by the final head.
    assert state.counts.passes[:, -1].tolist() == [width] * subject.rows
    assert state.counts.head_calls[:, -1].tolist() == [width] * subject.rows
    assert not state.counts.head_calls[:, :-1].any()


def test_costs_rise_from_one(subject):
  costs = subject.measure()
  assert costs.shape == (WINDOW,) and costs[0] == 1
  assert np.isfinite(costs).all() and (np.diff(costs) >= 0).all()


def test_a_program_is_measured_once(subject, monkeypatch):
  costs = subject.measure()
  monkeypatch.delattr(window_costs, '_times')
  assert subject.measure() is costs


def test_what_calls_cost_is_taken_off(lively):
  plan = Subject(lively(''), TEXT).plan
  relative = window_costs._relative({0: 1, 1: 3, 2: 4, 4: 6}, plan=plan)
  # Of two seconds, and a window of three is as wide as one of four.
  np.testing.assert_allclose(relative, [1, 1.5, 2.5, 2.5])
  # Noise makes nothing cheaper than what does less.
  relative = window_costs._relative({0: 1, 1: 3, 2: 5, 4: 4}, plan=plan)
  np.testing.assert_allclose(relative, [1, 2, 2, 2])
  relative = window_costs._relative({0: 1, 1: 3, 2: 2, 4: 2}, plan=plan)
  np.testing.assert_allclose(relative, [1, 1, 1, 1])


@pytest.mark.parametrize('costs', [[1, 1, 1, 1], [1, 9, 9, 9]])
def test_texts_draft_as_windows_cost_where_they_run(lively, monkeypatch, costs):
  measured = lambda *_, **__: np.array(costs, np.float32)
  monkeypatch.setattr(window_costs, 'measure', measured)
  config, params = lively('')
  prompt = [21, 4, 21, 4, 21, 4]
  full = generate(params, config=config, prompts=[prompt], max_new_tokens=6)
  result = generate(
    params, config=config, prompts=[prompt], policy=TEXT, max_new_tokens=6
  )
  assert result.rows[0].tokens == full.rows[0].tokens
  assert (result.accounting.drafted > 0) == (costs[1] == 1)
  # Whoever states costs is believed.
  said = generate(
    params,
    config=config,
    prompts=[prompt],
    policy=TEXT,
    max_new_tokens=6,
    platform=ACCELERATOR,
  )
  assert said.accounting.drafted > 0


def test_a_warm_engine_drafts_as_windows_cost(lively, monkeypatch):
  dear = lambda *_, **__: np.array([1, 9, 9, 9], np.float32)
  monkeypatch.setattr(window_costs, 'measure', dear)
  config, params = lively('')
  drafted = []
  for is_warm in (False, True):
    engine = Engine(
      params,
      config=config,
      policy=TEXT,
      limits=EngineLimits(slots=1, max_length=24),
      method=SamplingMethod.GREEDY,
    )
    if is_warm:
      engine.warm_up(max_prompt_length=8)
    request = engine.submit([21, 4, 21, 4, 21, 4], max_new_tokens=6)
    while not engine.is_idle:
      engine.step()
    drafted.append(engine.result(request).accounting.drafted)
  assert drafted[0] > 0 == drafted[1]
