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
"""Run the commands of docs/tpu.md, in order, on simulated devices.

The model is tiny and the bucket is an emulator's; else the commands are those
of the page, with flags behind them that make them short.
"""

import pathlib
import re
import shlex

import gin
import numpy as np
import pytest

import eejax
from eejax import storage, store_folder
from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.cli.gin import config as gin_config
from eejax.cli.gin import configurables  # noqa: F401
from eejax.data.tokenizer import train_bpe
from eejax.testing import tiny

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / 'docs/tpu.md').read_text(encoding='utf-8')
LINES = [
  line
  for block in re.findall(r'^```sh\n(.*?)^```', PAGE, re.M | re.S)
  for line in block.splitlines()
]
COMMANDS = [line for line in LINES if line.startswith('eejax ')]
LAUNCHED = [line for line in LINES if line.startswith('launch/')]

# What makes a command short.
SHORTLY = {
  'plan': '--best 1',
  'import': '',
  'add-exits': '--exits 1:mlp:untied',
  'tune': (
    '--steps 1 --batch-size 8 --sequence-length 16 --gin.WARMUP_STEPS=1 '
    '--gin.DataConfig.unit=%TextUnit.PARAGRAPH --gin.tune.held_out_batches=1'
  ),
  'eval': '--sequence-length 16 --max-tokens 128',
  'calibrate': (
    '--unit paragraph --prompt-tokens 8 --max-new-tokens 4 --sequences 16 '
    '--search-sequences 8 --report-sequences 2 --batch-size 8 --risk 0.5 '
    '--window 2 --allow-slower'
  ),
  'generate': '--max-new-tokens 4',
  'serve': '--compile-only --port 0 --slots 1 --max-length 16',
}


@pytest.fixture
def place(tmp_path, bucket, monkeypatch):
  """Make the folder and the text that the page begins with."""
  random = np.random.default_rng(0)
  words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta']
  documents = [' '.join(random.choice(words, 40)) for _ in range(200)]
  tokenizer = train_bpe(documents, vocab_size=304)
  tokenizer.save(tmp_path / 'tokenizer')
  config = tiny.tiny_config(
    '',
    num_layers=2,
    num_heads=8,
    num_kv_heads=8,
    vocab_size=304,
    max_length=64,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
  )
  model = Model(
    config, tiny.tiny_params(config), tokenizer_folder=tmp_path / 'tokenizer'
  )
  name = 'Llama-2-7b-hf'
  eejax.export_folder(model, tmp_path / name)
  store_folder.copy(tmp_path / name, storage.as_path(f'{bucket}/{name}'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
  text = storage.as_path(f'{bucket}/text.txt')
  text.write_text('\n\n'.join(documents))
  monkeypatch.chdir(tmp_path)
  yield bucket
  gin.clear_config()


def test_the_way_is_told_from_the_plan_to_the_server():
  assert [shlex.split(c)[1] for c in COMMANDS] == [
    *('plan', 'import', 'add-exits', 'tune', 'tune', 'eval', 'calibrate'),
    *('generate', 'serve'),
  ]


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_has_flags_that_there_are(command):
  verb, *words = shlex.split(command)[1:]
  parser = main.build_parser(main._import(verb), f'eejax {verb}')
  parser.parse_args(gin_config.rewrite_bindings(words))


# It compiles as much as a minute of two cores takes.
@pytest.mark.slow
@pytest.mark.store
def test_every_command_runs(place, capsys):
  policy = ' --policy gs://BUCKET/policy.json'
  for command in COMMANDS:
    if not storage.as_path(f'{place}/policy.json').is_file():
      command = command.replace(policy, '')
    verb, *words = shlex.split(command.replace('gs://BUCKET', place))[1:]
    code = main.main([verb, *words, *shlex.split(SHORTLY[verb])])
    out, err = capsys.readouterr()
    # On a tiny model a machine may find that exits save nothing.
    said_no = verb == 'calibrate' and 'no thresholds save time' in err
    assert code == 0 or said_no, f'{command}\n{err}'
    assert out.strip(), command
  assert storage.as_path(f'{place}/tuned/model/eejax.json').is_file()


def test_what_is_launched_is_what_is_run():
  (launched,) = LAUNCHED
  _, _, words = launched.partition(' -- ')
  there = shlex.split(words.replace('/mnt/runs', 'gs://BUCKET'))
  run = next(c for c in COMMANDS if c.startswith('eejax tune'))
  assert shlex.split(run)[1:] == [*there, '--run', 'gs://BUCKET/tuned']


def test_the_machines_named_are_those_of_the_runs():
  rows = re.findall(r'^\| `(runs/\w+.gin)` \| .* \| (.*) \|$', PAGE, re.M)
  assert len(rows) == 2
  for file, words in rows:
    there = machines_of(file)
    named = set(re.findall(r'(?:2x)?v\d[ep]-\d+', words))
    assert named <= there and {m for m in there if '2x' in m} <= named


def machines_of(file):
  parser = main.build_parser(main._import('tune'), 'eejax tune')
  args = parser.parse_args([f'--gin_file={file}'])
  args.gin_bindings = ["RUN='a'"]
  if 'tune' in file:
    args.gin_bindings.append("CHECKPOINT='b'")
  gin_config.parse(args)
  return {machine for _, machine in gin.query_parameter('%LAYOUTS')}
