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
import dataclasses

import numpy as np
import pytest

from eejax.analysis.candidate import Answer, Promise
from eejax.analysis.candidate_search import (
  FIELDS,
  SearchSettings,
  find_candidates,
)
from eejax.analysis.cost_model import decode_cost
from eejax.analysis.exit_placement import Budget
from eejax.analysis.part_costs import ALL_FREE, SharedReads
from eejax.capture.captured import Captured, CaptureFacts, Readout, ReadoutKind
from eejax.errors import ArgumentError
from eejax.testing import tiny

LAYERS, ROWS, LENGTH, VOCAB = 6, 16, 40, 50
CONFIG = tiny.tiny_config('', num_layers=LAYERS, vocab_size=VOCAB)


def captured(settled, *, trained=None, sure=0.9):
  """Return a text whose tokens settle at random depths and say so.

  Args:
    settled: depths to draw from.
    trained: depth of an exit that is always right, if any.
    sure: probability of what is settled; all else has 0.3.
  """
  random = np.random.default_rng(0)
  count = ROWS * LENGTH
  depth = random.choice(settled, size=count)
  answer = random.integers(1, VOCAB, count)
  readouts, right = [], []
  for d in range(LAYERS + 1):
    readouts.append(Readout(f'depth_{d}', float(d), ReadoutKind.NATURAL))
    right.append(d >= depth)
    if d == trained:
      readouts.append(Readout(f'exit_{d}', float(d), ReadoutKind.EXIT))
      right.append(np.ones(count, bool))
  right = np.array(right)
  chance = np.where(right, sure, 0.3)
  top = np.where(right, answer, 0)
  log_probs = np.log(np.stack([chance, (1 - chance) / 2], axis=-1))
  arrays = {
    'row': np.repeat(np.arange(ROWS), LENGTH),
    'position': np.tile(np.arange(LENGTH), ROWS),
    'segment': np.ones(count, int),
    'token': answer,
    'target': answer,
    'weight': np.ones(count, np.float32),
    'top_tokens': np.stack([top, np.zeros_like(top)], axis=-1).astype(np.int32),
    'top_log_probs': log_probs.astype(np.float32),
    'loss': -np.log(chance).astype(np.float32),
    'entropy': np.where(chance > 0.5, 0.5, 3.0).astype(np.float32),
    'gate_score': chance.astype(np.float32),
  }
  fields = [f.name for f in dataclasses.fields(CaptureFacts)]
  known = {
    'readouts': tuple(readouts),
    'num_layers': LAYERS,
    'num_candidates': 2,
    'vocab_size': VOCAB,
    'fields': FIELDS,
  }
  facts = CaptureFacts(**{k: v for k, v in known.items() if k in fields})
  return Captured(facts, arrays)


DEAR = SharedReads((1, 8), (1.0, 8.0))


def cost_of(shared):
  return lambda config, policy: dataclasses.replace(
    decode_cost(config, policy), shared=shared
  )


def search(text, *, shared=ALL_FREE, config=CONFIG, **budget):
  return find_candidates(
    text,
    config=config,
    cost_of=cost_of(shared),
    settings=SearchSettings(budget=Budget(**budget)),
  )


def lossy(found, source='natural'):
  return next(
    c
    for c in found.candidates
    if c.promise is Promise.EMPIRICAL and c.source == source
  )


def drafting(found):
  return next(c for c in found.candidates if c.promise is Promise.EXACT)


def answer(candidate, budget=0.05):
  return candidate.answer(budget=budget, noise=None)


@pytest.fixture(scope='module')
def easy():
  return search(captured([1, 1, 1, 6]))


def test_what_settles_early_should_pay(easy):
  best = lossy(easy)
  assert answer(best) is Answer.YES
  assert best.depths == (1,) and best.forecast.loss.value == 0.0
  assert best.policy.criterion in ('max_prob', 'margin', 'entropy')
  assert best.forecast.speedup.low > 1.05
  assert easy.natural.saved_if_stable.value == pytest.approx(
    0.75 * 5 / 6, abs=0.05
  )
  assert easy.settled[1] == pytest.approx(0.75, abs=0.05)
  assert 0 < easy.needed[1] < 0.75
  assert easy.certify_sequences > 0


def test_lossless_decoding_drafts_from_exits_the_text_and_both(easy):
  exact = [c for c in easy.candidates if c.promise is Promise.EXACT]
  by_exits, by_text, by_both = exact
  assert by_exits.policy.draft_length and by_exits.forecast is not None
  assert by_text.policy.thresholds == (None,)
  assert by_both.policy.thresholds != (None,)
  assert by_text.forecast is None and by_both.forecast is None


def test_what_settles_last_does_not_pay():
  found = search(captured([6]))
  assert lossy(found).policy is None and lossy(found).depths == ()
  assert answer(lossy(found)) is Answer.NO
  assert answer(drafting(found)) is Answer.NO
  assert found.certify_sequences is None


def test_windows_that_cost_as_much_as_tokens_leave_nothing_to_gain():
  found = search(captured([1, 1, 1, 6]), shared=DEAR)
  assert all(answer(c) is Answer.NO for c in found.candidates)
  assert all(share is None for share in found.needed.values())


def test_the_exits_of_the_model_are_candidates_beside_natural_ones():
  config = tiny.tiny_config('2:norm:gate', num_layers=LAYERS, vocab_size=VOCAB)
  found = search(captured([6], trained=2), config=config)
  own = lossy(found, 'trained')
  assert answer(own) is Answer.YES and own.depths == (2,)
  assert drafting(found).source == 'trained'
  assert drafting(found).forecast.speedup.value > 1.05
  assert lossy(found).policy is None


def test_the_budget_decides_what_may_be_lost():
  # Scores tell nothing, so speed is bought with wrong tokens alone.
  text = captured([1, 1, 1, 6], sure=0.3)
  strict, loose = search(text, agreement=0.99), search(text, agreement=0.6)
  assert lossy(strict).depths == ()
  assert lossy(loose).depths and lossy(loose).forecast.loss.value > 0.05


def test_settings_are_forecast_on_other_rows():
  # The rows that are not searched on say nothing true before the end.
  text = captured([1, 1, 1, 6])
  top = np.array(text.top_tokens)
  top[:-1, text.row >= ROWS // 2, 0] = 49
  arrays = {
    name: top if name == 'top_tokens' else text[name] for name in text.source
  }
  found = search(Captured(text.facts, arrays))
  assert lossy(found).depths == (1,)
  assert lossy(found).forecast.loss.value > 0.5


def test_one_row_is_too_little():
  text = captured([1, 6])
  with pytest.raises(ArgumentError, match='one of them is empty'):
    search(text.at_positions(text.row == 0))
