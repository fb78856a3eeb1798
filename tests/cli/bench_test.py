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
"""Test `eejax bench`: lines, files, going on, wrong arguments."""

import html.parser
import json

import jax
import numpy as np
import pytest

from eejax.checkpoint import folder
from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.data.tokenizer import train_bpe
from eejax.evaluation.bench import Bench
from eejax.report import bench_page
from eejax.testing import tiny

SHORT = ('--prompt', 'alpha beta', '--max-new-tokens', '5', '--repeats', '1')
ONE = ('--batch-sizes', '1', '--modes', 'early_exit', '--thresholds', '0.5')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with a checkpoint, and one with other exits."""
  root = tmp_path_factory.mktemp('bench')
  random = np.random.default_rng(0)
  words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']
  tokenizer = train_bpe([' '.join(random.choice(words, 400))], vocab_size=300)
  tokenizer.save(root / 'tokenizer')
  config = tiny.tiny_config(
    '1:norm,3:mlp', vocab_size=300, bos_id=tokenizer.bos_id, max_length=64
  )
  for name, scale in (('model', 1), ('other', 2)):
    params = tiny.tiny_params(config)
    params['exits'] = jax.tree.map(lambda x, s=scale: s * x, params['exits'])
    model = Model(config, params, tokenizer_folder=root / 'tokenizer')
    saved = folder.save(root / name, model)
  (root / 'hash').write_text(saved.backbone_hash)
  return root


def run(capsys, place, out, *argv, model='model', expect=0):
  words = ['bench', place / model, *SHORT, '--out', out, *argv]
  code = main.main([str(w) for w in words])
  stdout, err = capsys.readouterr()
  assert code == expect, err
  return stdout, err


def peers_file(place, tmp_path, **changes):
  values = {
    'backbone_hashes': [(place / 'hash').read_text()],
    'lines': [
      {
        'decoder': 'transformers <generate>',
        'batch_size': 1,
        'tokens_per_s_with_prefill': 2.0,
      }
    ],
  }
  path = tmp_path / 'peers.json'
  path.write_text(json.dumps({**values, **changes}))
  return path


class Names(html.parser.HTMLParser):
  """Gather what a page would fetch."""

  def __init__(self):
    super().__init__()
    self.fetched = []

  def handle_starttag(self, tag, attrs):
    self.fetched += [v for k, v in attrs if k in ('src', 'href')]


def test_results_page_and_json(place, capsys, tmp_path):
  out = tmp_path / 'new' / 'bench.json'
  peers = ('--peers', peers_file(place, tmp_path))
  printed, err = run(capsys, place, out, *ONE, *peers, '--json')
  found = json.loads(printed)
  names = [bench_page.name_of(x['setting']) for x in found['lines']]
  assert names == ['full', 'early exit max_prob 0.5']
  kept = json.loads(out.read_text())
  assert kept['lines'] == found['lines']
  assert {'eejax', 'jax', 'device', 'cores', 'load'} <= set(kept['environment'])
  assert [t['blocks'] > 0 for t in kept['part_times']] == [True]
  for line in kept['lines']:
    assert line['predicted_speedup'] > 0 and line['speedup']['value'] > 0
    assert line['tokens'] == 5
  text = out.with_suffix('.html').read_text()
  names = Names()
  names.feed(text)
  assert names.fetched == [] and '<svg' in text
  assert 'early exit max_prob 0.5' in text
  assert 'transformers &lt;generate&gt;' in text


def test_speculation_is_measured_with_and_without_lookups(
  place, capsys, tmp_path
):
  out = tmp_path / 'bench.json'
  flags = ('--batch-sizes', '1', '--modes', 'speculative')
  printed, _ = run(capsys, place, out, *flags)
  lines = json.loads(out.read_text())['lines']
  found = [x['setting']['draft_lookup'] for x in lines]
  assert found == [None, None, 2]
  assert all(x['same_place'] == 1 for x in lines)
  assert 'speculative max_prob lookup 2 0.4' in printed


def test_what_is_there_is_not_measured_again(
  place, capsys, tmp_path, monkeypatch
):
  out = tmp_path / 'bench.json'
  measured, honest = [], Bench.measure

  def measure(self, setting, **kwargs):
    if len(measured) == 1 and setting.policy.mode.value == 'speculative':
      raise KeyboardInterrupt
    measured.append(setting.policy.mode.value)
    return honest(self, setting, **kwargs)

  monkeypatch.setattr(Bench, 'measure', measure)
  both = ('--batch-sizes', '1', '--modes', 'speculative')
  both = (*both, '--draft-lookups', '0')
  # Stopped: the line before is kept.
  run(capsys, place, out, *both, expect=130)
  first = json.loads(out.read_text())['lines']
  assert [x['setting']['mode'] for x in first] == ['full']
  measured.append('again')
  _, err = run(capsys, place, out, *both)
  assert measured == ['full', 'again', 'speculative']
  assert '1 of 2 settings are in' in err
  assert json.loads(out.read_text())['lines'][0] == first[0]
  # Nothing is left to do, and nothing is done.
  printed, _ = run(capsys, place, out, *both)
  assert measured[-1] == 'speculative' and len(measured) == 3
  assert 'speculative max_prob 0.4' in printed
  # Neither another model nor other tokens belong there.
  before = out.read_bytes()
  _, err = run(capsys, place, out, *both, model='other', expect=2)
  assert 'of another model or other exits' in err
  _, err = run(capsys, place, out, *both, '--max-new-tokens', 4, expect=2)
  assert 'with other prompts' in err
  assert out.read_bytes() == before


@pytest.mark.parametrize(
  'argv, message',
  [
    (('--modes', 'fast'), "--modes knows no 'fast'"),
    (('--kv-strategies', 'deferred,lost'), "no 'lost'"),
    (('--batchings', 'all'), "--batchings knows no 'all'"),
    (('--criteria', 'luck'), "no criterion 'luck'"),
    (('--criteria', 'gate'), 'none at depths 1, 3'),
    (('--criteria', 'patience(2,3)'), 'patience'),
    (('--thresholds', '2'), 'must lie in'),
    (('--draft-thresholds', 'high'), 'is not a threshold'),
    (('--draft-lookups', '0,-1'), '--draft-lookups takes whole numbers'),
    (('--batch-sizes', '0'), 'positive whole numbers'),
    (('--repeats', '0'), '--repeats'),
    (('--window', '99'), 'window of 99'),
    (('--peers', 'absent.json'), 'cannot be read'),
    (('--exits', '1:norm'), 'already an exit'),
    (
      ('--batchings', 'depth_queue', '--kv-strategies', 'recompute'),
      'cannot wait halfway',
    ),
  ],
)
def test_wrong_arguments_leave_nothing(place, capsys, tmp_path, argv, message):
  out = tmp_path / 'never' / 'bench.json'
  printed, err = run(capsys, place, out, *argv, expect=2)
  assert message in err and printed == ''
  assert err.count('\n') == 1
  assert not out.parent.exists()


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'backbone_hashes': ['x']}, 'other weights'),
    ({'lines': [{}]}, 'benchmarks/peers.py'),
    ({'lines': [3]}, 'benchmarks/peers.py'),
  ],
)
def test_peers_must_be_of_this_model(place, capsys, tmp_path, changes, message):
  path = peers_file(place, tmp_path, **changes)
  out = tmp_path / 'bench.json'
  _, err = run(capsys, place, out, *ONE, '--peers', path, expect=2)
  assert message in err and not out.exists()


@pytest.mark.parametrize('text', ['{', '[]', '{"format": 1}'])
def test_a_file_of_something_else_is_left_alone(place, capsys, tmp_path, text):
  out = tmp_path / 'bench.json'
  out.write_text(text)
  run(capsys, place, out, *ONE, expect=2)
  assert out.read_text() == text
  run(capsys, place, tmp_path, *ONE, expect=2)


def test_what_is_beaten_is_not_on_the_front():
  lines = [
    {'speedup': {'value': s}, 'same_place': a}
    for s, a in ((1.0, 1.0), (2.0, 0.5), (1.5, 0.5), (0.9, 1.0), (1.5, 0.9))
  ]
  beaten = [bench_page.is_beaten(x, lines) for x in lines]
  assert beaten == [False, False, True, True, False]
