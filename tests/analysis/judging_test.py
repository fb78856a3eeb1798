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
import functools

import numpy as np
import pytest

from eejax.analysis import judging
from eejax.analysis.cost_model import DecodeCost
from eejax.analysis.part_costs import ALL_FREE, SharedReads, model_cost
from eejax.analysis.placement import Budget
from eejax.analysis.verdict import Answer
from eejax.capture.captured import Captured, CaptureFacts, Readout, ReadoutKind
from eejax.errors import ArgumentError
from eejax.report import verdict_page
from eejax.stats.bootstrap import Interval
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
    'fields': judging.FIELDS,
  }
  facts = CaptureFacts(**{k: v for k, v in known.items() if k in fields})
  return Captured(facts, arrays)


cost_of_model = functools.cache(model_cost)


def cost_for(shared):
  return lambda config, criterion: DecodeCost(
    cost_of_model(config), reads_logits=criterion != 'gate', shared=shared
  )


DEAR = SharedReads((1, 8), (1.0, 8.0))


def judge(text, *, shared=ALL_FREE, config=CONFIG, **budget):
  return judging.judge(
    text,
    config=config,
    cost_for=cost_for(shared),
    machine='paper',
    budget=Budget(**budget),
  )


@pytest.fixture(scope='module')
def easy():
  return judge(captured([1, 1, 1, 6]))


def test_what_settles_early_pays(easy):
  assert easy.answer is Answer.YES
  assert easy.headline().startswith('Yes, early exit should pay here')
  assert easy.lossy.depths == (1,) and easy.lossy.agreement.value == 1.0
  assert easy.lossy.speedup.low > 1.05
  assert easy.natural.saved_if_stable.value == pytest.approx(
    0.75 * 5 / 6, abs=0.05
  )
  assert easy.settled[1] == pytest.approx(0.75, abs=0.05)
  assert 0 < easy.needed[1] < 0.75


def test_what_settles_last_does_not_and_says_why():
  found = judge(captured([6]))
  assert found.answer is Answer.NO
  assert found.headline().startswith('No: early exit will not pay')
  assert found.lossy.depths == () and found.lossy.speedup.value == 1.0
  assert 'Why not: an exit at depth' in found.sentences()[-1]
  assert 'no exits were found' in ' '.join(found.sentences())


def test_windows_that_cost_as_much_as_tokens_leave_nothing_to_gain():
  found = judge(captured([1, 1, 1, 6]), shared=DEAR)
  assert found.answer is Answer.NO
  assert all(share is None for share in found.needed.values())
  assert 'no exit would pay even if every token' in found.sentences()[-1]


def test_the_exits_of_the_model_are_judged_beside_natural_ones():
  config = tiny.tiny_config('2:norm:gate', num_layers=LAYERS, vocab_size=VOCAB)
  found = judge(captured([6], trained=2), config=config)
  assert found.answer is Answer.YES
  assert found.lossy.source == 'the exits of the model'
  assert found.lossy.depths == (2,)
  assert found.lossless.source == 'the exits of the model'
  assert found.lossless.speedup.value > 1.05


def test_the_budget_decides_what_may_be_lost():
  # Scores tell nothing, so speed is bought with wrong tokens alone.
  text = captured([1, 1, 1, 6], sure=0.3)
  strict, loose = judge(text, agreement=0.99), judge(text, agreement=0.6)
  assert strict.lossy.depths == ()
  assert loose.lossy.depths and loose.lossy.agreement.value < 0.95
  assert loose.loss == pytest.approx(0.4)


@pytest.mark.parametrize(
  'interval, answer',
  [
    ((1.2, 1.06, 1.3), Answer.YES),
    ((1.2, 1.01, 1.3), Answer.UNCLEAR),
    ((1.04, 1.0, 1.2), Answer.NO),
  ],
)
def test_an_answer_looks_at_the_whole_interval(interval, answer):
  assert Answer.of(Interval(*interval)) is answer


def test_an_unclear_answer_asks_for_more_text(easy):
  wide = Interval(1.2, 0.9, 1.4)
  none = Interval(1.0, 1.0, 1.0)
  found = dataclasses.replace(
    easy,
    lossy=dataclasses.replace(easy.lossy, speedup=wide),
    lossless=dataclasses.replace(easy.lossless, speedup=none),
  )
  assert found.answer is Answer.UNCLEAR
  assert 'probe more text' in found.headline()


@pytest.mark.parametrize(
  'measured, answer',
  [(1.2, Answer.YES), (1.03, Answer.UNCLEAR), (0.9, Answer.NO)],
)
def test_the_clock_outweighs_a_prediction(easy, measured, answer):
  timed = dataclasses.replace(
    easy.lossy, measured=Interval(measured, measured - 0.1, measured + 0.1)
  )
  none = Interval(1.0, 1.0, 1.0)
  found = dataclasses.replace(
    easy,
    lossy=timed,
    lossless=dataclasses.replace(easy.lossless, speedup=none),
  )
  assert found.answer is answer
  assert f'{measured:.2f}' in found.headline() or answer is Answer.NO
  assert 'measured' in ' '.join(found.sentences())


def test_one_row_is_too_little():
  text = captured([1, 6])
  with pytest.raises(ArgumentError, match='fills only one row'):
    judge(text.at_positions(text.row == 0))


def test_the_page_shows_all_of_it(easy):
  page = verdict_page.render(easy, {'checkpoint': 'models/<this>'})
  assert page.startswith('<!DOCTYPE html>')
  assert '<script' not in page and 'http' not in page
  assert 'models/&lt;this&gt;' in page
  assert page.count('<svg viewBox') >= 2
  for words in (easy.headline(), 'must take to pay', 'self-speculation'):
    assert words.replace("'", '&#x27;') in page
