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
"""Test `eejax plan` as a person types it."""

import json
import pathlib

import pytest

from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.testing import tiny

ASSETS = pathlib.Path(__file__).resolve().parent.parent.parent / 'assets'
TUNE_7B = ('llama_2_7b', '--exits', '8:mlp:untied', '--regime', 'tune')


def run(capsys, *argv, expect=0):
  code = main.main(['plan', *map(str, argv)])
  out, err = capsys.readouterr()
  assert code == expect, err
  return out, err


def test_json(capsys):
  argv = (*TUNE_7B, '--devices', '2', '--batch', '8', '--best', '2', '--json')
  found = json.loads(run(capsys, *argv)[0])
  assert found['hardware'] == 'H100 80GB SXM'
  assert len(found['plans']) == 2
  first, second = found['plans']
  assert first['step_s'] <= second['step_s']
  assert first['fits'] and first['memory_bytes'] <= found['room_bytes']
  assert first['memory_bytes'] == pytest.approx(
    sum(first['memory_parts'].values())
  )
  # An eighth of the model is trained and a quarter of it runs.
  assert first['memory_parts']['optimizer'] == pytest.approx(
    2 * first['memory_parts']['parameters']
  )
  assert found['assumed']['network'] == 50e9
  spent = sum(
    first[k] for k in ('work_s', 'bubble_s', 'messages_s', 'update_s')
  )
  assert spent == pytest.approx(first['step_s'])


def test_tables(capsys):
  out, _ = run(capsys, *TUNE_7B, '--devices', '4', '--batch', '8', '--price', 2)
  assert 'tokens/s' in out and 'cost/G tokens' in out
  assert 'GiB of each device' in out and 'optimizer' in out
  assert 'Assumed: products at 0.5 of the peak' in out


def test_what_does_not_fit_is_said_and_fails(capsys):
  argv = ('llama_2_70b', '--devices', '2', '--batch', '8')
  out, err = run(capsys, *argv, expect=1)
  assert 'meshes do not fit' in out and 'optimizer' in out
  # Where it takes long, progress stands before.
  assert err.splitlines()[-1].startswith('eejax plan: nothing fits; the clos')


@pytest.mark.parametrize('kind', ['hugging_face', 'checkpoint'])
def test_a_folder_is_a_model(capsys, tmp_path, kind):
  if kind == 'hugging_face':
    source, exits = ASSETS / 'stdlib-10m', ('--exits', '6:norm')
  else:
    from eejax.checkpoint import folder

    config = tiny.tiny_config('1:norm,3:norm')
    model = Model(config, tiny.tiny_params(config))
    folder.save(tmp_path / 'model', model)
    source, exits = tmp_path / 'model', ()
  argv = (source, *exits, '--devices', '1', '--batch', '4')
  size = ('--sequence-length', '16', '--json')
  found = json.loads(run(capsys, *argv, *size)[0])
  assert found['regime'] == 'joint'
  assert found['plans'][0]['fits']


def test_one_mesh(capsys):
  argv = (*TUNE_7B, '--batch', '8', '--mesh', 'data=4,model=2', '--json')
  found = json.loads(run(capsys, *argv)[0])
  meshes = {tuple(p['mesh'].items()) for p in found['plans']}
  assert meshes == {(('stage', 1), ('data', 4), ('fsdp', 1), ('model', 2))}


def test_a_backbone_in_int8_takes_half(capsys):
  def frozen(*extra):
    argv = (*TUNE_7B, '--mesh', 'data=8', '--batch', '8', '--json', *extra)
    plan = json.loads(run(capsys, *argv)[0])['plans'][0]
    return plan['memory_parts']['frozen']

  assert 0.5 < frozen('--backbone', 'int8') / frozen() < 0.6


@pytest.mark.parametrize(
  ('argv', 'expect', 'words'),
  [
    (('llama_9',), 2, 'there is no configuration'),
    ((*TUNE_7B, '--hardware', 'abacus'), 2, 'there is no hardware'),
    ((*TUNE_7B, '--devices', '0'), 2, '--devices must be at least 1'),
    ((*TUNE_7B, '--efficiency', '2'), 2, '--efficiency is a share'),
    (('llama_2_7b', '--backbone', 'int8'), 2, 'in int8 cannot learn'),
    ((*TUNE_7B, '--price', '0'), 2, '--price must be above 0'),
    (('llama_2_7b', '--regime', 'tune'), 2, 'trains exits, and this model'),
    ((*TUNE_7B, '--mesh', 'data=3'), 1, 'needs 3 devices and there are 8'),
    ((*TUNE_7B, '--batch', '3', '--mesh', 'data=8'), 1, 'does not divide'),
    ((*TUNE_7B, '--hardware', 'tpu_v5e', '--dtype', 'float32'), 2, 'no peak'),
  ],
)
def test_bad_input(capsys, argv, expect, words):
  out, err = run(capsys, *argv, expect=expect)
  assert words in err and not out
  assert err.count('\n') == 1
