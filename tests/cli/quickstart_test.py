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
"""Test the quickstart end to end on a random tiny model."""

import contextlib
import io
import json
import re

import numpy as np
import pytest

from eejax.checkpoint import folder, huggingface_export
from eejax.checkpoint.model import Model
from eejax.cli import (
  main,
  quickstart_decoding,
  quickstart_speed,
  quickstart_stages,
)
from eejax.config import parse_exits
from eejax.data.tokenizer import train_bpe
from eejax.errors import ArgumentError
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']
STAGES = list(quickstart_stages.TITLES)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with a text and a random Hugging Face model."""
  root = tmp_path_factory.mktemp('quickstart')
  random = np.random.default_rng(0)
  documents = [' '.join(random.choice(WORDS, 60)) for _ in range(160)]
  text = '\n\n'.join(documents)
  (root / 'text.txt').write_text(text)
  tokenizer = train_bpe([text], vocab_size=300)
  tokenizer.save(root / 'tokenizer')
  config = tiny.tiny_config(
    '',
    vocab_size=300,
    max_length=96,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
  )
  model = Model(
    config, tiny.tiny_params(config), tokenizer_folder=root / 'tokenizer'
  )
  huggingface_export.export_folder(model, root / 'backbone')
  return root


def arguments(place, *more, out='out'):
  sizes = {
    'steps': 8,
    'eval-tokens': 600,
    'prompts': 2,
    'new-tokens': 12,
    'window': 2,
    'repeats': 1,
  }
  argv = ['quickstart', '--backbone', place / 'backbone', '--json']
  argv += ['--data', place / 'text.txt', '--out', place / out]
  for name, value in sizes.items():
    argv += [f'--{name}', value]
  return [str(a) for a in (*argv, *more)]


def run(capsys, place, *more, out='out'):
  code = main.main(arguments(place, *more, out=out))
  captured = capsys.readouterr()
  return code, captured.out, captured.err


@pytest.fixture(scope='module')
def finished(place):
  """Return the summary of a finished quickstart, and what it said."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main.main(arguments(place))
  assert code == 0, err.getvalue()
  return json.loads(out.getvalue()), err.getvalue()


class TestFinished:
  def test_the_summary_is_written_and_printed(self, place, finished):
    summary, _ = finished
    written = json.loads((place / 'out' / 'summary.json').read_text())
    assert written == summary

  def test_every_stage_was_told(self, finished):
    _, said = finished
    for number, (title, _) in enumerate(
      quickstart_stages.TITLES.values(), start=1
    ):
      assert f'[{number}/{len(STAGES)}] {title} (about' in said

  def test_four_exits_were_tuned_on_a_frozen_backbone(self, place, finished):
    summary, _ = finished
    assert summary['model']['backbone_unchanged'] is True
    assert list(summary['exit_kinds']) == ['exit_1', 'exit_2', 'exit_3']
    tuned = folder.load(place / 'out' / 'tuning' / 'model')
    plain = folder.load(place / 'out' / 'backbone')
    np.testing.assert_array_equal(
      tuned.params['backbone']['blocks']['mlp']['up']['kernel'],
      plain.params['backbone']['blocks']['mlp']['up']['kernel'],
    )
    before, after = (
      [h['loss']['value'] for h in summary[when]['heads']]
      for when in ('before', 'after')
    )
    assert before[-1] == after[-1]
    assert all(a != b for a, b in zip(before[:-1], after[:-1], strict=True))

  def test_the_curve_goes_from_the_first_step_to_the_last(self, finished):
    curve = finished[0]['tuning']['curve']
    steps = [c['step'] for c in curve]
    assert steps[0] == 0 and steps[-1] == 8 and len(steps) > 4
    assert all('exit_1/loss' in c and 'final/loss' in c for c in curve)

  def test_speed_was_measured_and_predicted(self, finished):
    speed = finished[0]['speed']
    assert speed['new_tokens'] == 12 and speed['prompts'] == 2
    settings = speed['settings']
    assert [s['calibrated'] for s in settings].count(True) == 1
    for s in settings:
      assert s['measured']['low'] <= s['measured']['value']
      assert s['predicted'] > 0
      assert sum(s['exit_shares']) == pytest.approx(1)
      assert 0 <= s['point']['agreement']['value'] <= 1
    assert speed['noise']['low'] <= speed['noise']['value']
    never = [s for s in settings if set(s['thresholds']) == {None}][0]
    assert never['mean_depth'] == 4.0
    assert never['same_place_same_token'] == 1.0

  def test_lossless_decoding_was_measured_beside(self, finished):
    summary, speed = finished[0], finished[0]['speed']
    found = speed['lossless']
    assert found['same_texts'] == found['texts'] == speed['prompts']
    assert 0 < found['accepted'] <= found['drafted']
    value = found['measured']['value']
    said = f'at {value:.2f} times the speed of full decoding'
    assert any(said in line for line in summary['meaning'])
    assert any('all 2 texts here are' in line for line in summary['meaning'])

  def test_thresholds_keep_the_agreement(self, finished):
    best = finished[0]['sweep']['calibrated']
    assert best['target'] == 0.97
    # A text this small certifies nothing, and says so.
    assert best['thresholds'] == [None] * 3
    assert best['held_out']['agreement']['value'] == 1.0
    certified = finished[0]['sweep']['certified']
    assert certified['certified'] is False
    assert 'sequences' in certified['sentence']
    assert certified['sentence'] in ' '.join(finished[0]['meaning'])

  def test_samples_have_a_depth_a_token(self, finished):
    samples = finished[0]['samples']['texts']
    assert len(samples) == 2
    for sample in samples:
      size = len(sample['pieces'])
      assert 0 < size <= 12
      assert len(sample['depths']) == len(sample['scores']) == size
      assert set(sample['depths']) <= {1, 2, 3, 4}

  def test_the_report_is_one_file(self, place, finished):
    text = (place / 'out' / 'report.html').read_text()
    assert text.startswith('<!DOCTYPE html>')
    assert text.count('<svg viewBox="0 0 380') >= 6
    assert not re.search(r'https?:|<script|<link|src=', text)

  def test_the_environment_is_told(self, finished):
    assert {'jax', 'cores', 'processor'} <= finished[0]['environment'].keys()

  def test_the_commands_can_be_typed(self, finished):
    for command in finished[0]['commands']:
      assert command.split()[1] in main.VERBS

  def test_again_nothing_is_done(self, place, finished, capsys, monkeypatch):
    def refuse(*args, **kwargs):
      raise AssertionError('this stage is done')

    for name in ('_import', '_probe', '_add_exits', '_evaluate', '_tune'):
      monkeypatch.setattr(quickstart_stages, name, refuse)
    for name in ('_thresholds', '_speed', '_samples'):
      monkeypatch.setattr(quickstart_decoding, name, refuse)
    code, out, err = run(capsys, place)
    assert code == 0, err
    assert err.count('done before') == len(STAGES)
    again = json.loads(out)
    first = finished[0]
    for part in ('probe', 'before', 'tuning', 'after', 'speed', 'samples'):
      assert again[part] == first[part]

  def test_other_repeats_time_again_and_tune_nothing(
    self, place, finished, capsys
  ):
    code, out, err = run(capsys, place, '--repeats', 2)
    assert code == 0, err
    assert err.count('done before') == len(STAGES) - 2
    assert json.loads(out)['speed']['repeats'] == 2


class TestInterrupted:
  def test_it_goes_on_where_it_was_stopped(
    self, place, finished, capsys, monkeypatch
  ):
    def stop(*args, **kwargs):
      raise KeyboardInterrupt

    with monkeypatch.context() as patched:
      patched.setattr(quickstart_stages, '_add_exits', stop)
      code, out, _ = run(capsys, place, out='stopped')
      assert (code, out) == (130, '')
      assert not (place / 'stopped' / 'summary.json').exists()
    with monkeypatch.context() as patched:
      patched.setattr(quickstart_stages, '_evaluate', stop)
      code, _, err = run(capsys, place, out='stopped')
      assert code == 130
      assert err.count('done before') == 2


@pytest.mark.parametrize('exits, drafts', [('2:norm', True), ('4:norm', False)])
def test_lossless_decoding_takes_an_exit_that_leaves_blocks(exits, drafts):
  model = Model(tiny.tiny_config(exits), {})
  policy = quickstart_speed.lossless_policy(model, window=4)
  assert (policy is not None) == drafts


class TestExits:
  @pytest.mark.parametrize(
    'layers, depths',
    [(12, (3, 5, 6, 9)), (5, (1, 2, 3, 4)), (2, (1,)), (32, (8, 12, 16, 24))],
  )
  def test_default_places(self, layers, depths):
    config = tiny.tiny_model_config(num_layers=layers)
    exits = parse_exits(quickstart_stages.default_exits(config))
    assert tuple(e.depth for e in exits) == depths

  def test_one_block_is_too_few(self):
    with pytest.raises(ArgumentError, match='one block'):
      quickstart_stages.default_exits(tiny.tiny_model_config(num_layers=1))

  def test_exits_without_gates_are_judged_by_their_probability(
    self, place, finished, capsys
  ):
    code, out, err = run(
      capsys, place, '--exits', '2:norm', '--steps', 2, out='no_gates'
    )
    assert code == 0, err
    summary = json.loads(out)
    names = [c['criterion'] for c in summary['sweep']['criteria']]
    assert names == ['max_prob', 'margin', 'entropy']
    assert list(summary['exit_kinds']) == ['exit_2']


class TestBadInput:
  @pytest.mark.parametrize(
    'more, words',
    [
      (('--backbone', '/nowhere'), 'no backbone at /nowhere'),
      (('--exits', '2:hat'), "'hat'"),
      (('--exits', '9:norm'), 'beyond the model'),
      (('--target', '2'), 'target agreement'),
      (('--steps', '0'), 'not a number above 0'),
      (('--new-tokens', '96'), 'fewer --new-tokens'),
    ],
  )
  def test_it_is_refused(self, place, finished, capsys, more, words):
    code, out, err = run(capsys, place, *more, out='out')
    assert (code, out) == (2, '')
    assert words in err

  def test_a_folder_of_something_else(self, place, capsys):
    code, _, err = run(capsys, place, out='tokenizer')
    assert code == 2
    assert 'holds something else' in err
