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
"""Test the import of EE-LLM's checkpoints on files that are written here.

What Megatron computes with them is computed on the shards, as its ranks do:
columns of a matrix stay with their rank, and what rows give is summed. That
knows nothing of the importer's tables.
"""

import argparse
import collections
import enum
import random
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

import eejax
from eejax import CheckpointFormat
from eejax.checkpoint import ee_llm, folder
from eejax.cli import main
from eejax.data.tokenizer import train_bpe
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import decoder

torch = pytest.importorskip('torch', reason='needs the parity extra')
functional = torch.nn.functional

pytestmark = pytest.mark.parity

VOCABULARY = 29
ARGS = {
  'num_layers': 4,
  'hidden_size': 16,
  'num_attention_heads': 4,
  'group_query_attention': False,
  'num_query_groups': 1,
  'kv_channels': 6,
  'ffn_hidden_size': 20,
  'max_position_embeddings': 48,
  'padded_vocab_size': 32,
  'vocab_size': VOCABULARY,
  'norm_epsilon': 1e-4,
  'normalization': 'RMSNorm',
  'swiglu': True,
  'position_embedding_type': 'rope',
  'use_rotary_position_embeddings': False,
  'rotary_percent': 1.0,
  'rotary_seq_len_interpolation_factor': None,
  'add_bias_linear': False,
  'untie_embeddings_and_output_weights': True,
  'tensor_model_parallel_size': 1,
  'pipeline_model_parallel_size': 1,
  'exit_layer_nums': [],
  'exit_layer_weight': [],
  'exit_layer_temperature': [],
  'pre_exit': False,
  'use_exit_mlp': False,
  'use_exit_block': False,
  'use_exit_norm': False,
  'untie_exit_output_weights': False,
  'num_experts': None,
  'params_dtype': torch.float32,
  'data_path': ['0.5', 'a', '0.5', 'b'],
}


class Checkpoint:
  """Random shards: `files[rank, stage]` is the model of one file."""

  def __init__(self, *, dtype=torch.float32, **args):
    self.args = {**ARGS, **args}
    self.dtype = dtype
    self._generator = torch.Generator().manual_seed(0)
    self.ranks = self.args['tensor_model_parallel_size']
    self.num_stages = self.args['pipeline_model_parallel_size']
    stages = [self._stage(stage) for stage in range(self.num_stages)]
    self.files = {
      (rank, stage): stages[stage][rank]
      for stage in range(self.num_stages)
      for rank in range(self.ranks)
    }

  # MARK: Shards

  def _shards(self, *shape):
    """Return a random array of each rank."""
    return [
      torch.randn(shape, generator=self._generator).to(self.dtype) / 3
      for _ in range(self.ranks)
    ]

  def _equal(self, *shape, around=0.0):
    """Return one array for all ranks."""
    return [self._shards(*shape)[0] + around] * self.ranks

  def _block(self, prefix, *, twin=False):
    a = self.args
    d, n, h = a['hidden_size'], a['num_attention_heads'], a['kv_channels']
    groups = a['num_query_groups'] if a['group_query_attention'] else n
    found = {
      f'{prefix}.input_norm.weight': self._equal(d, around=1),
      f'{prefix}.post_attention_norm.weight': self._equal(d, around=1),
    }
    sizes = {
      'self_attention.query_key_value': (n + 2 * groups) * h // self.ranks,
      'self_attention.dense': n * h // self.ranks,
    }
    attention = f'{prefix}.self_attention'
    rows = sizes['self_attention.query_key_value']
    found[f'{attention}.query_key_value.weight'] = self._shards(rows, d)
    columns = sizes['self_attention.dense']
    found[f'{attention}.dense.weight'] = self._shards(d, columns)
    if a['add_bias_linear']:
      found[f'{attention}.query_key_value.bias'] = self._shards(rows)
      found[f'{attention}.dense.bias'] = self._equal(d)
    for mlp in ('mlp.trunk', 'mlp.branch') if twin else ('mlp',):
      found |= self._mlp(f'{prefix}.{mlp}')
    return found

  def _mlp(self, prefix):
    d = self.args['hidden_size']
    own = self.args['ffn_hidden_size'] // self.ranks
    found = {
      f'{prefix}.dense_h_to_4h.weight': self._shards(2 * own, d),
      f'{prefix}.dense_4h_to_h.weight': self._shards(d, own),
    }
    if self.args['add_bias_linear']:
      found[f'{prefix}.dense_h_to_4h.bias'] = self._shards(2 * own)
      found[f'{prefix}.dense_4h_to_h.bias'] = self._equal(d)
    return found

  def layers_of(self, stage):
    """Return the layers of a stage, counted from 1."""
    each = self.args['num_layers'] // self.num_stages
    return range(stage * each + 1, (stage + 1) * each + 1)

  def exits_of(self, stage):
    """Return the exit layers of a stage, in the order of the args."""
    numbers = self.args['exit_layer_nums']
    return [n for n in numbers if n in self.layers_of(stage)]

  def _stage(self, stage):
    """Return the model of each rank of a stage, as its modules save it."""
    a, d = self.args, self.args['hidden_size']
    encoder = {}
    for place, layer in enumerate(self.layers_of(stage)):
      prefix, is_exit = f'layers.{place}', layer in a['exit_layer_nums']
      encoder |= self._block(prefix, twin=is_exit and a['use_exit_mlp'])
      if is_exit and a['use_exit_norm']:
        encoder[f'{prefix}.exit_norm.weight'] = self._equal(d, around=1)
      if is_exit and a['use_exit_block']:
        encoder |= self._block(f'{prefix}.exit_block')
    table = (a['padded_vocab_size'] // self.ranks, d)
    last = stage == self.num_stages - 1
    if last:
      encoder['final_norm.weight'] = self._equal(d, around=1)
    parts = {'encoder': encoder}
    if stage == 0:
      self._table = self._shards(*table)
      parts['embedding'] = {'word_embeddings': {'weight': self._table}}
    if last and a['untie_embeddings_and_output_weights']:
      parts['output_layer'] = {'weight': self._shards(*table)}
    if self.exits_of(stage) and a['untie_exit_output_weights']:
      parts['exit_output_layer'] = {
        f'{i}.weight': self._shards(*table)
        for i in range(len(self.exits_of(stage)))
      }
    model = {'language_model': parts}
    if not a['untie_embeddings_and_output_weights'] and stage:
      model['word_embeddings_for_head'] = {'weight': self._table}
    return [_of_rank(model, rank) for rank in range(self.ranks)]

  # MARK: Files

  def write(self, folder, *, iteration=120):
    """Write the files of a run."""
    (folder / 'latest_checkpointed_iteration.txt').write_text(str(iteration))
    for rank, stage in self.files:
      path = self.path(folder, rank, stage, iteration=iteration)
      path.parent.mkdir(parents=True)
      torch.save(self.values(rank, stage, iteration=iteration), path)
    return folder

  def path(self, folder, rank=0, stage=0, *, iteration=120):
    """Return where the file of a rank lies."""
    name = f'mp_rank_{rank:02d}'
    if self.num_stages > 1:
      name += f'_{stage:03d}'
    return folder / f'iter_{iteration:07d}' / name / 'model_optim_rng.pt'

  def values(self, rank=0, stage=0, *, iteration=120):
    """Return what Megatron saves of a rank."""
    return {
      'args': argparse.Namespace(**self.args),
      'checkpoint_version': 3.0,
      'iteration': iteration,
      'model': self.files[rank, stage],
      'optimizer': {
        'fp32_from_fp16_params': [[torch.nn.Parameter(torch.ones(2, 3))]],
        'optimizer': {'state': {0: {'step': 3}}, 'param_groups': [{'lr': 1.0}]},
      },
      'opt_param_scheduler': {'num_steps': 7, 'start_wd': None},
      'rng_state': [
        {
          'random_rng_state': random.getstate(),
          'np_rng_state': np.random.get_state(),
          'torch_rng_state': torch.get_rng_state(),
          'rng_tracker_states': {},
        }
      ],
    }

  # MARK: What Megatron computes

  def logits(self, ids):
    """Return the logits of the final head, and of each exit by its layer."""
    a = self.args
    hidden = self._joined(0, 'embedding.word_embeddings.weight')[ids]
    exits = {}
    for stage in range(self.num_stages):
      for place, layer in enumerate(self.layers_of(stage)):
        prefix = f'encoder.layers.{place}'
        before = hidden
        is_exit = layer in a['exit_layer_nums']
        has_twin = is_exit and a['use_exit_mlp']
        residual = hidden + self._attention(stage, prefix, hidden)
        mlp = 'mlp.trunk' if has_twin else 'mlp'
        hidden = self._through_mlp(stage, prefix, mlp, residual)
        if is_exit:
          read = before if a['pre_exit'] else hidden
          if has_twin:
            read = self._through_mlp(stage, prefix, 'mlp.branch', residual)
          exits[layer] = self._exit(stage, prefix, layer, read)
    last = self.num_stages - 1
    final = self._norm(last, 'encoder.final_norm', hidden)
    return final @ self._head().T, exits

  def _head(self):
    if self.args['untie_embeddings_and_output_weights']:
      return self._joined(self.num_stages - 1, 'output_layer.weight')
    return self._joined(0, 'embedding.word_embeddings.weight')

  def _exit(self, stage, prefix, layer, read):
    if self.args['use_exit_block']:
      inner = f'{prefix}.exit_block'
      residual = read + self._attention(stage, inner, read)
      read = self._through_mlp(stage, inner, 'mlp', residual)
    if self.args['use_exit_norm']:
      read = self._norm(stage, f'{prefix}.exit_norm', read)
    matrix = self._joined(0, 'embedding.word_embeddings.weight')
    if self.args['untie_exit_output_weights']:
      number = self.exits_of(stage).index(layer)
      matrix = self._joined(stage, f'exit_output_layer.{number}.weight')
    return read @ matrix.T

  def _of_ranks(self, stage, name):
    *parts, last = ['language_model', *name.split('.', 1)]
    if parts[-1] == 'embedding':
      parts, last = [*parts, 'word_embeddings'], 'weight'
    found = []
    for rank in range(self.ranks):
      node = self.files[rank, stage]
      for key in parts:
        node = node[key]
      found.append(node.get(last))
    return found

  def _joined(self, stage, name):
    return torch.cat(self._of_ranks(stage, name))

  def _norm(self, stage, name, x):
    scale = self._of_ranks(stage, f'{name}.weight')[0]
    square = x.pow(2).mean(-1, keepdim=True)
    return x * torch.rsqrt(square + self.args['norm_epsilon']) * scale

  def _linear(self, stage, name, rank, x):
    weight = self._of_ranks(stage, f'{name}.weight')[rank]
    bias = self._of_ranks(stage, f'{name}.bias')[rank]
    return x @ weight.T + (0 if bias is None else bias)

  def _rows_linear(self, stage, name, inputs):
    """Return the sum of what each rank's columns give; the bias counts once."""
    weights = self._of_ranks(stage, f'{name}.weight')
    total = sum(x @ w.T for x, w in zip(inputs, weights, strict=True))
    bias = self._of_ranks(stage, f'{name}.bias')[0]
    return total + (0 if bias is None else bias)

  def _attention(self, stage, prefix, x):
    a, h = self.args, self.args['kv_channels']
    heads = a['num_attention_heads'] // self.ranks
    groups = a['num_query_groups'] // self.ranks
    groups = groups if a['group_query_attention'] else heads
    x = self._norm(stage, f'{prefix}.input_norm', x)
    attention = f'{prefix}.self_attention'
    contexts = []
    for rank in range(self.ranks):
      mixed = self._linear(stage, f'{attention}.query_key_value', rank, x)
      mixed = mixed.view(*x.shape[:2], groups, (heads // groups + 2) * h)
      query, key, value = mixed.split([heads // groups * h, h, h], dim=3)
      query = _rotated(query.reshape(*x.shape[:2], heads, h))
      key = _rotated(key).repeat_interleave(heads // groups, dim=2)
      value = value.repeat_interleave(heads // groups, dim=2)
      context = functional.scaled_dot_product_attention(
        *(y.transpose(1, 2) for y in (query, key, value)), is_causal=True
      )
      contexts.append(context.transpose(1, 2).flatten(2))
    return self._rows_linear(stage, f'{attention}.dense', contexts)

  def _through_mlp(self, stage, prefix, mlp, residual):
    x = self._norm(stage, f'{prefix}.post_attention_norm', residual)
    inner = []
    for rank in range(self.ranks):
      both = self._linear(stage, f'{prefix}.{mlp}.dense_h_to_4h', rank, x)
      first, second = both.chunk(2, dim=-1)
      inner.append(functional.silu(first) * second)
    name = f'{prefix}.{mlp}.dense_4h_to_h'
    return residual + self._rows_linear(stage, name, inner)


def _of_rank(value, rank):
  if isinstance(value, list):
    return value[rank]
  found = collections.OrderedDict(
    (key, _of_rank(inner, rank)) for key, inner in value.items()
  )
  # As `torch.nn.Module.state_dict` leaves it.
  found._metadata = collections.OrderedDict(version=1)
  return found


def _rotated(x):
  """Return heads [B, T, N, H] turned by their positions, halves apart."""
  half = x.shape[-1] // 2
  frequencies = 10_000 ** (-torch.arange(half) / half)
  angles = torch.arange(x.shape[1])[:, None] * frequencies
  cos, sin = (f(angles)[:, None].float() for f in (torch.cos, torch.sin))
  one, two = x.chunk(2, dim=-1)
  return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


def model_type(monkeypatch):
  """Return the member of an enum of Megatron, which the args hold."""
  module = types.ModuleType('megatron.core.enums')
  kind = enum.Enum('ModelType', {'encoder_or_decoder': 1})
  kind.__module__, kind.__qualname__ = module.__name__, 'ModelType'
  module.ModelType = kind
  for name in ('megatron', 'megatron.core', 'megatron.core.enums'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setitem(sys.modules, 'megatron.core.enums', module)
  return kind.encoder_or_decoder


# MARK: Tests

GROUPED = {'group_query_attention': True, 'num_query_groups': 2}
TIED = {'untie_embeddings_and_output_weights': False}
CASES = {
  'embedding exits before their layers, tied': {
    **TIED,
    'exit_layer_nums': [1, 3],
    'pre_exit': True,
  },
  'norm exits of their own matrices, as released': {
    'exit_layer_nums': [2, 3],
    'pre_exit': True,
    'use_exit_norm': True,
    'untie_exit_output_weights': True,
    'pipeline_model_parallel_size': 2,
  },
  'twin MLPs, both kinds of shards': {
    **GROUPED,
    'exit_layer_nums': [2, 4],
    'use_exit_norm': True,
    'use_exit_mlp': True,
    'untie_exit_output_weights': True,
    'tensor_model_parallel_size': 2,
    'pipeline_model_parallel_size': 2,
  },
  'blocks, biases, exits in another order': {
    **TIED,
    'exit_layer_nums': [3, 1],
    'use_exit_norm': True,
    'use_exit_block': True,
    'untie_exit_output_weights': True,
    'add_bias_linear': True,
    'tensor_model_parallel_size': 2,
  },
  'no exits, legacy positions': {
    'use_rotary_position_embeddings': True,
    'position_embedding_type': 'learned_absolute',
  },
}


@pytest.fixture(scope='module')
def ids():
  return np.random.default_rng(0).integers(3, VOCABULARY, (2, 7))


@pytest.mark.parametrize('name', CASES)
def test_logits_are_those_of_megatron(name, ids, tmp_path):
  checkpoint = Checkpoint(**CASES[name])
  model = eejax.import_folder(
    checkpoint.write(tmp_path), format=CheckpointFormat.EE_LLM
  )
  found = decoder.logits(model.params, jnp.asarray(ids), config=model.config)
  final, exits = checkpoint.logits(torch.from_numpy(ids))
  above = 1 if checkpoint.args['pre_exit'] else 0
  expected = {f'exit_{layer - above}': x for layer, x in exits.items()}
  assert found.keys() == {*expected, 'final'}
  assert model.config.model.vocab_size == VOCABULARY
  for key, logits in {**expected, 'final': final}.items():
    np.testing.assert_allclose(
      found[key], logits[..., :VOCABULARY], atol=1e-4, rtol=0, err_msg=key
    )
  assert model.provenance['ee_llm']['iteration'] == 120
  assert 'data_path' not in model.provenance['ee_llm']


def test_arrays_are_views_of_the_file_in_its_dtype(tmp_path):
  Checkpoint(dtype=torch.bfloat16).write(tmp_path)
  model = ee_llm.map_folder(tmp_path)
  table = model.params['backbone']['embedding']['table']
  assert table.dtype == jnp.bfloat16
  assert not table.flags.owndata


def test_the_command_imports_with_the_tokenizer_of_another_folder(
  tmp_path, monkeypatch
):
  kind = model_type(monkeypatch)
  Checkpoint(
    exit_layer_nums=[2],
    use_exit_norm=True,
    vocab_size=None,
    untie_exit_output_weights=True,
    padded_vocab_size=512,
    model_type=kind,
  ).write(tmp_path)
  tokens = train_bpe(['ab ab ba'], vocab_size=300)
  tokens.save(tmp_path)
  dest = tmp_path / 'out'
  code = main.main(
    ['import', str(tmp_path), str(dest), '--format', 'ee-llm', '--quiet']
  )
  assert code == 0
  model = folder.load(dest)
  assert model.config.model.vocab_size == tokens.vocab_size
  assert model.config.model.eos_ids == tokens.eos_ids
  assert model.tokenizer.encode('ab', add_bos=False)
  named = ee_llm.map_folder(tmp_path, described=model)
  assert named.config == model.config


def test_without_a_tokenizer_all_rows_are_kept(tmp_path):
  Checkpoint(vocab_size=None).write(tmp_path)
  assert ee_llm.map_folder(tmp_path).config.model.vocab_size == 32


def test_a_folder_of_one_iteration_may_be_given(tmp_path):
  Checkpoint().write(tmp_path, iteration=80)
  inside = ee_llm.map_folder(tmp_path / 'iter_0000080')
  assert inside.provenance['ee_llm']['iteration'] == 80


REFUSED = {
  'LayerNorm': ({'normalization': 'LayerNorm'}, 'normalization'),
  'gelu': ({'swiglu': False}, 'swiglu'),
  'positions': ({'position_embedding_type': 'learned_absolute'}, 'rope'),
  'rotary': ({'rotary_percent': 0.5}, 'rotary_percent'),
  'experts': ({'num_experts': 4}, 'num_experts'),
  'MLP without norm': (
    {'exit_layer_nums': [2], 'use_exit_mlp': True},
    'exits of the checkpoint have a MLP;',
  ),
  'width': ({'hidden_size': 24}, 'contradicts'),
  'mlp width': ({'ffn_hidden_size': 10}, 'contradicts'),
  'heads': ({'num_attention_heads': 2}, 'query_key_value has 72 rows'),
  'no number': ({'num_layers': 'four'}, 'num_layers'),
  'fewer layers': ({'num_layers': 3}, 'has no place'),
  'more layers': ({'num_layers': 5}, 'lacks the array'),
  'rows': ({'padded_vocab_size': 64}, 'padded_vocab_size 64'),
  'odd stages': ({'pipeline_model_parallel_size': 3}, 'is missing'),
  'exit beyond': (
    {'exit_layer_nums': [9], 'use_exit_norm': True},
    'lies beyond the model',
  ),
  'exit without arrays': (
    {'exit_layer_nums': [2], 'use_exit_norm': True},
    'exit_norm',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_settings_that_cannot_be_are_a_sentence(name, tmp_path):
  args, words = REFUSED[name]
  checkpoint = Checkpoint().write(tmp_path)
  other = Checkpoint()
  other.args = {**other.args, **args}
  torch.save(other.values(), other.path(checkpoint))
  with pytest.raises(CheckpointError, match=words) as caught:
    ee_llm.map_folder(tmp_path)
  assert '\n' not in str(caught.value)


def test_files_that_contradict_one_another_are_a_sentence(tmp_path):
  checkpoint = Checkpoint(tensor_model_parallel_size=2)
  checkpoint.write(tmp_path)
  second = checkpoint.path(tmp_path, rank=1)
  values = checkpoint.values(rank=1)
  language = values['model']['language_model']
  language['output_layer']['weight'] = torch.ones(8, 16)
  torch.save(values, second)
  with pytest.raises(CheckpointError, match='output_layer.weight have shapes'):
    ee_llm.map_folder(tmp_path)
  del language['output_layer']
  torch.save(values, second)
  with pytest.raises(CheckpointError, match='some tensor ranks have the array'):
    ee_llm.map_folder(tmp_path)
  second.unlink()
  with pytest.raises(CheckpointError, match='2 tensor ranks in 1 stages'):
    ee_llm.map_folder(tmp_path)


def test_a_folder_without_its_checkpoint_is_a_sentence(tmp_path):
  with pytest.raises(CheckpointError, match='holds no checkpoint of EE-LLM'):
    ee_llm.map_folder(tmp_path)
  latest = tmp_path / 'latest_checkpointed_iteration.txt'
  latest.write_text('120')
  with pytest.raises(CheckpointError, match='names iter_0000120'):
    ee_llm.map_folder(tmp_path)
  latest.write_text('../../etc')
  with pytest.raises(CheckpointError, match='must hold an iteration'):
    ee_llm.map_folder(tmp_path)
  with pytest.raises(ArgumentError, match='there is no folder'):
    eejax.import_folder(tmp_path / 'x', format=CheckpointFormat.EE_LLM)


def test_the_layout_is_not_written(tmp_path):
  checkpoint = Checkpoint().write(tmp_path)
  model = eejax.import_folder(checkpoint, format=CheckpointFormat.EE_LLM)
  with pytest.raises(ArgumentError, match='read, not written'):
    eejax.export_folder(model, tmp_path / 'out', format=CheckpointFormat.EE_LLM)
