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
"""Change files at random: a sentence, or a model that is right."""

import copy
import json
import os
import random
import resource
import struct

import pytest

from eejax.checkpoint import gguf_import, huggingface, shapes, tree
from eejax.checkpoint.model import Model
from eejax.config.experts import ExpertsConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.testing import tiny
from eejax.testing.tiny_gguf import write_gguf

GGUF_CASES, CONFIG_CASES = 1500, 500
# Far more than a model of some kilobytes needs.
MOST_GROWTH = 300 * 2**20


@pytest.fixture(autouse=True)
def fast(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
  # Hundreds of tokenizers are written, none to be kept.
  monkeypatch.setattr(os, 'fsync', lambda _: None)


def peak_bytes():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_right(model):
  """Check that everything a model says of itself is there."""
  shapes.check_backbone(tree.shapes(model.params), model.config.model)
  if model.tokenizer_folder is not None:
    _ = model.tokenizer.encode('hello', add_bos=False)


def is_sentence(error):
  text = str(error)
  return text.endswith('.') and '\n' not in text and len(text) < 1500


def attempt(read):
  """Return whether a model was read; raise where it is none of both."""
  try:
    model = read()
  except (CheckpointError, ArgumentError) as error:
    assert is_sentence(error), str(error)
    return False
  try:
    is_right(model)
  except (CheckpointError, ArgumentError) as error:
    assert is_sentence(error), str(error)
  return True


# MARK: GGUF


def changed_bytes(data, header, choose):
  """Return the bytes of a file with something wrong in its header."""
  data = bytearray(data)
  kind = choose.randrange(5)
  if kind == 0:
    return bytes(data[: choose.randrange(len(data))])
  if kind == 1:  # a whole number becomes another, maybe absurd
    at = choose.randrange(4, header - 8)
    value = choose.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
    data[at : at + 8] = struct.pack('<Q', value)
  elif kind == 2:  # a piece is missing
    at = choose.randrange(header)
    del data[at : at + choose.randrange(1, 40)]
  elif kind == 3:  # a piece is there twice
    at = choose.randrange(header)
    data[at:at] = data[at : at + choose.randrange(1, 40)]
  else:
    for _ in range(choose.randrange(1, 4)):
      data[choose.randrange(header)] ^= 1 << choose.randrange(8)
  return bytes(data)


def test_a_gguf_file_with_changed_bytes(tmp_path):
  pytest.importorskip('gguf', reason='the gguf extra is not installed')
  config = tiny.tiny_model_config(num_layers=1)
  file = write_gguf(tmp_path / 'model.gguf', config)
  data = file.path.read_bytes()
  header = len(data) - sum(a.nbytes + 32 for a in file.arrays.values())
  assert header > 1000
  choose = random.Random(0)
  attempt(lambda: gguf_import.map_file(file.path))
  before, read = peak_bytes(), 0
  for _ in range(GGUF_CASES):
    file.path.write_bytes(changed_bytes(data, header, choose))
    read += attempt(lambda: gguf_import.map_file(file.path))
  assert peak_bytes() - before < MOST_GROWTH
  # Both ends are reached, so that the test does not test one thing alone.
  assert 20 < read < GGUF_CASES - 500


# MARK: config.json

ODD = (
  *(None, True, False, 0, 1, -1, 3, 7, 1.5, 1e30, -0.0, 10**30, '', 'x'),
  *([], [1], ['full_attention'], {}, {'rope_type': 'yarn'}, {'a': [1]}),
  *({'rope_type': 'llama3', 'factor': 8}, {'rope_type': 'linear'}),
)


def changed_config(values, choose):
  values = copy.deepcopy(values)
  for _ in range(choose.randrange(1, 3)):
    key = choose.choice([*values, 'rope_scaling', 'sliding_window', 'n_embd'])
    kind = choose.randrange(4)
    if kind == 0 and key in values:
      del values[key]
    elif kind == 1 and isinstance(values.get(key), int):
      values[key] = values[key] + choose.choice((-1, 1, 2**31, 10**12))
    else:
      values[key] = choose.choice(ODD)
  return values


FAMILIES = {
  'llama': {},
  'qwen2': {'qkv_bias': True},
  'mixtral': {'experts': ExpertsConfig(5, 2, 20)},
  'mamba': tiny.KINDS_OF_RECURRENT_BLOCK['mamba'],
  'mamba2': tiny.KINDS_OF_RECURRENT_BLOCK['mamba2'],
}


@pytest.mark.parametrize('family', FAMILIES)
def test_a_config_with_changed_fields(tmp_path, family):
  config = tiny.tiny_config('', family=family, num_layers=1, **FAMILIES[family])
  folder = tmp_path / 'model'
  huggingface.export_folder(Model(config, tiny.tiny_params(config)), folder)
  path = folder / 'config.json'
  values = json.loads(path.read_text())
  choose = random.Random(family)
  before, read = peak_bytes(), 0
  for _ in range(CONFIG_CASES // 2):
    path.write_text(json.dumps(changed_config(values, choose)))
    read += attempt(lambda: huggingface.map_folder(folder))
  assert peak_bytes() - before < MOST_GROWTH
  assert 10 < read < CONFIG_CASES // 2 - 50


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'auto_map': {'AutoModel': 'x.py'}}, 'eejax runs no code of others'),
    ({'num_key_value_heads': 3}, 'must be a multiple of num_kv_heads'),
    ({'num_hidden_layers': 10**9}, 'more than any model has'),
    ({'num_hidden_layers': 100}, 'only .* tensors'),
    ({'num_attention_heads': 0}, 'num_heads must be a positive integer'),
    ({'rms_norm_eps': None}, 'no model can have'),
    ({'rope_theta': 'ten', 'rope_parameters': None}, 'no model can have'),
  ],
)
def test_fields_that_contradict_one_another_are_told(tmp_path, change, match):
  config = tiny.tiny_config('')
  folder = tmp_path / 'model'
  huggingface.export_folder(Model(config, tiny.tiny_params(config)), folder)
  path = folder / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  with pytest.raises(CheckpointError, match=match):
    huggingface.map_folder(folder)


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'num_experts_per_tok': 6}, 'cannot be sent to 6 of 5 experts'),
    ({'num_experts_per_tok': 0}, 'cannot be sent to 0 of 5'),
    ({'num_local_experts': 10**12}, 'only .* tensors'),
    ({'num_local_experts': None}, 'gate.weight has shape .5, 16.'),
    ({'num_experts': 4}, 'num_local_experts and num_experts differ'),
    ({'intermediate_size': 0}, 'must be'),
    ({'router_aux_loss_coef': -1.0}, 'load-balancing loss must be at least 0'),
    ({'router_aux_loss_coef': 'much'}, 'no model can have|must be a number'),
  ],
)
def test_experts_that_contradict_one_another_are_told(tmp_path, change, match):
  config = tiny.tiny_config('', family='mixtral', **FAMILIES['mixtral'])
  folder = tmp_path / 'model'
  huggingface.export_folder(Model(config, tiny.tiny_params(config)), folder)
  path = folder / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  with pytest.raises(CheckpointError, match=match):
    huggingface.map_folder(folder)


def test_numbers_that_are_none_are_told(tmp_path):
  (tmp_path / 'model.safetensors').write_bytes(b'\2' + b'\0' * 7 + b'{}')
  (tmp_path / 'config.json').write_text('{"rms_norm_eps": NaN}')
  with pytest.raises(CheckpointError, match='NaN is no number'):
    huggingface.map_folder(tmp_path)


@pytest.mark.parametrize(
  ('family', 'change', 'match'),
  [
    ('mamba', {'intermediate_size': 7}, 'intermediate_size'),
    ('mamba', {'state_size': 0}, "'state_size' must be a whole number"),
    ('mamba', {'hidden_act': 'gelu'}, 'hidden_act'),
    ('mamba2', {'num_heads': 5}, 'num_heads times head_dim'),
    ('mamba2', {'n_groups': 3}, 'multiple of its num_groups'),
    ('mamba2', {'time_step_limit': [0.0, 1.0]}, 'without limits'),
  ],
)
def test_mixers_that_contradict_themselves_are_told(
  tmp_path, family, change, match
):
  config = tiny.tiny_config('', family=family, num_layers=1, **FAMILIES[family])
  folder = tmp_path / 'model'
  huggingface.export_folder(Model(config, tiny.tiny_params(config)), folder)
  path = folder / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  with pytest.raises(CheckpointError, match=match):
    huggingface.map_folder(folder)
