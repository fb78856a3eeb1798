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
"""Test the layouts of MaxText and gemma on trees that are built here.

The trees are built by what those programs do with a matrix, not with the
tables that are tested.
"""

import functools

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml

import eejax
from eejax import CheckpointFormat
from eejax.checkpoint import huggingface
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import Layout
from eejax.config import RotaryConfig, RotaryScaling
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import decoder
from eejax.models.stacking import unstack
from eejax.testing import tiny

LLAMA3 = RotaryConfig(
  scaling=RotaryScaling.LLAMA3, factor=8.0, original_max_length=16
)
# Of a head of 16 the root is a power of two: nothing is rounded.
MAXTEXT, GEMMA = CheckpointFormat.MAXTEXT, CheckpointFormat.GEMMA
EXACT = {'head_dim': 16}
KINDS = {
  'llama': EXACT,
  'llama3': {**EXACT, 'rotary': LLAMA3},
  'tied': {**EXACT, 'tied_head': True},
  'mistral': {**EXACT, 'family': 'mistral'},
  'qwen2': {'family': 'qwen2', 'qkv_bias': True},
  'qwen3': {'family': 'qwen3', 'qk_norm': True},
}


def random_model(exits='', *, dtype='float32', **overrides):
  config = tiny.tiny_config(exits, **overrides)
  shapes = jax.eval_shape(
    functools.partial(decoder.init, config), jax.random.key(0)
  )
  generator = np.random.default_rng(0)
  noise = lambda leaf: generator.normal(size=leaf.shape).astype(dtype)
  return Model(config, jax.tree.map(noise, shapes))


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)

  def check(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

  jax.tree.map(check, one, other)


def save(path, tree):
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(path, tree)


# MARK: There and back


@pytest.mark.parametrize('kind', KINDS)
def test_maxtext_round_trip(kind, tmp_path):
  model = random_model('1:norm,2:mlp:untied:gate', **KINDS[kind])
  eejax.export_folder(model, tmp_path / 'a', format=MAXTEXT)
  found = eejax.import_folder(tmp_path / 'a', format=MAXTEXT)
  assert found.config == model.config
  assert_same(found.params, model.params)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_maxtext_rounds_other_heads_once(dtype, tmp_path):
  model = random_model('1:norm', dtype=jax.numpy.dtype(dtype), head_dim=6)
  eejax.export_folder(model, tmp_path / 'a', format=MAXTEXT)
  found = eejax.import_folder(tmp_path / 'a', format=MAXTEXT)
  assert found.config == model.config  # the exits go with what comes back
  ours, theirs = (
    m.params['backbone']['blocks']['attention']['query']['kernel']
    for m in (model, found)
  )
  rounding = jax.numpy.finfo(dtype).eps
  np.testing.assert_allclose(
    np.float32(theirs), np.float32(ours), rtol=2 * float(rounding)
  )
  eejax.export_folder(found, tmp_path / 'b', format=MAXTEXT)
  eejax.import_folder(tmp_path / 'b', format=MAXTEXT)


@pytest.mark.parametrize('heads', [2, 4], ids=['all', 'grouped'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_gemma_round_trip(heads, dtype, tmp_path):
  model = random_model(
    '1:norm,2:mlp',
    dtype=jax.numpy.dtype(dtype),
    tied_head=True,
    num_heads=heads,
    family='qwen3',
    qk_norm=True,
  )
  eejax.export_folder(model, tmp_path / 'a', format=GEMMA)
  found = eejax.import_folder(tmp_path / 'a', format=GEMMA)
  assert found.config == model.config
  assert_same(found.params, model.params)


def test_other_layouts_and_dtypes(tmp_path):
  model = random_model(**EXACT)
  eejax.export_folder(model, tmp_path / 'a', format=MAXTEXT)
  found = eejax.import_folder(
    tmp_path / 'a',
    format=MAXTEXT,
    layout=Layout.UNSTACKED,
    dtype='bfloat16',
  )
  assert len(found.params['backbone']['blocks']) == 4
  assert {leaf.dtype.name for leaf in jax.tree.leaves(found.params)} == {
    'bfloat16'
  }


# MARK: Trees of theirs


def interleaved(kernel):
  """Lay the two halves of every head beside each other, one by one."""
  half = kernel.shape[-1] // 2
  made = np.empty_like(kernel)
  for index in range(half):
    made[..., 2 * index] = kernel[..., index]
    made[..., 2 * index + 1] = kernel[..., half + index]
  return made


def maxtext_layer(model, index):
  block = unstack(model.params['backbone']['blocks'])[index]
  attention, mlp = block['attention'], block['mlp']
  query, key = attention['query']['kernel'], attention['key']['kernel']
  if model.config.model.rotary.scaling is RotaryScaling.LLAMA3:
    query, key = interleaved(query), interleaved(key)
  return {
    'pre_self_attention_layer_norm': block['attention_norm'],
    'post_self_attention_layer_norm': block['mlp_norm'],
    'self_attention': {
      'query': {'kernel': query / np.float32(4)},
      'key': {'kernel': key},
      'value': attention['value'],
      'out': attention['output'],
    },
    'mlp': {'wi_0': mlp['gate'], 'wi_1': mlp['up'], 'wo': mlp['down']},
  }


def maxtext_tree(model, *, scanned):
  layers = [maxtext_layer(model, i) for i in range(4)]
  backbone = model.params['backbone']
  padding = np.zeros((3, 16), np.float32)
  table = np.concatenate([backbone['embedding']['table'], padding])
  if scanned:
    stack = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *layers)
    blocks = {'layers': stack}
  else:
    blocks = {f'layers_{i}': layer for i, layer in enumerate(layers)}
  weights = {
    'token_embedder': {'embedding': table},
    'decoder': {
      **blocks,
      'decoder_norm': backbone['final_norm'],
      'logits_dense': backbone['head'],
    },
  }
  moments = {'mu': np.zeros(3), 'count': np.zeros((), np.int32)}
  return {
    'params': {'params': weights},
    'opt_state': [moments],
    'step': np.zeros((), np.int32),
  }


@pytest.mark.parametrize('scanned', [True, False], ids=['scanned', 'apart'])
@pytest.mark.parametrize('kind', ['llama', 'llama3'])
def test_a_run_of_maxtext_is_read(scanned, kind, tmp_path):
  """The newest step of a run, its optimizer state left where it is."""
  model = random_model(**KINDS[kind])
  older = jax.tree.map(np.zeros_like, maxtext_tree(model, scanned=scanned))
  save(tmp_path / 'run' / '9' / 'items', older)
  save(tmp_path / 'run' / '10' / 'items', maxtext_tree(model, scanned=scanned))
  huggingface.export_folder(model, tmp_path / 'like')
  found = eejax.import_folder(
    tmp_path / 'run', format=MAXTEXT, config=tmp_path / 'like'
  )
  assert found.config == model.config
  assert_same(found.params, model.params)


def test_what_is_written_is_what_maxtext_reads(tmp_path):
  model = random_model(**KINDS['llama3'])
  eejax.export_folder(model, tmp_path / 'a', format=MAXTEXT)
  with ocp.PyTreeCheckpointer() as checkpointer:
    found = checkpointer.restore(tmp_path / 'a' / '0' / 'items')
  expected = maxtext_tree(model, scanned=True)['params']
  weights = expected['params']
  weights['token_embedder']['embedding'] = weights['token_embedder'][
    'embedding'
  ][:29]
  assert_same(found, {'params': expected})
  settings = yaml.safe_load((tmp_path / 'a' / 'maxtext.yml').read_text())
  assert settings['decoder_block'] == 'llama2'
  assert settings['rope_type'] == 'llama3.1'
  assert settings['base_num_kv_heads'] == 2
  assert settings['normalize_embedding_logits'] is False


def gemma_tree(model):
  tree = {
    'embedder': {
      'input_embedding': model.params['backbone']['embedding']['table']
    },
    'final_norm': model.params['backbone']['final_norm'],
  }
  for index, block in enumerate(unstack(model.params['backbone']['blocks'])):
    heads = {
      name: np.moveaxis(block['attention'][name]['kernel'], 1, 0)
      for name in ('query', 'key', 'value')
    }
    mlp = block['mlp']
    tree[f'layer_{index}'] = {
      'attn': {
        'q_einsum': {'w': heads['query']},
        'kv_einsum': {'w': np.stack([heads['key'], heads['value']])},
        'attn_vec_einsum': {'w': block['attention']['output']['kernel']},
      },
      'mlp': {
        'gating_einsum': np.stack([mlp['gate']['kernel'], mlp['up']['kernel']]),
        'linear': mlp['down']['kernel'],
      },
      'pre_attention_norm': block['attention_norm'],
      'pre_ffw_norm': block['mlp_norm'],
    }
  return tree


def flat(tree):
  """Name the arrays as the published files of Gemma do."""
  named = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    keys = ['transformer', *(entry.key for entry in path)]
    if keys[-1] in ('gating_einsum', 'linear'):
      keys.append('w')
    named.setdefault('/'.join(keys[:-1]), {})[keys[-1]] = leaf
  return named


@pytest.mark.parametrize(
  'change', [lambda tree: tree, flat], ids=['nested', 'flat']
)
def test_names_of_gemma_are_read(change, tmp_path):
  model = random_model(tied_head=True)
  save(tmp_path / 'theirs', change(gemma_tree(model)))
  huggingface.export_folder(model, tmp_path / 'like')
  found = eejax.import_folder(
    tmp_path / 'theirs', format=GEMMA, config=tmp_path / 'like'
  )
  assert_same(found.params, model.params)


# MARK: What cannot be


@pytest.mark.parametrize(
  'format, overrides, sentence',
  [
    (MAXTEXT, {'mlp_bias': True}, 'no biases'),
    (
      MAXTEXT,
      {'qkv_bias': True},
      'llama blocks have no biases',
    ),
    (
      MAXTEXT,
      {
        'rotary': RotaryConfig(
          scaling=RotaryScaling.YARN, factor=2.0, original_max_length=16
        )
      },
      'yarn',
    ),
    (MAXTEXT, {'attention_softcap': 5.0}, 'another attention_softcap'),
    (GEMMA, {'norm_gain_offset': 1.0}, 'another norm_gain_offset'),
    (GEMMA, {}, 'no head of its own'),
    (
      GEMMA,
      {'tied_head': True, 'output_bias': True},
      'no biases',
    ),
  ],
)
def test_parts_without_a_name_are_refused(
  format, overrides, sentence, tmp_path
):
  with pytest.raises(ArgumentError, match=sentence):
    eejax.export_folder(
      random_model(**overrides), tmp_path / 'a', format=format
    )
  assert not (tmp_path / 'a').exists()


def test_an_array_too_many_is_named(tmp_path):
  model = random_model(**EXACT)
  tree = maxtext_tree(model, scanned=True)
  weights = tree['params']['params']
  weights['decoder']['layers']['mlp']['gate'] = {'kernel': np.zeros((16, 4))}
  save(tmp_path / 'items', tree)
  huggingface.export_folder(model, tmp_path / 'like')
  with pytest.raises(CheckpointError, match='layers/mlp/gate/kernel'):
    eejax.import_folder(tmp_path, format=MAXTEXT, config=tmp_path / 'like')


def test_another_model_is_noticed(tmp_path):
  model = random_model(**EXACT)
  save(tmp_path / 'items', maxtext_tree(model, scanned=True))
  other = random_model(**EXACT, num_layers=5)
  huggingface.export_folder(other, tmp_path / 'like')
  with pytest.raises(CheckpointError, match='should have 5 blocks'):
    eejax.import_folder(tmp_path, format=MAXTEXT, config=tmp_path / 'like')


@pytest.mark.parametrize(
  'place, arguments, sentence',
  [
    ('missing', {}, 'no folder'),
    ('empty', {}, 'does not say what the model is'),
    ('empty', {'config': 'llama_2_7b'}, 'no checkpoint of maxtext'),
    ('empty', {'config': 'no_such_model'}, 'no_such_model'),
  ],
)
def test_what_is_missing_is_said(place, arguments, sentence, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises((ArgumentError, CheckpointError), match=sentence):
    eejax.import_folder(tmp_path / place, format=MAXTEXT, **arguments)


def test_a_folder_of_hugging_face_needs_no_likeness(tmp_path):
  with pytest.raises(ArgumentError, match='leave out --config'):
    eejax.import_folder(tmp_path, config='llama_2_7b')
