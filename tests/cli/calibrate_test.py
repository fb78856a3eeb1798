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

import numpy as np
import pytest

from eejax.cli import main
from eejax.decoding.policy.policy import Policy

SMALL = (
  *('--unit', 'line', '--sequences', '4', '--search-sequences', '4'),
  *('--report-sequences', '2', '--prompt-tokens', '4', '--batch-size', '4'),
  *('--max-new-tokens', '6', '--window', '2', '--risk', '0.6'),
)


@pytest.fixture(scope='module')
def place(tmp_path_factory, save_tiny):
  """Return a folder with a text, a document a line, and a model."""
  root = tmp_path_factory.mktemp('calibrate')
  random = np.random.default_rng(0)
  words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']
  documents = [' '.join(random.choice(words, 12)) for _ in range(60)]
  (root / 'text.txt').write_text('\n'.join(documents))
  (root / 'latin.txt').write_bytes(b'\xe9t\xe9')
  save_tiny(root)
  return root


def run(capsys, place, *more, data='text.txt', out='policy.json'):
  argv = ['calibrate', place / 'model', '--data', place / data, *SMALL]
  argv += ['--out', place / out, '--json', *more]
  code = main.main([str(a) for a in argv])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def test_a_policy_is_written_where_one_is_certified(capsys, place):
  code, out, err = run(
    capsys, place, '--allow-slower', '--measure', 'rouge_l', '--risk', '0.95'
  )
  values = json.loads(out)
  # Whether exits save time depends on how the parts of decoding were timed.
  if code:
    assert values['certified'] is False and values['sentence'] in err
    return
  policy = Policy.load(place / 'policy.json')
  assert values['policy'] == policy.to_json()
  assert policy.certificate.sequences == 4
  assert not list(place.glob('.*decoded'))


@pytest.mark.parametrize(
  'data, more, code, message',
  [
    ('text.txt', ('--risk', '0'), 2, 'risk must lie between 0 and 1'),
    ('text.txt', ('--window', '0'), 2, 'window must be at least 1'),
    ('latin.txt', (), 1, 'latin.txt is not UTF-8'),
    ('text.txt', ('--out', 'tokenizer'), 2, 'is a folder'),
  ],
)
def test_wrong_input_is_refused_before_anything_is_written(
  capsys, place, data, more, code, message, monkeypatch
):
  monkeypatch.chdir(place)
  got, out, err = run(capsys, place, *more, data=data, out='wrong.json')
  assert (got, out) == (code, ''), err
  assert message in err
  assert not (place / 'wrong.json').exists()
