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
import json

import jax
import numpy as np
import pytest

import eejax
from eejax.analysis import certify
from eejax.analysis.candidate import Answer
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError, EejaxError
from eejax.evaluation.part_times import PartTimes
from eejax.progress import SILENT, Bar, Progress
from eejax.recipes.calibrate import calibrate, run_calibration
from eejax.recipes.calibration.decoded_texts import FILE
from eejax.recipes.calibration.request import CalibrationRequest, read_prompts
from eejax.recipes.calibration.result import CalibrationError
from eejax.recipes.text import read_text

# A block costs as much as two heads, whatever machine the tests run on.
TIMES = PartTimes(blocks=4.0, head=0.5)
# 14 sequences and a risk of 0.2 are enough where nothing is lost.
SMALL = {
  'sequences': 24,
  'search_sequences': 6,
  'report_sequences': 3,
  'prompt_tokens': 4,
  'max_new_tokens': 6,
  'batch_size': 6,
  'window': 2,
  'risk': 0.2,
}


def half(result):
  """Return the times of a machine on which exits save half the time."""
  return Timing(decode_s=_seconds(result, early=0.5))


def twice(result):
  """Return the times of a machine on which exits take twice the time."""
  return Timing(decode_s=_seconds(result, early=2.0))


def _seconds(result, *, early):
  return early if result.policy.mode is Mode.EARLY_EXIT else 1.0


@pytest.fixture
def go(calibration_models, calibration_text):
  """Return a function that calibrates with small numbers."""

  def run(model='perfect', text=calibration_text, clock=half, **more):
    if isinstance(model, str):
      model = calibration_models[model]
    given = {'times': TIMES, 'clock': clock, 'required': True}
    return calibrate(model, text, **{**given, **SMALL, **more})

  return run


@pytest.fixture(scope='module')
def look(calibration_models, calibration_text):
  """Return a function that returns all of a small calibration."""

  def run(model='perfect', clock=half, folder=None, progress=SILENT, **more):
    if isinstance(model, str):
      model = calibration_models[model]
    return run_calibration(
      model,
      calibration_text,
      CalibrationRequest(**{**SMALL, **more}),
      times=TIMES,
      clock=clock,
      folder=folder,
      progress=progress,
    )

  return run


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  """Return a folder that keeps decoded texts."""
  return tmp_path_factory.mktemp('kept')


@pytest.fixture(scope='module')
def counted(look, kept):
  """Return a calibration of perfect exits, and how many batches it took."""
  counter = Counter()
  return look(folder=kept, progress=counter), counter.batches


@pytest.fixture(scope='module')
def result(counted):
  """Return a calibration of perfect exits."""
  return counted[0]


class Counter(Progress):
  """Count batches that are decoded; interrupt after some."""

  def __init__(self, interrupt_at=None):
    self.batches, self.resumed = 0, 0
    self._interrupt_at = interrupt_at

  def bar(self, what, *, total=None, unit='step'):
    counter = self

    class TextBar(Bar):
      def start_at(self, done):
        counter.resumed += done

      def update(self, count=1, **values):
        if unit == 'text':
          counter.batches += 1
          if counter.batches == counter._interrupt_at:
            raise KeyboardInterrupt

    return TextBar()


# MARK: What is certified


def test_perfect_exits_are_certified_and_measured(result):
  policy = result.policy()
  held = policy.certificate
  assert policy.mode is Mode.EARLY_EXIT
  assert (held.risk, held.delta, held.mean_loss) == (0.2, 0.05, 0.0)
  assert held.sequences == 24 and held.p_value == pytest.approx(0.8**24)
  assert held.data['searched'] == 6 and held.measure == 'local'
  assert result.speedup.value == 2 and result.verdict.answer is Answer.YES
  assert result.verdict.noise.value == 1 and result.verdict.prompts == 3
  assert result.report_loss == 0
  assert 'certified at 0.95' in result.summary()
  assert 'early exit pays' in result.summary()
  taken = [r for r in result.table() if r['certified'] == 'yes, taken']
  assert [r['measured speed'] for r in taken] == [2.0]


def test_it_is_a_public_name():
  assert eejax.calibrate is calibrate


def test_the_result_shows_and_saves_itself(result, tmp_path):
  values = json.loads(json.dumps(result.to_json()))
  assert values['settings'][0]['criterion'] == result.paths[0].criterion
  result.save(tmp_path / 'calibration.json')
  saved = json.loads((tmp_path / 'calibration.json').read_text())
  assert saved['certified'] is True and saved['verdict']['prompts'] == 3
  assert '<table' in result._repr_html_()
  axes = result.plot().axes[0]
  assert 'local loss' in axes.get_ylabel()


def test_the_same_again_gives_the_same_policy(go, result):
  assert go() == result.certified


@pytest.mark.parametrize('measure', ['rouge_l', 'same_place'])
def test_other_measures_and_conformal_control(go, measure):
  held = go(measure=measure, method='conformal').certificate
  assert held.method == 'conformal' and held.delta is None
  assert held.measure == measure and held.p_value is None


def test_a_measure_of_ones_own_is_a_function(go, calibration_models):
  seen = set()

  def half_lost(ours, full, *, prompt):
    seen.add((len(ours), len(full), len(prompt)))
    return 0.5

  with pytest.raises(CalibrationError, match='lose 0.5000') as caught:
    go(measure=half_lost)
  assert seen == {(6, 6, 4)}
  name = caught.value.result.to_json()['request']['measure']
  assert name.endswith('half_lost')


def test_a_measure_of_ones_own_reads_the_texts_own_continuation(
  go, calibration_models, calibration_text
):
  tokenizer = calibration_models['perfect'].tokenizer
  texts = ' '.join(calibration_text.documents())
  seen = []

  def half_lost(*, prompt, prompt_text, reference, reference_text, ours_text):
    assert tokenizer.decode(reference) == reference_text
    assert tokenizer.decode(prompt) == prompt_text and ours_text
    seen.append((len(prompt), len(reference), prompt_text + reference_text))
    return 0.5

  with pytest.raises(CalibrationError, match='lose 0.5000'):
    go(measure=half_lost)
  assert {size[:2] for size in seen} == {(4, 6)}
  assert all(text in texts for *_, text in seen)


def test_random_exits_are_not_certified(go):
  with pytest.raises(CalibrationError) as caught:
    go('random', criterion='max_prob')
  assert isinstance(caught.value, EejaxError)
  result = caught.value.result
  assert result.certified is None and result.verdict is None
  assert str(caught.value) == result.summary()
  if result.certification is not None:
    assert 'nothing can be certified' in result.summary()


def test_without_a_certificate_full_decoding_is_returned(go, tmp_path):
  policy = go('random', criterion='max_prob', required=False)
  assert policy.mode is Mode.FULL and policy.certificate is None
  with pytest.raises(CalibrationError) as caught:
    go('random', criterion='max_prob')
  assert policy.note == str(caught.value)
  policy.save(tmp_path / 'policy.json')
  assert Policy.load(tmp_path / 'policy.json') == policy


def test_too_few_sequences_say_how_many_are_needed(go):
  # A loss of 0.25 for each sequence is certified below 0.4 by enough of them.
  with pytest.raises(CalibrationError, match=r'about \d\d sequences would'):
    go(measure=lambda ours, full: 0.25, risk=0.4, sequences=8)


def test_exits_that_save_no_time_are_said_to(look):
  result = look(model='random', criterion='max_prob', window=1)
  assert result.certification is None and result.table() == []
  assert 'no thresholds save time' in result.summary()
  assert result.to_json()['certified'] is False
  assert result.plot().axes[0].get_title() == 'nothing to certify'


# MARK: Speed


def test_a_slower_policy_is_returned_only_where_asked(go):
  with pytest.raises(CalibrationError, match='does not pay') as caught:
    go(clock=twice)
  result = caught.value.result
  assert result.is_slower and result.certified is not None
  assert go(clock=twice, allow_slower=True) == result.certified


def test_a_speed_within_the_noise_is_undecided(look):
  noise = iter(np.random.default_rng(0).uniform(0.5, 1.5, 1000))
  gain = lambda result: _seconds(result, early=0.8)
  result = look(clock=lambda r: Timing(decode_s=gain(r) * next(noise)))
  assert result.verdict.answer is Answer.UNDECIDED
  assert 'Undecided' in result.summary()
  assert result.policy() == result.certified


# MARK: Prompts


def test_the_parts_share_no_document(calibration_models, calibration_text):
  prompts = read_prompts(
    calibration_models['perfect'],
    calibration_text,
    CalibrationRequest(**SMALL),
  )
  sizes = [len(p) for p in (prompts.search, prompts.certify, prompts.report)]
  assert sizes == [6, 24, 3]
  prompts.check_disjoint()
  model = calibration_models['perfect']
  document_of = {}
  for number, text in enumerate(calibration_text.documents()):
    ids = tuple(model.tokenizer.encode_documents([text])[0])
    for first in range(0, len(ids) - 3):
      document_of.setdefault(ids[first : first + 4], set()).add(number)
  documents = [
    {n for p in part for n in document_of[p] if len(document_of[p]) == 1}
    for part in (prompts.search, prompts.certify, prompts.report)
  ]
  assert not documents[0] & documents[1]
  assert not documents[1] & documents[2]


def test_search_may_read_another_text(go, calibration_folder):
  other = read_text(calibration_folder / 'other.txt', unit='line')
  assert go(search_text=other).certificate.data['search_name'] == other.source


def test_prompts_of_both_texts_are_refused(go, calibration_text):
  with pytest.raises(ArgumentError, match='were searched on, too'):
    go(search_text=calibration_text, search_sequences=400)


@pytest.mark.parametrize(
  'more, message',
  [
    ({'risk': 0}, 'risk must lie between 0 and 1'),
    ({'risk': float('nan')}, 'risk must lie between 0 and 1'),
    ({'delta': 1.5}, 'delta must lie between 0 and 1'),
    ({'sequences': 5}, 'takes at least 14 sequences'),
    ({'batch_size': 0}, 'batch_size must be at least 1'),
    ({'measure': 'luck'}, "no measure 'luck'"),
    ({'method': 'luck'}, 'method must be one of learn_then_test, conformal'),
    ({'bound': 'luck'}, 'bound must be one of hoeffding, '),
    ({'dtype': 'int8'}, 'dtype must be one of float32'),
    ({'criterion': 'luck'}, "no criterion 'luck'"),
    ({'prompt_tokens': 39}, 'more than the context of the model, 40'),
  ],
)
def test_wrong_arguments_are_refused(go, more, message):
  with pytest.raises(ArgumentError, match=message):
    go(**more)


def test_a_text_that_is_too_short_is_refused(go, calibration_folder):
  short = read_text(calibration_folder / 'short.txt', unit='line')
  with pytest.raises(ArgumentError, match='give more text'):
    go(text=short, prompt_tokens=8)


def test_a_model_without_exits_is_refused(go, calibration_models):
  model = calibration_models['perfect']
  bare = dataclasses.replace(model, config=model.config.with_exits(()))
  with pytest.raises(ArgumentError, match='no exits to calibrate'):
    go(bare)


def test_a_text_is_as_long_as_was_certified_where_nobody_says_it(
  result, calibration_models
):
  model = calibration_models['perfect']
  out = eejax.generate(model, 'alpha', policy=result.certified)
  assert len(out.rows[0].tokens) == SMALL['max_new_tokens']
  with pytest.raises(ArgumentError, match='certified for texts of up to 6'):
    eejax.generate(model, 'alpha', policy=result.certified, max_new_tokens=7)


# MARK: Resumption


def test_a_calibration_that_was_stopped_goes_on(look, counted, tmp_path):
  whole, batches = counted
  with pytest.raises(KeyboardInterrupt):
    look(folder=tmp_path / 'kept', progress=Counter(interrupt_at=4))
  kept = tmp_path / 'kept' / FILE
  assert len(kept.read_text().splitlines()) == 4
  rest = Counter()
  assert look(folder=tmp_path / 'kept', progress=rest).certified == (
    whole.certified
  )
  assert rest.batches == batches - 4


def test_what_was_decoded_serves_another_risk(look, counted, kept):
  counter = Counter()
  look(folder=kept, progress=counter, delta=0.01, risk=0.19)
  assert counter.batches == 0 and counter.resumed > 0


@pytest.mark.parametrize('what', ['weights', 'exits', 'config', 'new_tokens'])
def test_texts_of_another_model_are_not_taken(
  what, look, counted, kept, calibration_models
):
  model = calibration_models['perfect']
  params, config, more = dict(model.params), model.config, {}
  scaled = lambda tree: jax.tree.map(lambda x: x * 1.001, tree)
  match what:
    case 'weights':
      params['backbone'] = scaled(params['backbone'])
    case 'exits':
      params['exits'] = scaled(params['exits'])
    case 'config':
      rotary = dataclasses.replace(config.model.rotary, theta=5000.0)
      changed = dataclasses.replace(config.model, rotary=rotary)
      config = dataclasses.replace(config, model=changed)
    case 'new_tokens':
      more = {'max_new_tokens': 5}
  other = dataclasses.replace(model, params=params, config=config)
  # The first batch that is decoded shows that none is taken.
  counter = Counter(interrupt_at=1)
  with pytest.raises(KeyboardInterrupt):
    look(other, folder=kept, progress=counter, **more)
  assert counter.resumed == 0


def test_a_folder_that_cannot_be_written_is_refused(look, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ArgumentError, match='decoded texts cannot be kept'):
    look(folder=tmp_path / 'file')


def test_losses_are_of_the_part_that_is_certified(result):
  certificate = result.certified.certificate
  assert certificate.data['certify_hash'] != certificate.data['search_hash']
  assert result.certification.sequences == 24
  assert certify.data_hash([(1,), (2,)]) == certify.data_hash([(2,), (1,)])
