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
"""Test verbs that decode with a criterion that a gin file registers."""

import json
import sys

import gin
import pytest

from eejax.cli import main
from eejax.decoding.policy.criteria import registry

OWN = """
import turns_of_a_user

Policy.criterion = @register()
register.criterion = @Turns()
"""
WHOLE = """
Policy.mode = %Mode.EARLY_EXIT
Policy.thresholds = (0.5,)
Policy.window = 4
"""
PROMPT = ('--prompt', 'alpha beta')


@pytest.fixture(autouse=True)
def forget(monkeypatch):
  monkeypatch.setattr(registry, '_CRITERIA', dict(registry._CRITERIA))
  yield
  gin.clear_config()


@pytest.fixture(scope='module')
def place(tmp_path_factory, save_tiny, turns):
  """Return a folder with a checkpoint, a criterion and gin files."""
  root = tmp_path_factory.mktemp('gin_policy')
  save_tiny(root)
  (root / 'turns_of_a_user.py').write_text(turns)
  (root / 'own.gin').write_text(OWN)
  (root / 'whole.gin').write_text(OWN + WHOLE)
  return root


def run(capsys, verb, place, *argv, expect=0, files=('own',)):
  gins = [f'--gin_file={place / f"{name}.gin"}' for name in files]
  words = [verb, place / 'model', '--max-new-tokens', 6, *gins, *argv]
  before = list(sys.path)
  code = main.main([str(w) for w in words])
  assert sys.path == before
  out, err = capsys.readouterr()
  assert code == expect, err
  return out, err


def generated(capsys, place, *argv, **options):
  argv = (*PROMPT, '--json', *argv)
  return json.loads(run(capsys, 'generate', place, *argv, **options)[0])


def depths(found):
  return found['results'][0]['exit_depths']


def test_flags_say_what_the_gin_file_leaves_open(place, capsys):
  found = generated(capsys, place, '--threshold', '0.5')
  policy = found['policy']
  assert (policy['criterion'], policy['mode']) == ('turns(2)', 'early_exit')
  # The first exit or none, in turns.
  assert depths(found)[:2] in ([1, 4], [4, 1])
  assert depths(found) == depths(found)[:2] * 3


def test_a_binding_changes_what_the_file_says(place, capsys):
  third = '--gin.Turns.every=3'
  found = generated(capsys, place, '--threshold', '0.5', third)
  assert found['policy']['criterion'] == 'turns(3)'
  assert depths(found).count(1) == 2 and depths(found).count(4) == 4


def test_a_gin_file_describes_the_whole_policy(place, capsys):
  found = generated(capsys, place, files=('whole',))
  assert found['policy']['window'] == 4
  assert depths(found) == depths(generated(capsys, place, '--threshold', '0.5'))
  _, err = run(
    capsys,
    'generate',
    place,
    *PROMPT,
    '--threshold',
    '0.9',
    files=('whole',),
    expect=2,
  )
  assert 'the gin files say what --threshold says; give one of them' in err


def test_a_saved_policy_finds_its_criterion_again(place, capsys, tmp_path):
  first = generated(capsys, place, files=('whole',))
  path = tmp_path / 'policy.json'
  path.write_text(json.dumps(first['policy']))
  again = generated(capsys, place, '--policy', path)
  assert depths(again) == depths(first)


def test_what_a_file_imports_has_a_name_for_flags(place, capsys, turns):
  (place / 'imports.gin').write_text('import turns_that_register\n')
  (place / 'turns_that_register.py').write_text(
    turns.replace('@gin.configurable', '')
    + 'from eejax.decoding.policy.criteria import register\nregister(Turns())\n'
  )
  flags = ('--threshold', '0.5', '--criterion', 'turns(3)')
  found = generated(capsys, place, *flags, files=('imports',))
  assert found['policy']['criterion'] == 'turns(3)'
  assert depths(found).count(1) == 2
  # Nobody asked for it, so it is not the default.
  found = generated(capsys, place, *flags[:2], files=('imports',))
  assert found['policy']['criterion'] == 'max_prob'


def test_drafts_are_verified_by_a_criterion_of_one_s_own(place, capsys):
  flags = ('--threshold', '0.5', '--draft-length', 2, '--batch-size', '1,2')
  out, _ = run(capsys, 'verify', place, *PROMPT, *flags, '--json')
  found = json.loads(out)
  assert found['policy']['criterion'] == 'turns(2)'
  assert found['is_lossless'] and found['drafted'] > 0


def test_bench_measures_it(place, capsys, tmp_path):
  flags = ('--modes', 'early_exit', '--thresholds', '0.5', '--batch-sizes', '1')
  out = ('--repeats', '1', '--out', tmp_path / 'bench.json', '--json')
  found = json.loads(run(capsys, 'bench', place, *PROMPT, *flags, *out)[0])
  assert 'turns(2)' in json.dumps(found['lines'])


@pytest.mark.parametrize('verb', ['bench', 'calibrate'])
def test_verbs_that_take_a_criterion_alone_refuse_more(place, capsys, verb):
  _, err = run(capsys, verb, place, files=('whole',), expect=2)
  assert 'only Policy.criterion is taken from gin here' in err


@pytest.mark.parametrize(
  'text, message',
  [
    ('import no_such_module_here', 'no_such_module_here'),
    ('Policy.criterion = "luck"', "there is no criterion 'luck'"),
    ('Policy.criterium = "gate"', 'criterium'),
    ('Policy.window = 4', 'Policy.mode must be given'),
    (
      'Policy.mode = %Mode.EARLY_EXIT\nPolicy.thresholds = (2.0,)',
      'a threshold must lie in [0, 1]',
    ),
  ],
)
def test_what_cannot_be_used_is_named(place, capsys, text, message):
  (place / 'wrong.gin').write_text(text)
  argv = (*PROMPT, '--threshold', '0.5')
  _, err = run(capsys, 'generate', place, *argv, files=('wrong',), expect=2)
  assert message in err and len(err.strip().splitlines()) == 1


def test_a_gin_file_that_is_not_there(place, capsys):
  argv = (*PROMPT, '--threshold', '0.5')
  _, err = run(capsys, 'generate', place, *argv, files=('missing',), expect=2)
  assert 'missing.gin' in err
