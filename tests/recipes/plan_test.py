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
"""Test the recipe that plans a training run."""

import json

import pytest

from eejax import resources
from eejax.checkpoint import folder
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError, EejaxError
from eejax.recipes.plan import plan
from eejax.testing import tiny

TUNE = {'exits': '8:mlp:untied', 'regime': 'tune', 'batch_size': 8}


def test_the_fastest_layout_is_first():
  result = plan('llama_2_7b', **TUNE, devices=2, best=2)
  values = result.to_json()
  json.dumps(values)
  assert values['hardware'] == 'H100 80GB SXM'
  assert len(values['plans']) == len(result.table()) == 2
  first, second = values['plans']
  assert first['step_s'] <= second['step_s']
  assert result.fits and result.fastest.time.total == first['step_s']
  assert first['fits'] and first['memory_bytes'] <= values['room_bytes']
  parts = first['memory_parts']
  assert first['memory_bytes'] == pytest.approx(sum(parts.values()))
  # Adam keeps two moments of what is trained.
  assert parts['optimizer'] == pytest.approx(2 * parts['parameters'])
  assert values['assumed']['network'] == 50e9
  spent = sum(
    first[k] for k in ('work_s', 'bubble_s', 'messages_s', 'update_s')
  )
  assert spent == pytest.approx(first['step_s'])


@pytest.mark.ahead
def test_the_compiler_of_the_machine_checks_the_fastest_layout():
  # A TPU pads arrays to tiles of 8 by 128.
  wide = {'embed_dim': 256, 'mlp_dim': 512, 'head_dim': 128, 'vocab_size': 512}
  config = tiny.tiny_config('2:norm:untied', **wide)
  result = plan(
    config,
    hardware='tpu_v5e',
    devices=4,
    mesh='fsdp=4',
    batch_size=4,
    sequence_length=128,
    chunk_size=128,
    check=1,
  )
  (found,) = result.compiled
  memory = result.fastest.memory
  held = memory.held - memory.idle
  assert held == pytest.approx(found.memory.arguments, rel=0.05)
  (row,) = result.to_json()['compiled']
  assert row['fits'] and row['total'] > 0
  assert result.refusals() == []
  assert 'by the compiler' in str(result)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'check': -1}, 'at least 0'),
    ({'check': 1, 'hardware': 'cpu_2_cores'}, 'no compiler is known'),
    ({'check': 1, 'hardware': 'tpu_v5e', 'devices': 6}, '6 devices'),
  ],
)
def test_what_no_compiler_can_check(fields, message):
  with pytest.raises(ArgumentError, match=message):
    plan('llama_2_7b', **TUNE, **fields)


def test_tables_show_time_memory_and_cost():
  result = plan('llama_2_7b', **TUNE, devices=4, price=2.0)
  shown = str(result)
  assert 'tokens/s' in shown and 'cost/G tokens' in shown
  assert 'GiB of each device' in shown and 'optimizer' in shown
  assert 'Assumed: products at 0.5 of the peak' in shown
  assert 'GiB of each device' in result._repr_html_()
  assert result.plot().axes[0].get_xlabel().startswith('seconds a step')


def test_what_does_not_fit_is_said():
  result = plan('llama_2_70b', devices=2, batch_size=8)
  assert not result.fits and result.fastest is None and result.table() == []
  assert 'meshes do not fit' in str(result) and 'optimizer' in str(result)
  assert result.verdict().startswith('nothing fits; the closest')


@pytest.mark.parametrize('kind', ['hugging_face', 'checkpoint', 'model'])
def test_a_folder_and_a_model_are_models(tmp_path, kind):
  source, exits = resources.default_backbone(), '6:norm'
  if kind != 'hugging_face':
    config = tiny.tiny_config('1:norm,3:norm')
    model = Model(config, tiny.tiny_params(config))
    source, exits = model, None
    if kind == 'checkpoint':
      folder.save(tmp_path / 'model', model)
      source = tmp_path / 'model'
  result = plan(
    source, exits=exits, devices=1, batch_size=4, sequence_length=16
  )
  assert result.to_json()['regime'] == 'joint' and result.fits


def test_one_mesh():
  result = plan('llama_2_7b', **TUNE, mesh='data=4,model=2')
  meshes = {tuple(p['mesh'].items()) for p in result.to_json()['plans']}
  sizes = {'stage': 1, 'data': 4, 'fsdp': 1, 'expert': 1, 'model': 2}
  assert meshes == {tuple(sizes.items())}


def test_a_backbone_in_int8_takes_half():
  frozen = lambda kind: (
    plan(
      'llama_2_7b', **TUNE, mesh='data=8', backbone=kind
    ).fastest.memory.frozen
  )
  assert 0.5 < frozen('int8') / frozen('compute') < 0.6


def test_the_forecast_follows_from_a_roofline():
  result = plan('llama_2_7b', **TUNE, devices=1, hardware='h200_141g')
  (found,) = result.roofline_rows()
  device = result.request.machine.hardware
  assert found['compute s'] == pytest.approx(
    1e12 * found['TFLOP'] / device.peak_flops['bfloat16']
  )
  # On one device nothing is sent, and products reach half of the peak.
  time = result.fastest.time
  assert found['sent, GB'] == found['links s'] == 0
  assert found['bound by'] == 'compute'
  assert time.work == pytest.approx(2 * found['compute s'], rel=0.05)
  assert found['forecast s'] == time.total
  # A token is multiplied by every weight of the eight blocks, at least.
  weights = 8 * 2 * result.request.workload.config.model.mlp_values
  assert 1e12 * found['TFLOP'] > weights * result.fastest.tokens


def test_slices_lie_along_data_and_are_joined_by_the_network():
  fields = {**TUNE, 'hardware': 'tpu_v5e', 'devices': 8}
  result = plan('llama_2_7b', **fields, slices=2)
  meshes = [p.arrangement.mesh for p in result.layouts.fitting]
  assert meshes and all(mesh.data % 2 == 0 for mesh in meshes)
  assert result.to_json()['assumed']['network'] == 3.125e9
  one = plan('llama_2_7b', **fields, mesh='data=2,fsdp=4')
  two = plan('llama_2_7b', **fields, mesh='data=2,fsdp=4', slices=2)
  slower = two.fastest.time.messages / one.fastest.time.messages
  assert 1 < slower < 200e9 / 3.125e9
  with pytest.raises(ArgumentError, match='are not 3 slices'):
    plan('llama_2_7b', **fields, slices=3)
  with pytest.raises(ArgumentError, match='slices are of TPUs'):
    plan('llama_2_7b', **TUNE, slices=2)


def test_a_tpu_has_links_of_its_own():
  result = plan('llama_2_7b', **TUNE, hardware='tpu_v5p', devices=4)
  assert result.to_json()['assumed']['network'] is None


@pytest.mark.parametrize(
  'changes, error, sentence',
  [
    ({'model': 'llama_9'}, ArgumentError, 'there is no configuration'),
    ({'hardware': 'abacus'}, ArgumentError, 'there is no hardware'),
    ({'devices': 0}, ArgumentError, 'devices must be at least 1'),
    ({'best': 0}, ArgumentError, 'best must be at least 1'),
    ({'efficiency': 2.0}, ArgumentError, 'efficiency is a share'),
    ({'price': 0.0}, ArgumentError, 'price must be above 0'),
    ({'regime': 'learn'}, ArgumentError, 'regime must be one of standard'),
    ({'backbone': 'int4'}, ArgumentError, 'backbone must be compute or int8'),
    (
      {'regime': 'joint', 'backbone': 'int8'},
      ArgumentError,
      'in int8 cannot learn',
    ),
    ({'mesh': 'data=3'}, EejaxError, 'needs 3 devices and there are 8'),
    ({'mesh': 'data=8', 'batch_size': 3}, EejaxError, 'does not divide'),
    ({'hardware': 'tpu_v5e', 'dtype': 'float32'}, ArgumentError, 'no peak'),
  ],
)
def test_bad_input(changes, error, sentence):
  with pytest.raises(error, match=sentence):
    plan(**{'model': 'llama_2_7b', **TUNE, **changes})


def test_exits_are_needed_where_they_are_trained():
  config = EarlyExitConfig(tiny.tiny_model_config())
  with pytest.raises(ArgumentError, match='trains exits, and this model'):
    plan(config, regime='tune')
