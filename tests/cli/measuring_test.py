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
"""Test the verbs that measure a model: eval and probe."""

import json

import jax
import numpy as np
import pytest

from eejax.checkpoint import folder, huggingface_export
from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.data.tokenizer import train_bpe
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with a text, a checkpoint and a Hugging Face folder."""
  root = tmp_path_factory.mktemp('measured')
  random = np.random.default_rng(0)
  text = '\n\n'.join(' '.join(random.choice(WORDS, 30)) for _ in range(40))
  (root / 'text.txt').write_text(text)
  tokenizer = train_bpe([text], vocab_size=300)
  tokenizer.save(root / 'tokenizer')
  config = tiny.tiny_config(
    '1:norm:gate,3:mlp:gate',
    vocab_size=300,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
  )
  params = tiny.tiny_params(config)
  model = Model(config, params, tokenizer_folder=root / 'tokenizer')
  folder.save(root / 'model', model)
  bare = Model(
    config.with_exits(()),
    {**params, 'exits': {}},
    tokenizer_folder=root / 'tokenizer',
  )
  huggingface_export.export_folder(bare, root / 'huggingface')
  return root


def run(capsys, *argv):
  code = main.main([str(a) for a in argv])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def arguments(place, *more):
  data = ('--data', place / 'text.txt', '--sequence-length', 24)
  return (*data, '--unit', 'paragraph', '--max-tokens', 600, *more)


class TestEval:
  def test_json_and_a_table_with_a_sweep(self, place, capsys):
    code, out, err = run(
      capsys,
      'eval',
      place / 'model',
      *arguments(place, '--sweep', '--json'),
    )
    assert code == 0, err
    result = json.loads(out)
    heads = result['quality']['heads']
    assert [h['name'] for h in heads] == ['exit_1', 'exit_3', 'final']
    assert (result['split'], result['sweep']['criterion']) == ('all', 'gate')
    assert 'perplexity' in err and 'bootstrap over rows' in err
    assert 'cheapest thresholds for 97.0% agreement' in err

  def test_a_huggingface_folder_has_a_final_head(self, place, capsys):
    code, out, _ = run(
      capsys, 'eval', place / 'huggingface', *arguments(place, '--json')
    )
    assert code == 0
    heads = json.loads(out)['quality']['heads']
    assert [h['name'] for h in heads] == ['final']

  @pytest.mark.parametrize(
    'more, code, words',
    [
      (('--data', 'nowhere.txt'), 2, 'no file nowhere.txt'),
      (('--criterion', 'hope'), 2, 'hope'),
      (('--conversations', 'a.jsonl'), 2, '--data and --conversations both'),
    ],
  )
  def test_bad_input(self, place, capsys, more, code, words):
    found, out, err = run(
      capsys, 'eval', place / 'model', *arguments(place, '--sweep', *more)
    )
    assert (found, out) == (code, '')
    assert words in err and err.count('\n') <= 2

  def test_no_model_there(self, place, capsys):
    code, _, err = run(capsys, 'eval', place / 'none', *arguments(place))
    assert code == 2
    assert 'there is no folder' in err


class TestProbe:
  @pytest.mark.parametrize('kind', ['model', 'huggingface'])
  def test_every_depth_is_read(self, place, capsys, kind):
    code, out, err = run(
      capsys, 'probe', place / kind, *arguments(place, '--json')
    )
    assert code == 0, err
    found = json.loads(out)
    depths = found['natural_exits']['depths']
    assert [d['depth'] for d in depths] == [0, 1, 2, 3, 4]
    assert depths[-1]['agreement']['value'] == 1.0
    assert sum(d['stable'] for d in depths) == pytest.approx(1)
    assert found['natural_exits']['level'] == 'empirical, teacher-forced'
    assert found['head_in_blocks'] > 0
    assert found['answer'] in ('yes', 'undecided', 'no')
    # The contexts of these models have no room for what is measured.
    assert found['is_forecast'] and found['noise'] is None
    assert found['headline'].startswith('Forecast (nothing was measured)')
    candidates = found['candidates']
    assert all(c['measured'] is None for c in candidates)
    assert {c['promise'] for c in candidates} == {'exact', 'empirical'}
    assert {c['source'] for c in candidates} <= {'natural', 'trained'}
    assert found['machine'] == 'this machine'

  def test_a_page_is_written_for_another_machine(self, place, capsys):
    code, out, err = run(
      capsys,
      'probe',
      place / 'model',
      *arguments(place, '--json', '--hardware', 'h100_80g'),
      *('--out', place / 'probe.html', '--loss', 0.3, '--max-exits', 1),
    )
    assert code == 0, err
    found = json.loads(out)
    assert found['machine'] == 'H100 80GB SXM (roofline)'
    assert found['window_factor'] == 1.0
    lossy = [c for c in found['candidates'] if c['promise'] == 'empirical']
    assert all(len(c['depths']) <= 1 for c in lossy)
    assert found['is_forecast']
    text = (place / 'probe.html').read_text()
    assert found['headline'].split(':')[0] in text

  @pytest.mark.parametrize(
    'more, words',
    [
      (('--loss', 1), 'loss must lie in'),
      (('--loss', 'nan'), 'loss must lie in'),
      (('--window', 0), 'must be at least 1'),
      (('--max-exits', 0), 'must be at least 1'),
      (('--hardware', 'abacus'), "no hardware 'abacus'"),
    ],
  )
  def test_wrong_questions_are_refused(self, place, capsys, more, words):
    code, out, err = run(
      capsys, 'probe', place / 'model', *arguments(place, *more)
    )
    assert code == 2 and words in err

  def test_people_get_a_table_and_a_verdict(self, place, capsys):
    code, out, _ = run(capsys, 'probe', place / 'model', *arguments(place))
    assert code == 0
    assert 'stable from here %' in out
    assert 'Ceiling: ' in out and 'Forecast' in out
    assert 'measured speed-up' in out

  def test_the_standard_library_is_the_default_text(self, place, capsys):
    code, out, _ = run(
      capsys,
      'probe',
      place / 'model',
      *('--json', '--max-tokens', 300, '--sequence-length', 24),
    )
    assert code == 0
    found = json.loads(out)
    assert (found['data'], found['split']) == ('stdlib', 'validation')

  def test_bfloat16(self, place, capsys):
    code, out, _ = run(
      capsys,
      'probe',
      place / 'model',
      *arguments(place, '--json', '--dtype', 'bfloat16'),
    )
    assert code == 0
    assert json.loads(out)['dtype'] == 'bfloat16'


def test_idle_blocks_show_in_the_verdict(place, capsys, tmp_path):
  # With three of four blocks idle, three quarters could be skipped.
  held = folder.load(place / 'model')
  blocks = held.params['backbone']['blocks']
  silent = jax.tree.map(lambda x: x.at[1:].set(0), blocks)
  attention = {**blocks['attention'], 'output': silent['attention']['output']}
  mlp = {**blocks['mlp'], 'down': silent['mlp']['down']}
  backbone = {
    **held.params['backbone'],
    'blocks': {**blocks, 'attention': attention, 'mlp': mlp},
  }
  planted = Model(
    held.config.with_exits(()),
    {'backbone': backbone, 'exits': {}},
    tokenizer_folder=held.tokenizer_folder,
  )
  folder.save(tmp_path / 'planted', planted)
  code, out, _ = run(
    capsys, 'probe', tmp_path / 'planted', *arguments(place, '--json')
  )
  assert code == 0
  found = json.loads(out)
  assert found['natural_exits']['saved_if_stable']['value'] >= 0.75
