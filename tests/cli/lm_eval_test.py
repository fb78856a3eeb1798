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
"""Tests of `eejax lm-eval`, lm-eval's own command."""

import functools
import json
import math
import pathlib
import sys

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager

from eejax.cli import main
from eejax.data.tokenizer import Tokenizer
from eejax.decoding.policy.bindings import policy_hash
from eejax.decoding.policy.policy import Mode, Policy

TASKS = pathlib.Path(__file__).resolve().parents[2] / 'configs/tasks'
TEXT = 'alpha beta gamma delta epsilon beta alpha delta gamma epsilon alpha'
ROLLING = """
task: one_text
custom_dataset: !function one_text.load
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: byte_perplexity
    aggregation: weighted_perplexity
    higher_is_better: false
metadata:
  version: 1.0
"""
DATA = """
import datasets

def load(**_):
  return {'test': datasets.Dataset.from_list([{'text': %r}])}
"""
EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None), window=3)


@pytest.fixture(scope='module')
def place(tmp_path_factory, save_tiny):
  """Return a folder with a model whose texts end without a token, and tasks."""
  root = tmp_path_factory.mktemp('lm_eval')
  save_tiny(root, scale=8)
  config = root / 'model/tokenizer_config.json'
  values = json.loads(config.read_text())
  del values['eos_token']
  config.write_text(json.dumps(values))
  (root / 'tasks').mkdir()
  (root / 'tasks/one_text.yaml').write_text(ROLLING)
  (root / 'tasks/one_text.py').write_text(DATA % TEXT)
  (root / 'text.txt').write_text(TEXT)
  EARLY.save(root / 'policy.json')
  return root


@pytest.fixture
def few_tasks(monkeypatch):
  """Let lm-eval know local tasks alone: reading its own takes long."""
  few = functools.partial(TaskManager, include_defaults=False)
  monkeypatch.setattr(lm_eval.tasks, 'TaskManager', few)


def run(capsys, place, *argv, expect=0):
  code = main.main([str(w) for w in ('lm-eval', place / 'model', *argv)])
  out, err = capsys.readouterr()
  assert code == expect, err
  return out, err


def local(place, name='one_text', folder=None):
  return ('--tasks', name, '--include_path', folder or place / 'tasks')


def test_log_likelihoods_are_those_of_eval(place, capsys, few_tasks):
  out, _ = run(capsys, place, *local(place), '--json')
  found = json.loads(out)['results']['one_text']['byte_perplexity,none']
  ours = -math.log(found) * len(TEXT.encode())
  words = ('eval', place / 'model', '--data', place / 'text.txt', '--json')
  assert main.main([str(w) for w in words]) == 0
  quality = json.loads(capsys.readouterr().out)['quality']
  tokens = Tokenizer.load(place / 'model').encode(TEXT, add_bos=False)
  assert quality['tokens'] == len(tokens)
  final = quality['heads'][-1]
  assert final['name'] == 'final'
  theirs = -final['loss']['value'] * quality['tokens']
  assert ours == pytest.approx(theirs, abs=1e-4)


def test_an_exit_is_scored_as_eval_does(place, capsys, few_tasks):
  out, _ = run(capsys, place, *local(place), '--exit', 1, '--json')
  values = json.loads(out)
  ours = -math.log(values['results']['one_text']['byte_perplexity,none'])
  words = ('eval', place / 'model', '--data', place / 'text.txt', '--json')
  assert main.main([str(w) for w in words]) == 0
  quality = json.loads(capsys.readouterr().out)['quality']
  theirs = -quality['heads'][0]['loss']['value'] * quality['tokens']
  assert ours * len(TEXT.encode()) == pytest.approx(theirs, abs=1e-4)
  assert values['eejax']['scored']['exit_depths'] == {'1': quality['tokens']}


def test_every_kind_of_task_runs_under_a_policy(place, capsys, few_tasks):
  names = 'local_choice,local_rolling,local_arithmetic'
  output = place / 'out'
  out, err = run(
    capsys,
    place,
    *local(place, names, TASKS),
    *('--limit', '1', '--num_fewshot', '0', '--batch_size', '4'),
    *('--gen_kwargs', 'max_gen_toks=4', '--output_path', output),
    *('--log_samples', '--policy', place / 'policy.json'),
  )
  assert 'local_arithmetic' in out and '|acc' in out
  assert 'Mode early_exit, policy' in err
  (path,) = output.rglob('results_*.json')
  held = json.loads(path.read_text())['config']['eejax']
  assert held['policy_hash'] == policy_hash(EARLY)
  for part in ('scored', 'generated'):
    assert {'mean_exit_depth', 'forecast_speedup'} <= set(held[part])
  assert held['generated']['tokens'] == 4
  assert len(list(output.rglob('samples_*.jsonl'))) == 3


def test_the_chat_template_is_applied(place, capsys, few_tasks):
  template = place / 'model/chat_template.jinja'
  template.write_text('{{ messages[-1].content }}:')
  flags = (*local(place, 'local_arithmetic', TASKS), '--limit', '1')
  more = ('--gen_kwargs', 'max_gen_toks=2', '--num_fewshot', '0', '--json')
  output = ('--log_samples', '--output_path', place / 'chat')
  run(capsys, place, *flags, *more, *output, '--apply_chat_template')
  (path,) = (place / 'chat').rglob('samples_*.jsonl')
  template.unlink()
  sample = json.loads(path.read_text().splitlines()[0])
  assert sample['arguments']['gen_args_0']['arg_0'].endswith('Answer::')
  _, err = run(capsys, place, *flags, *more, '--apply_chat_template', expect=2)
  assert 'no chat template' in err


@pytest.mark.parametrize(
  'flags, words, code',
  [
    ((), 'there is no task; give --tasks', 2),
    (('--tasks', 'x', '--model', 'hf'), '--model is given by eejax', 2),
    (('--tasks', 'x', '--model_args=a=b'), 'is given by eejax', 2),
    (('--tasks', 'x', '--log_samples'), 'Specify --output_path', 2),
    (('--tasks', 'x', '--exit', '2'), 'no exit at depth 2', 2),
    (('--tasks', 'x', '--exit', '1', '--threshold', '0.5'), 'leave the pol', 2),
    (('--tasks', 'x', '--mesh', 'stage=8'), 'without pipeline stages', 2),
    (('--tasks', 'no_such_task'), 'no_such_task', 1),
  ],
  ids=str,
)
def test_wrong_arguments_are_one_sentence(
  place, capsys, few_tasks, flags, words, code
):
  if flags[:2] == ('--tasks', 'x'):
    flags = (*flags, '--include_path', place / 'tasks')
  out, err = run(capsys, place, *flags, '--quiet', expect=code)
  assert out == '' and words in err.splitlines()[-1], err


def test_without_lm_eval_the_extra_is_named(place, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'lm_eval._cli.harness', None)
  _, err = run(capsys, place, '--tasks', 'x', expect=1)
  assert "pip install 'eejax[eval]'" in err


def test_help_names_lm_evals_flags(capsys):
  assert main.main(['lm-eval', '--help']) == 0
  out = capsys.readouterr().out
  assert '--num_fewshot' in out and '--policy' in out and 'CKPT' in out
