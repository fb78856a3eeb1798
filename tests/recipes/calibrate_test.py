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
import json

import jax
import numpy as np
import pytest

from eejax.analysis.certify import Text
from eejax.checkpoint import folder, surgery
from eejax.checkpoint.model import Model
from eejax.cli import calibrate_path, calibrate_work, main
from eejax.recipes.calibration.decoded_texts import DecodedTexts
from eejax.config import parse_exits
from eejax.data.tokenizer import train_bpe
from eejax.decoding.policy import policy as policy_lib
from eejax.testing import tiny
from eejax.testing.planted import idle_from

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']
# 20 sequences and a risk of 0.2 are enough where nothing is lost.
SMALL = {
  'sequences': 24,
  'search-sequences': 6,
  'prompt-tokens': 4,
  'max-new-tokens': 6,
  'batch-size': 6,
  'window': 2,
  'risk': 0.2,
}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with texts and models with perfect and with poor exits."""
  root = tmp_path_factory.mktemp('calibrate')
  random = np.random.default_rng(0)
  documents = [' '.join(random.choice(WORDS, 12)) for _ in range(60)]
  (root / 'text.txt').write_text('\n'.join(documents))
  (root / 'short.txt').write_text('\n'.join(documents[:6]))
  (root / 'latin.txt').write_bytes('\n'.join(documents).encode() + b'\xe9t\xe9')
  tokenizer = train_bpe(['\n'.join(documents)], vocab_size=290)
  tokenizer.save(root / 'tokenizer')
  config = tiny.tiny_config(
    '',
    vocab_size=290,
    max_length=40,
    num_layers=4,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
  )
  params = tiny.tiny_params(config)
  for name, ready in (('perfect', idle_from(params, 1)), ('random', params)):
    with_exits, configured = surgery.add_exits(
      ready,
      config,
      parse_exits('1:norm,3:norm'),
      key=jax.random.key(0),
    )
    folder.save(
      root / name,
      Model(configured, with_exits, tokenizer_folder=root / 'tokenizer'),
    )
  return root


@pytest.fixture(autouse=True)
def steady_clock(monkeypatch):
  """Let a block cost as much as a head, whatever this machine is up to."""
  times = calibrate_work.PartTimes(blocks=4.0, head=0.5)
  monkeypatch.setattr(
    calibrate_work.part_times, 'part_times', lambda *a, **k: times
  )


def run(capsys, place, model='perfect', out='policy.json', **more):
  argv = ['calibrate', place / model, '--data', place / 'text.txt']
  argv += ['--unit', 'line', '--out', place / out, '--json']
  given = {k.replace('_', '-'): v for k, v in more.items()}
  for name, value in {**SMALL, **given}.items():
    argv += [f'--{name}', value]
  code = main.main([str(a) for a in argv])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def test_perfect_exits_are_certified_and_enforced(capsys, place):
  code, out, err = run(capsys, place)
  assert code == 0, err
  result = json.loads(out)
  assert result['certified'] is True
  policy = policy_lib.load_policy(place / 'policy.json')
  held = policy.certificate
  assert (held.risk, held.delta, held.mean_loss) == (0.2, 0.05, 0.0)
  assert held.sequences == 24 and held.p_value == pytest.approx(0.8**24)
  assert result['policy']['certificate']['data']['searched'] == 6
  assert not list(place.glob('.*decoded'))
  generate = ['generate', '--prompt', 'alpha', '--max-new-tokens', '5']
  generate += ['--policy', place / 'policy.json', '--json']
  assert main.main([str(a) for a in (*generate, place / 'perfect')]) == 0
  captured = capsys.readouterr()
  depths = json.loads(captured.out)['results'][0]['exit_depths']
  assert min(depths) < 4
  assert 'certified at 0.95' in captured.err
  for wrong, words in (
    ([place / 'random'], 'another model'),
    ([place / 'perfect', '--dtype', 'bfloat16'], 'certified in float32'),
    ([place / 'perfect', '--kv', 'int8'], 'decodes in int8'),
  ):
    assert main.main([str(a) for a in (*generate, *wrong)]) == 2
    assert words in capsys.readouterr().err
  assert (
    main.main(
      [
        str(a)
        for a in (
          *generate[:3],
          '--temperature',
          1,
          *generate[5:],
          place / 'perfect',
        )
      ]
    )
    == 0
  )
  assert 'nothing is certified here' in capsys.readouterr().err


def test_the_same_again_gives_the_same_policy(capsys, place):
  first = run(capsys, place, out='a.json')
  second = run(capsys, place, out='b.json')
  assert first[0] == second[0] == 0
  assert (place / 'a.json').read_text() == (place / 'b.json').read_text()


@pytest.mark.parametrize('measure', ['rouge_l', 'same_place'])
def test_other_measures_and_conformal_control(capsys, place, measure):
  code, out, err = run(
    capsys, place, measure=measure, method='conformal', out='c.json'
  )
  assert code == 0, err
  held = json.loads(out)['policy']['certificate']
  assert held['method'] == 'conformal' and held['delta'] is None
  assert held['measure'] == measure


def test_random_exits_are_not_certified_and_nothing_is_written(capsys, place):
  code, out, err = run(
    capsys, place, model='random', out='no.json', criterion='max_prob'
  )
  assert code == 1
  assert 'nothing can be certified' in err or 'no thresholds save' in err
  assert not (place / 'no.json').exists()
  if out:
    assert json.loads(out)['certified'] is False


def test_a_run_that_was_stopped_goes_on(capsys, place, monkeypatch):
  calls = []
  continued = calibrate_work.certify.generate

  def counted(*args, **kwargs):
    calls.append(kwargs['policy'])
    if len(calls) == 4:
      raise KeyboardInterrupt
    return continued(*args, **kwargs)

  monkeypatch.setattr(calibrate_work.certify, 'generate', counted)
  assert run(capsys, place, out='again.json')[0] == 130
  assert not (place / 'again.json').exists()
  kept = list(place.glob('.again.json.decoded'))
  assert len(kept) == 1 and len(kept[0].read_text().splitlines()) == 4
  first = len(calls)
  assert run(capsys, place, out='again.json')[0] == 0
  resumed = len(calls) - first
  whole = len(calls)
  assert run(capsys, place, out='anew.json')[0] == 0
  assert len(calls) - whole == resumed + 3
  again, anew = (
    (place / f'{name}.json').read_text() for name in ('again', 'anew')
  )
  assert again == anew


@pytest.mark.parametrize(
  'more, code, words',
  [
    ({'risk': 0}, 2, 'risk must lie between 0 and 1'),
    ({'risk': 'nan'}, 2, 'risk must lie between 0 and 1'),
    ({'delta': 1.5}, 2, 'delta must lie between 0 and 1'),
    ({'sequences': 5}, 2, 'takes at least 14 sequences'),
    ({'batch_size': 0}, 2, '--batch-size must be at least 1'),
    ({'measure': 'luck'}, 2, "no measure 'luck'"),
    ({'prompt_tokens': 39}, 2, 'more than the context of the model, 40'),
    ({'data': 'short.txt', 'prompt_tokens': 8}, 2, 'give more text'),
    ({'data': 'latin.txt'}, 1, 'latin.txt is not UTF-8'),
    ({'search_data': 'text.txt'}, 2, 'were searched on, too'),
    ({'out': 'tokenizer'}, 2, 'is a folder'),
  ],
)
def test_wrong_input_is_refused_before_anything_is_written(
  capsys, place, more, code, words
):
  more = {
    name: place / value if name.endswith('data') else value
    for name, value in more.items()
  }
  found, out, err = run(capsys, place, **{'out': 'wrong.json', **more})
  assert (found, out) == (code, ''), err
  assert words in err
  assert not (place / 'wrong.json').exists()


class TestPath:
  @pytest.mark.parametrize(
    'means, begin',
    [
      ((0.0, 0.01, 0.03, 0.2, 0.4), 1),
      ((0.05, 0.2, 0.3), 0),
      ((0.0, 0.0, 0.0), 1),
      ((0.9,), 0),
    ],
  )
  def test_it_begins_before_the_riskiest_that_is_safe(self, means, begin):
    asked = []

    def mean_loss_of(place):
      asked.append(place)
      return means[place]

    found = calibrate_path.begin_at(mean_loss_of, len(means), risk=0.1)
    assert found == begin
    assert len(asked) <= 3


class TestStore:
  def test_batches_are_found_again(self, tmp_path):
    path = tmp_path / 'held'
    texts = [Text((1, 2), (3, 4)), Text((), ())]
    store = DecodedTexts(path, {'model': 1})
    store.add('full', 2, texts)
    assert DecodedTexts(path, {'model': 1}).batches('full') == {2: texts}
    assert DecodedTexts(path, {'model': 2}).batches('full') == {}
    store.remove()
    assert not path.exists()

  def test_a_line_that_was_cut_short_is_forgotten(self, tmp_path):
    path = tmp_path / 'held'
    store = DecodedTexts(path, {})
    texts = [Text((1,), (3,))]
    store.add('full', 0, texts)
    store.add('full', 1, texts)
    path.write_text(path.read_text()[:-9])
    again = DecodedTexts(path, {})
    assert again.batches('full') == {0: texts}
    again.add('full', 1, texts)
    assert set(DecodedTexts(path, {}).batches('full')) == {0, 1}
