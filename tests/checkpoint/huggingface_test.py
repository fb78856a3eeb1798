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
"""Tests of Hugging Face folders, read and written.

Comparisons with transformers itself are in `tests/models/parity_test.py`.
"""

import dataclasses
import errno
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from eejax.checkpoint import folder, hub, huggingface, huggingface_export
from eejax.checkpoint.folder import Existing, Layout
from eejax.checkpoint.model import Model
from eejax.checkpoint.safetensors_file import SafetensorsFile
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import decoder
from eejax.models.stacking import unstack
from eejax.testing import tiny

SAFETENSORS = 'model.safetensors'


def random_params(config, *, dtype='float32'):
  """Return a tree of noise; nothing is compiled for it."""
  shapes = jax.eval_shape(
    functools.partial(decoder.init, config), jax.random.key(0)
  )
  generator = np.random.default_rng(0)
  noise = lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), dtype)
  return jax.tree.map(noise, shapes)


@pytest.fixture(scope='module')
def config():
  return tiny.tiny_config('')


@pytest.fixture(scope='module')
def params(config):
  return random_params(config)


@pytest.fixture(scope='module')
def exported(config, params, tmp_path_factory):
  path = tmp_path_factory.mktemp('exported') / 'model'
  huggingface.export_folder(Model(config, params), path)
  return path


@pytest.fixture
def copy(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / 'copy')


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)

  def check(one, other):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))

  jax.tree.map(check, found, expected)


def change_json(path, change):
  values = json.loads(path.read_text())
  change(values)
  path.write_text(json.dumps(values))


def rewrite(path, change):
  """Change the tensors of a file, with the safetensors library."""
  arrays = safetensors.numpy.load_file(path)
  change(arrays)
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(v) for k, v in arrays.items()}, path
  )


def files_of(path):
  return {p.name: p.read_bytes() for p in path.iterdir()}


# MARK: There and back


@pytest.mark.parametrize(
  ('dtype', 'overrides'),
  [
    ('float32', {}),
    ('bfloat16', {}),
    ('float16', {}),
    ('bfloat16', {'tied_head': True}),
    ('bfloat16', {'qkv_bias': True, 'output_bias': True, 'mlp_bias': True}),
    ('bfloat16', {'family': 'qwen3', 'qk_norm': True}),
  ],
  ids=['float32', 'bfloat16', 'float16', 'tied', 'biases', 'qwen3'],
)
def test_a_round_trip_is_exact(tmp_path, dtype, overrides):
  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT, **overrides)
  params = random_params(config, dtype=dtype)
  huggingface.export_folder(Model(config, params), tmp_path / 'a')
  found = huggingface.import_folder(tmp_path / 'a')
  assert found.config == config
  assert_same(found.params, params)
  huggingface.export_folder(found, tmp_path / 'b')
  assert files_of(tmp_path / 'a') == files_of(tmp_path / 'b')
  values = json.loads((tmp_path / 'a' / 'config.json').read_text())
  assert values['dtype'] == dtype


def test_blocks_stay_apart_when_asked(params, exported):
  found = huggingface.import_folder(exported, layout=Layout.UNSTACKED)
  blocks = unstack(params['backbone']['blocks'])
  assert_same(found.params['backbone']['blocks'], blocks)


def test_arrays_are_converted_when_asked(params, exported):
  found = huggingface.import_folder(exported, dtype='bfloat16')
  assert_same(
    found.params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  )


def test_matrices_lie_transposed_in_the_file(params, exported):
  file = safetensors.numpy.load_file(exported / SAFETENSORS)
  blocks = params['backbone']['blocks']
  query = np.asarray(blocks['attention']['query']['kernel'][2])  # [D, N, H]
  np.testing.assert_array_equal(
    file['model.layers.2.self_attn.q_proj.weight'], query.reshape(16, 24).T
  )
  output = np.asarray(blocks['attention']['output']['kernel'][2])  # [N, H, D]
  np.testing.assert_array_equal(
    file['model.layers.2.self_attn.o_proj.weight'], output.reshape(24, 16).T
  )
  np.testing.assert_array_equal(
    file['lm_head.weight'], np.asarray(params['backbone']['head']['kernel']).T
  )
  np.testing.assert_array_equal(
    file['model.embed_tokens.weight'],
    np.asarray(params['backbone']['embedding']['table']),
  )


def test_both_layouts_export_alike(config, params, exported, tmp_path):
  backbone = {
    **params['backbone'],
    'blocks': unstack(params['backbone']['blocks']),
  }
  huggingface.export_folder(
    Model(config, {**params, 'backbone': backbone}), tmp_path / 'b'
  )
  assert files_of(tmp_path / 'b') == files_of(exported)


def test_several_files_and_an_index(config, params, exported, tmp_path):
  huggingface.export_folder(
    Model(config, params), tmp_path / 'b', shard_bytes=6000
  )
  names = sorted(p.name for p in (tmp_path / 'b').glob('*.safetensors'))
  assert len(names) > 2
  assert names[0] == f'model-00001-of-{len(names):05}.safetensors'
  index = json.loads(
    (tmp_path / 'b' / 'model.safetensors.index.json').read_text()
  )
  whole = safetensors.numpy.load_file(exported / SAFETENSORS)
  assert index['weight_map'].keys() == whole.keys()
  assert index['metadata']['total_size'] == sum(
    a.nbytes for a in whole.values()
  )
  for name in names:
    held = safetensors.numpy.load_file(tmp_path / 'b' / name)
    assert {index['weight_map'][k] for k in held} == {name}
    assert len(held) == 1 or sum(a.nbytes for a in held.values()) <= 6000
  assert_same(huggingface.import_folder(tmp_path / 'b').params, params)


def test_a_file_is_mapped_and_not_loaded(exported, params, tmp_path):
  mapped = huggingface.map_folder(exported)
  for leaf in jax.tree.leaves(mapped.params):
    base = leaf
    while isinstance(base, np.ndarray) and base.base is not None:
      base = base.base
    assert not leaf.flags.owndata and not isinstance(base, np.ndarray)
  folder.save(tmp_path / 'ours', mapped)
  assert_same(folder.load(tmp_path / 'ours').params, params)


# MARK: What a folder says of itself


def test_the_configuration_comes_back_as_it_was(copy, tmp_path):
  def change(values):
    rope = values.pop('rope_parameters')
    values['rope_theta'] = rope['rope_theta']
    values['rope_scaling'] = None
    values['torch_dtype'] = values.pop('dtype')
    values['initializer_range'] = 0.5
    values['pad_token_id'] = 3
    values['eos_token_id'] = [2]

  change_json(copy / 'config.json', change)
  generation = {'temperature': 0.6, 'eos_token_id': 2}
  (copy / 'generation_config.json').write_text(json.dumps(generation))
  # Through our own format, as a user goes.
  folder.save(tmp_path / 'ours', huggingface.map_folder(copy))
  huggingface.export_folder(folder.load(tmp_path / 'ours'), tmp_path / 'b')
  for name in ('config.json', 'generation_config.json'):
    before = json.loads((copy / name).read_text())
    assert json.loads((tmp_path / 'b' / name).read_text()) == before
  for key in ('dtype', 'torch_dtype'):
    assert (copy / SAFETENSORS).read_bytes() == (
      tmp_path / 'b' / SAFETENSORS
    ).read_bytes(), key


def test_a_changed_backbone_says_what_it_has_become(copy, config, tmp_path):
  change_json(copy / 'config.json', lambda v: v.update(initializer_range=0.5))
  found = huggingface.import_folder(copy, dtype='bfloat16')
  deeper = dataclasses.replace(
    config.model, max_length=96, eos_ids=(4, 5), bos_id=None
  )
  changed = dataclasses.replace(
    found,
    config=dataclasses.replace(found.config, model=deeper),
    params=jax.tree.map(lambda x: x + jnp.ones((), x.dtype), found.params),
  )
  huggingface.export_folder(changed, tmp_path / 'b')
  values = json.loads((tmp_path / 'b' / 'config.json').read_text())
  assert values['dtype'] == 'bfloat16'
  assert values['initializer_range'] == 0.5
  assert values['eos_token_id'] == [4, 5]
  again = huggingface.import_folder(tmp_path / 'b')
  assert again.config == changed.config
  assert_same(again.params, changed.params)


def test_the_end_tokens_of_generation_win(copy):
  (copy / 'generation_config.json').write_text('{"eos_token_id": [7, 8]}')
  assert huggingface.import_folder(copy).config.model.eos_ids == (7, 8)


def test_a_head_that_is_tied_and_there_as_well(config, params, tmp_path):
  tied = tiny.tiny_config('', tied_head=True)
  values = {k: v for k, v in params['backbone'].items() if k != 'head'}
  huggingface.export_folder(
    Model(tied, {'backbone': values, 'exits': {}}), tmp_path / 'a'
  )
  path = tmp_path / 'a' / SAFETENSORS
  table = 'model.embed_tokens.weight'
  rewrite(path, lambda a: a.update({'lm_head.weight': a[table]}))
  found = huggingface.import_folder(tmp_path / 'a')
  assert found.config == tied
  assert_same(found.params['backbone'], values)
  # transformers does not tie what differs.
  rewrite(path, lambda a: a.update({'lm_head.weight': a[table] + 1}))
  found = huggingface.import_folder(tmp_path / 'a')
  assert found.config == config
  np.testing.assert_array_equal(
    found.params['backbone']['head']['kernel'],
    values['embedding']['table'].T + 1,
  )


def test_rotary_frequencies_in_old_files_are_not_needed(copy, params):
  name = 'model.layers.1.self_attn.rotary_emb.inv_freq'
  rewrite(copy / SAFETENSORS, lambda a: a.update({name: np.ones(3)}))
  assert_same(huggingface.import_folder(copy).params, params)


# MARK: Exits


@pytest.fixture(scope='module')
def with_exits(tmp_path_factory):
  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)
  params = random_params(config, dtype='bfloat16')
  path = tmp_path_factory.mktemp('exits') / 'model'
  huggingface.export_folder(Model(config, params), path)
  return path


def test_exits_are_named_by_their_place_in_the_tree(with_exits):
  names = set(SafetensorsFile(with_exits / 'exits.safetensors'))
  assert {n for n in names if n.startswith('exit_2.')} == {
    'exit_2.norm.scale',
    'exit_2.mlp.gate.kernel',
    'exit_2.mlp.up.kernel',
    'exit_2.mlp.down.kernel',
    'exit_2.output.kernel',
    'exit_2.gate.norm.scale',
    'exit_2.gate.inner.kernel',
    'exit_2.gate.inner.bias',
    'exit_2.gate.output.kernel',
    'exit_2.gate.output.bias',
  }
  assert not any(name.startswith('model') for name in names)


def test_exits_of_another_backbone_are_refused(with_exits, tmp_path):
  copy = shutil.copytree(with_exits, tmp_path / 'copy')
  data = bytearray((copy / SAFETENSORS).read_bytes())
  data[-1] ^= 1
  (copy / SAFETENSORS).write_bytes(bytes(data))
  with pytest.raises(CheckpointError, match='another backbone'):
    huggingface.import_folder(copy)
  (copy / 'exits.json').unlink()
  assert huggingface.import_folder(copy).config.exits == ()


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (lambda f: (f / 'exits.safetensors').unlink(), 'exit_1 lacks'),
    (lambda f: (f / 'exits.json').write_text('{'), 'exits.json'),
    (
      lambda f: change_json(f / 'exits.json', lambda v: v['exits'].pop()),
      'exit_4, which',
    ),
    (
      lambda f: change_json(
        f / 'exits.json', lambda v: v['exits'][1].update(depth=2)
      ),
      'more than one exit at depth 2',
    ),
  ],
)
def test_broken_exits_are_named(with_exits, tmp_path, damage, words):
  copy = shutil.copytree(with_exits, tmp_path / 'copy')
  damage(copy)
  with pytest.raises(CheckpointError, match=words):
    huggingface.import_folder(copy)


# MARK: Bad input


def drop(name):
  return lambda arrays: arrays.pop(name)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (
      drop('model.layers.1.mlp.up_proj.weight'),
      r'model.layers.1.mlp.up_proj.weight of shape \(20, 16\) is missing',
    ),
    (drop('lm_head.weight'), 'lm_head.weight.*tie_word_embeddings'),
    (
      lambda a: a.update({'model.norm.weight': np.ones(5, np.float32)}),
      r'model.norm.weight has shape \(5,\).*asks for \(16,\)',
    ),
    (
      lambda a: a.update({'model.layers.4.mlp.bias': np.ones(5)}),
      'model.layers.4.mlp.bias has no place',
    ),
    (
      lambda a: a.update(
        {'model.embed_tokens.weight': np.ones((31, 16), np.float32)}
      ),
      'vocab_size 29.*31 rows',
    ),
    (
      lambda a: a.update({'model.norm.weight': np.ones(16, np.int32)}),
      'model.norm.weight has dtype I32',
    ),
  ],
)
def test_tensors_that_do_not_fit_are_named(copy, change, words):
  rewrite(copy / SAFETENSORS, change)
  with pytest.raises(CheckpointError, match=words) as caught:
    huggingface.import_folder(copy)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'consolidated.00.pth'])
def test_a_pickle_is_never_read(copy, name):
  (copy / SAFETENSORS).unlink()
  (copy / name).write_bytes(b'cos\nsystem\n(S"touch /tmp/pwned"\ntR.')
  with pytest.raises(CheckpointError, match=f'{name}.*pickle.*convert'):
    huggingface.import_folder(copy)


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (lambda f: (f / 'config.json').unlink(), 'has no config.json'),
    (lambda f: (f / 'config.json').write_text('{'), 'config.json'),
    (lambda f: (f / 'config.json').write_text('[]'), 'JSON object'),
    (lambda f: (f / SAFETENSORS).unlink(), 'neither model.safetensors'),
    (
      lambda f: (f / SAFETENSORS).write_bytes(
        (f / SAFETENSORS).read_bytes()[:-4]
      ),
      'not a whole safetensors',
    ),
    (
      lambda f: change_json(
        f / 'config.json', lambda v: v.update(model_type='opt')
      ),
      'not supported.*LlamaForCausalLM',
    ),
    (
      lambda f: (f / 'model.safetensors.index.json').write_text('{}'),
      'weight_map',
    ),
    (
      lambda f: (f / 'model.safetensors.index.json').write_text(
        '{"weight_map": {"a": "lost.safetensors"}}'
      ),
      'lacks lost.safetensors',
    ),
    (
      lambda f: (f / 'model.safetensors.index.json').write_text(
        '{"weight_map": {"a": "../copy/model.safetensors"}}'
      ),
      'lacks ../copy',
    ),
  ],
)
def test_folders_that_cannot_be_read(copy, damage, words):
  damage(copy)
  with pytest.raises(CheckpointError, match=words):
    huggingface.import_folder(copy)


def write_tokenizer(path, size):
  vocabulary = {f'word{i}': i for i in range(size)}
  model = tokenizers.models.WordLevel(vocabulary, unk_token='word0')
  tokenizers.Tokenizer(model).save(str(path / 'tokenizer.json'))


def test_a_tokenizer_goes_along(copy, tmp_path):
  write_tokenizer(copy, 29)
  (copy / 'tokenizer_config.json').write_text('{}')
  folder.save(tmp_path / 'ours', huggingface.map_folder(copy))
  huggingface.export_folder(folder.load(tmp_path / 'ours'), tmp_path / 'b')
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (tmp_path / 'b' / name).read_bytes() == (copy / name).read_bytes()


def test_a_tokenizer_that_does_not_fit(copy):
  write_tokenizer(copy, 30)
  with pytest.raises(CheckpointError, match="'word29' has id 29.*29 embed"):
    huggingface.import_folder(copy)
  (copy / 'tokenizer.json').write_text('{}')
  with pytest.raises(CheckpointError, match='not a tokenizer'):
    huggingface.import_folder(copy)


def test_a_full_disk_leaves_nothing_behind(
  config, params, tmp_path, monkeypatch
):
  def fill_up(path, entries):
    path.write_bytes(b'half')
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(huggingface_export, 'write_safetensors', fill_up)
  with pytest.raises(CheckpointError, match='the disk is full'):
    huggingface.export_folder(Model(config, params), tmp_path / 'b')
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken(config, params, copy):
  checkpoint = Model(config, params)
  with pytest.raises(ArgumentError, match='not empty'):
    huggingface.export_folder(checkpoint, copy)
  huggingface.export_folder(checkpoint, copy, existing=Existing.OVERWRITE)


def test_a_model_that_the_family_cannot_be(tmp_path):
  config = tiny.tiny_config('', qk_norm=True)
  checkpoint = Model(config, random_params(config))
  with pytest.raises(ArgumentError, match='norms cannot be written'):
    huggingface.export_folder(checkpoint, tmp_path / 'b')
  assert list(tmp_path.iterdir()) == []


# MARK: The hub


def test_which_words_are_names_on_the_hub():
  assert hub.is_hub_name('meta-llama/Llama-3.2-1B')
  for source in ('model', './a/b', '/a/b', '../a', 'a/b/c', '~/a'):
    assert not hub.is_hub_name(source)


def test_a_model_of_the_hub(exported, params, monkeypatch):
  import huggingface_hub

  asked = {}

  def fetch(name, **options):
    asked.update(options, name=name)
    return str(exported)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
  found = huggingface.import_folder('somebody/something')
  assert_same(found.params, params)
  assert found.provenance['source'] == 'somebody/something'
  assert asked['name'] == 'somebody/something'
  assert not any('bin' in p or 'pt' in p for p in asked['allow_patterns'])


def test_the_hub_cannot_be_reached(monkeypatch):
  import huggingface_hub

  def fail(*args, **options):
    raise ConnectionError('Name or service not known\nat all')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fail)
  with pytest.raises(CheckpointError, match='cannot be reached') as caught:
    huggingface.import_folder('somebody/something')
  assert '\n' not in str(caught.value)


def test_there_is_no_such_folder(tmp_path):
  with pytest.raises(ArgumentError, match='there is no folder'):
    huggingface.import_folder(tmp_path / 'nowhere')


def test_bfloat16_is_read_bit_by_bit(config, tmp_path):
  params = random_params(config, dtype='bfloat16')
  huggingface.export_folder(Model(config, params), tmp_path / 'a')
  file = SafetensorsFile(tmp_path / 'a' / SAFETENSORS)
  table = file.tensor('model.embed_tokens.weight')
  assert table.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    table.view(np.uint16),
    np.asarray(params['backbone']['embedding']['table']).view(np.uint16),
  )
