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
"""Tests of eejax checkpoints on disk."""

import dataclasses
import errno
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import arrays, folder, tree
from eejax.checkpoint.folder import Existing, Layout
from eejax.checkpoint.model import Model
from eejax.config import parse_exits
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.stacking import truncate, unstack
from eejax.testing import tiny

PAGE = pathlib.Path(__file__).parents[2] / 'docs/checkpoints.md'
NORM_SCALE = 'backbone/outer/final_norm.scale'


@pytest.fixture(scope='module')
def config():
  return tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)


@pytest.fixture(scope='module')
def params(config):
  # float32 and bfloat16 side by side, as some published models are.
  params = tiny.tiny_params(config)
  narrow = lambda leaf: leaf.astype(jnp.bfloat16)
  params['backbone']['blocks']['mlp'] = jax.tree.map(
    narrow, params['backbone']['blocks']['mlp']
  )
  return params


@pytest.fixture(scope='module')
def saved(config, params, tmp_path_factory):
  path = tmp_path_factory.mktemp('saved') / 'model'
  folder.save(path, Model(config, params))
  return path


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'copy')


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for path, leaf in jax.tree.leaves_with_path(expected):
    other = found
    for key in path:
      other = other[key.key if hasattr(key, 'key') else key.idx]
    assert isinstance(other, jax.Array)
    assert other.dtype == leaf.dtype, path
    np.testing.assert_array_equal(np.asarray(other), np.asarray(leaf))


def test_orbax_reads_it_in_the_lines_of_the_page(params, saved):
  (code,) = re.findall(
    r'```python\n(.*?ocp\.PyTreeCheckpointer.*?)```', PAGE.read_text(), re.S
  )
  assert "'checkpoints/tuned'" in code
  found = {}
  exec(code.replace("'checkpoints/tuned'", repr(str(saved))), found)
  backbone = dict(params['backbone'])
  blocks = list(unstack(backbone.pop('blocks')))
  exits = {name: leaves for name, leaves in params['exits'].items() if leaves}
  for read, expected in (
    (found['outer'], backbone),
    (found['blocks'], blocks),
    (found['exits'], exits),
  ):
    assert jax.tree.structure(read) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, read, expected)


def test_what_is_saved_loads_the_same(config, params, saved):
  loaded = folder.load(saved)
  assert loaded.config == config
  assert_same(loaded.params, params)
  assert loaded.tokenizer_folder is None


def test_unstacked_blocks(params, saved):
  loaded = folder.load(saved, layout=Layout.UNSTACKED)
  blocks = unstack(params['backbone']['blocks'])
  assert isinstance(loaded.params['backbone']['blocks'], tuple)
  assert_same(loaded.params['backbone']['blocks'], blocks)
  assert_same(loaded.params['exits'], params['exits'])


def test_both_layouts_are_saved_alike(config, params, saved, tmp_path):
  backbone = params['backbone']
  unstacked = {
    **params,
    'backbone': {**backbone, 'blocks': unstack(backbone['blocks'])},
  }
  folder.save(tmp_path / 'b', Model(config, unstacked))
  assert_same(folder.load(tmp_path / 'b').params, params)
  first, second = (
    json.loads((p / 'eejax.json').read_text())
    for p in (
      saved,
      tmp_path / 'b',
    )
  )
  assert first['backbone_hash'] == second['backbone_hash']
  assert first['arrays'] == second['arrays']


@pytest.mark.parametrize('dtype', ['float32', jnp.bfloat16])
def test_arrays_are_converted_on_loading(params, saved, dtype):
  loaded = folder.load(saved, dtype=dtype)
  expected = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  assert_same(loaded.params, expected)


def test_arrays_are_converted_on_saving(config, params, tmp_path):
  folder.save(tmp_path / 'b', Model(config, params), dtype='bfloat16')
  loaded = folder.load(tmp_path / 'b')
  expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  assert_same(loaded.params, expected)
  assert loaded.backbone_hash == folder.backbone_hash(expected)


# MARK: The first blocks alone


@pytest.mark.parametrize('layout', Layout)
@pytest.mark.parametrize('depth', [0, 2, 4])
def test_the_first_blocks_load_alone(config, params, saved, depth, layout):
  loaded = folder.load(saved, depth=depth, layout=layout)
  expected = truncate(params, depth=depth)['backbone']
  if layout is Layout.UNSTACKED:
    expected = {**expected, 'blocks': unstack(expected['blocks'])}
  assert_same(loaded.params['backbone'], expected)
  assert loaded.config.model == config.model
  assert loaded.config.exit_depths == tuple(range(depth + 1))
  assert set(loaded.params['exits']) == {f'exit_{i}' for i in range(depth + 1)}


def test_deeper_blocks_and_exits_are_not_read(params, copy):
  for name in ('backbone/blocks/002', 'exits/exit_3'):
    shutil.rmtree(copy / name)
  for file in (copy / 'backbone/blocks/003').rglob('*'):
    if file.is_file():
      file.write_bytes(b'broken')
  loaded = folder.load(copy, depth=2)
  assert_same(loaded.params['backbone'], truncate(params, depth=2)['backbone'])
  with pytest.raises(CheckpointError):
    folder.load(copy)


@pytest.mark.parametrize('depth', [-1, 5])
def test_a_depth_that_the_model_does_not_have(saved, depth):
  with pytest.raises(ArgumentError, match='has 4'):
    folder.load(saved, depth=depth)


# MARK: The hash


def test_the_hash_is_kept_and_is_that_of_the_whole_backbone(params, saved):
  digest = folder.backbone_hash(params)
  assert folder.load(saved).backbone_hash == digest
  assert folder.load(saved, depth=1).backbone_hash == digest
  assert folder.read_manifest(saved).backbone_hash == digest


def test_the_hash_changes_with_the_backbone_alone(params):
  digest = folder.backbone_hash(params)
  assert folder.backbone_hash({**params, 'exits': {}}) == digest
  seen = {digest}
  for leaf in (
    ('final_norm', 'scale'),
    ('blocks', 'attention', 'key', 'kernel'),
    ('embedding', 'table'),
  ):
    changed = jax.tree.map(lambda x: x, params)
    node = changed['backbone']
    for key in leaf[:-1]:
      node = node[key]
    flat = np.array(node[leaf[-1]])
    flat.reshape(-1)[-1] *= np.float32(1 + 2**-7)
    node[leaf[-1]] = flat
    seen.add(folder.backbone_hash(changed))
  assert len(seen) == 4


def test_the_hash_knows_dtypes_and_names(params):
  wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
  assert folder.backbone_hash(wide) != folder.backbone_hash(params)
  swapped = jax.tree.map(lambda x: x, wide)
  mlp = swapped['backbone']['blocks']['mlp']
  mlp['gate'], mlp['up'] = mlp['up'], mlp['gate']
  assert folder.backbone_hash(swapped) != folder.backbone_hash(wide)


# MARK: Other exits on the same backbone


def test_exits_are_replaced_without_touching_the_backbone(
  config, params, saved, tmp_path
):
  exits = parse_exits('2:norm')
  values = {'exit_2': {'norm': {'scale': jnp.full((16,), 3.0)}}}
  folder.replace_exits(
    tmp_path / 'b',
    source=saved,
    config=config.with_exits(exits),
    exits=values,
    provenance={'run': 'tune'},
  )
  for file in (saved / 'backbone').rglob('*'):
    other = tmp_path / 'b' / file.relative_to(saved)
    assert other.is_dir() or other.read_bytes() == file.read_bytes()
  loaded = folder.load(tmp_path / 'b')
  assert_same(loaded.params, {**params, 'exits': values})
  assert loaded.config.exits == exits
  assert loaded.backbone_hash == folder.load(saved).backbone_hash
  assert loaded.provenance['run'] == 'tune'


def test_exits_are_replaced_in_place(config, params, copy):
  kept = config.with_exits(config.exits[:2])
  exits = {e.name: params['exits'][e.name] for e in kept.exits}
  folder.replace_exits(
    copy,
    source=copy,
    config=kept,
    exits=exits,
    existing=Existing.OVERWRITE,
  )
  assert_same(folder.load(copy).params, {**params, 'exits': exits})


def test_exits_for_another_backbone_are_refused(config, saved, tmp_path):
  other = dataclasses.replace(config.model, max_length=99)
  with pytest.raises(ArgumentError, match='not the one'):
    folder.replace_exits(
      tmp_path / 'b',
      source=saved,
      config=dataclasses.replace(config, model=other, exits=()),
      exits={},
    )


def test_a_broken_backbone_is_not_passed_on(config, copy, tmp_path):
  (copy / NORM_SCALE / '0').unlink()
  with pytest.raises(CheckpointError, match='final_norm'):
    folder.replace_exits(
      tmp_path / 'b', source=copy, config=config.with_exits(()), exits={}
    )
  assert not (tmp_path / 'b').exists()


# MARK: Bad input


def test_a_folder_that_is_taken(config, params, copy):
  before = (copy / 'eejax.json').read_bytes()
  with pytest.raises(ArgumentError, match='not empty'):
    folder.save(copy, Model(config, params))
  assert (copy / 'eejax.json').read_bytes() == before


def test_a_folder_is_overwritten_when_asked(config, params, copy):
  bare = Model(config.with_exits(()), {**params, 'exits': {}})
  folder.save(copy, bare, existing=Existing.OVERWRITE)
  assert_same(folder.load(copy).params, bare.params)
  assert not (copy / 'exits').exists()


def test_a_full_disk_leaves_nothing_behind(
  config, params, tmp_path, monkeypatch
):
  write, calls = arrays.write_tree, []

  def fill_up(path, values):
    calls.append(path)
    if len(calls) == 3:
      raise OSError(errno.ENOSPC, 'No space left on device')
    write(path, values)

  monkeypatch.setattr(arrays, 'write_tree', fill_up)
  with pytest.raises(CheckpointError, match='the disk is full'):
    folder.save(tmp_path / 'b', Model(config, params))
  assert len(calls) == 3
  assert list(tmp_path.iterdir()) == []


def test_there_is_no_checkpoint(tmp_path):
  with pytest.raises(ArgumentError, match='no eejax checkpoint'):
    folder.load(tmp_path / 'nowhere')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ArgumentError, match='eejax import'):
    folder.read_config(tmp_path)


@pytest.mark.parametrize(
  ('name', 'damage', 'words'),
  [
    (f'{NORM_SCALE}/0', lambda f: f.unlink(), 'cut short'),
    (f'{NORM_SCALE}/0', lambda f: f.write_bytes(b'12'), 'has 2 bytes'),
    (f'{NORM_SCALE}/.zarray', lambda f: f.write_text('{'), 'broken'),
    ('backbone/blocks/001', shutil.rmtree, 'cut short.*001'),
    ('exits/exit_2', shutil.rmtree, 'cut short.*exit_2'),
    ('eejax.json', lambda f: f.write_text('{"format": 1'), 'broken'),
    ('eejax.json', lambda f: f.write_text('{"format": 1}'), 'broken'),
    ('eejax.json', lambda f: f.write_text('{"format": 2}'), 'update eejax'),
  ],
)
def test_what_is_broken_is_named(copy, name, damage, words):
  damage(copy / name)
  with pytest.raises(CheckpointError, match=words) as caught:
    folder.load(copy)
  assert '\n' not in str(caught.value)


def change_manifest(path, change):
  values = json.loads((path / 'eejax.json').read_text())
  change(values)
  (path / 'eejax.json').write_text(json.dumps(values))


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (
      lambda v: v['config']['model'].update(mlp_dim=21),
      r'mlp/down.*\(20, 16\).*\(21, 16\)',
    ),
    (
      lambda v: v['arrays'].pop('backbone/outer/final_norm/scale'),
      'lacks the array final_norm/scale',
    ),
    (
      lambda v: v['config']['model'].update(tied_head=True),
      'too many: head/kernel',
    ),
    (
      lambda v: v['config']['exits'][2].update(head='norm'),
      'exit_2 has an array too many: mlp',
    ),
    (lambda v: v['config']['model'].pop('vocab_size'), 'vocab_size'),
  ],
)
def test_a_configuration_that_does_not_fit(copy, change, words):
  change_manifest(copy, change)
  with pytest.raises(CheckpointError, match=words):
    folder.load(copy)


def test_a_manifest_that_names_other_shapes_than_the_files(copy):
  def change(values):
    values['config']['model']['embed_dim'] = 8
    for name in values['arrays']:
      shape = values['arrays'][name]['shape']
      values['arrays'][name]['shape'] = [8 if n == 16 else n for n in shape]

  change_manifest(copy, change)
  with pytest.raises(CheckpointError, match='has shape'):
    folder.load(copy)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (
      lambda p: p['backbone']['blocks']['mlp'].pop('up'),
      'lacks the array blocks/000/mlp/up/kernel',
    ),
    (
      lambda p: p['backbone']['final_norm'].update(scale=jnp.ones((3,))),
      r'final_norm/scale has shape \(3,\)',
    ),
    (lambda p: p['exits'].pop('exit_3'), 'exit_3 lacks'),
    (lambda p: p['exits'].update(exit_9={}), 'exit_9'),
  ],
)
def test_a_tree_that_does_not_fit_is_not_written(
  config, params, tmp_path, change, words
):
  broken = jax.tree.map(lambda leaf: leaf, params)
  change(broken)
  with pytest.raises(CheckpointError, match=words):
    folder.save(tmp_path / 'b', Model(config, broken))
  assert list(tmp_path.iterdir()) == []


def test_a_backbone_with_too_few_blocks_is_not_written(
  config, params, tmp_path
):
  with pytest.raises(CheckpointError, match='lacks the array blocks/003'):
    folder.save(tmp_path / 'b', Model(config, truncate(params, depth=3)))


# MARK: Memory


def test_loaded_arrays_do_not_share_memory_with_the_source(params):
  host = jax.tree.map(np.array, params)
  host['backbone']['blocks'] = unstack(host['backbone']['blocks'])
  placed = tree.on_device(
    tree.outer(host),
    host['backbone']['blocks'],
    host['exits'],
    layout=Layout.UNSTACKED,
  )
  for leaf in jax.tree.leaves(host):
    if leaf.flags.writeable:
      leaf[...] = 0
  assert_same(
    placed['backbone']['blocks'], unstack(params['backbone']['blocks'])
  )


def test_a_tokenizer_goes_along(config, params, tmp_path):
  source = tmp_path / 'source'
  source.mkdir()
  (source / 'tokenizer.json').write_text('{}')
  (source / 'unrelated.txt').write_text('')
  checkpoint = Model(config, params, tokenizer_folder=source)
  written = folder.save(tmp_path / 'b', checkpoint)
  assert written.tokenizer_folder == tmp_path / 'b'
  assert (tmp_path / 'b' / 'tokenizer.json').read_text() == '{}'
  assert not (tmp_path / 'b' / 'unrelated.txt').exists()
  loaded = folder.load(tmp_path / 'b', depth=0)
  assert loaded.tokenizer_folder == tmp_path / 'b'


def test_orbax_says_nothing(config, params, tmp_path, capfd):
  folder.save(tmp_path / 'b', Model(config, params))
  folder.load(tmp_path / 'b')
  out, err = capfd.readouterr()
  assert (out, err) == ('', '')
