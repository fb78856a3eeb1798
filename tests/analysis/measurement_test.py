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
"""Test measurements of candidates, with counted work in place of a clock."""

import jax
import numpy as np
import pytest

from eejax.analysis.candidate import Candidate, Promise
from eejax.analysis.measurement import MeasurementSettings, measure
from eejax.checkpoint.model import Model
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError
from eejax.testing import tiny
from eejax.testing.planted import idle_from

CONFIG = tiny.tiny_config('2:norm,3:norm', num_layers=6, max_length=64)
PROMPTS = [[3, 4, 5], [6, 7, 8], [9, 3, 7]]


def blocks_read(result):
  return Timing(decode_s=float(result.batch.block_reads))


SETTINGS = MeasurementSettings(new_tokens=8, repeats=1, clock=blocks_read)


def candidate(policy, depths=(2,), source='trained'):
  return Candidate('a way', source, depths, policy, Promise.of(policy))


@pytest.fixture(scope='module')
def idle():
  """Return a model whose blocks from the second on do nothing."""
  params = idle_from(tiny.tiny_params(CONFIG), 1)
  norm = params['backbone']['final_norm']
  params['exits'] = {e.name: {'norm': norm} for e in CONFIG.exits}
  return Model(CONFIG, params)


def test_work_that_is_saved_is_measured_and_nothing_is_lost(idle):
  always = Policy(Mode.EARLY_EXIT, 'max_prob', (0.0,))
  drafts = Policy(Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=2)
  ways = [
    candidate(always),
    candidate(always, depths=(1,), source='natural'),
    candidate(drafts),
    Candidate('none', 'natural', (), None, Promise.EMPIRICAL),
  ]
  done, noise = measure(idle, ways, PROMPTS, settings=SETTINGS)
  assert noise.value == noise.low == noise.high == 1.0
  assert done[0].measured.speedup.value == pytest.approx(3.0)
  assert done[1].measured.speedup.value == pytest.approx(6.0)
  assert done[2].measured.speedup.value > 1.0
  assert all(c.measured.loss.value == 0 for c in done[:3])
  assert done[3] is ways[3] or done[3] == ways[3]


def test_tokens_that_the_full_model_would_not_choose_are_lost():
  params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(CONFIG))
  model = Model(CONFIG, params)
  always = Policy(Mode.EARLY_EXIT, 'max_prob', (0.0,))
  seen = []
  clock = lambda result: seen.append(result.rows[0]) or Timing(decode_s=1.0)
  settings = MeasurementSettings(new_tokens=8, repeats=1, clock=clock)
  (done,), _ = measure(model, [candidate(always)], PROMPTS, settings=settings)
  # By hand: the full model after what was emitted so far.
  from eejax.decoding.generate import generate

  wrong = total = 0
  for row in {r.prompt_tokens: r for r in seen if 2 in r.exit_depths}.values():
    for t, token in enumerate(row.tokens):
      prompt = [*row.prompt_tokens, *row.tokens[:t]]
      full = generate(
        params, config=CONFIG, prompts=[prompt], max_new_tokens=1, eos_ids=()
      )
      wrong += full.rows[0].tokens[0] != token
      total += 1
  assert total == 24
  assert done.measured.loss.value == pytest.approx(wrong / total)
  assert np.isclose(done.measured.speedup.value, 1.0)


def test_there_must_be_a_prompt(idle):
  with pytest.raises(ArgumentError, match='no prompt'):
    measure(idle, [], [], settings=SETTINGS)
  with pytest.raises(ArgumentError, match='at least 1'):
    MeasurementSettings(repeats=0)
