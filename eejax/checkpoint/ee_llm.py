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
"""Import checkpoints of EE-LLM and EE-Tuning: Megatron's layout, with exits.

What the model is stands in the settings of the training run, which Megatron
keeps in every file. A layer that has an exit holds the exit's norm, MLP and
block; the exits' own output matrices lie beside the layers, those of a stage
in the order of its exits.

Reference: EE-LLM (arXiv 2312.04916), `megatron/model/transformer.py`.
"""

import math
import os
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from eejax import storage
from eejax.checkpoint import arrays, ee_llm_config, shapes, tree
from eejax.checkpoint.arrays import Path
from eejax.checkpoint.ee_llm_shards import Shards, StageShards, read_shards
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import find_tokenizer
from eejax.config import (
  EarlyExitConfig,
  ExitHeadKind,
  ModelConfig,
  OutputMatrix,
)
from eejax.errors import CheckpointError
from eejax.models.families.tensors import block_key, tensors
from eejax.types import Params

Leaves = dict[Path, np.ndarray]
_DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def map_folder(
  source: str | os.PathLike, *, described: Model | None = None
) -> Model:
  """Return the model of a checkpoint with its arrays on the host, blocks apart.

  Args:
    source: the folder of a run, or of one iteration.
    described: a model with the same tokens, whose tokenizer is taken; None
      takes a tokenizer that lies in the folder.

  Raises:
    ArgumentError: the tokens are more than the checkpoint has rows for.
    CheckpointError: the checkpoint is incomplete, broken or not supported.
  """
  folder = storage.local_path(source)
  shards = read_shards(folder)
  tokenizer = find_tokenizer(folder)
  vocabulary = None
  if described is not None:
    tokenizer, vocabulary = described.tokenizer_folder, described.config.model
  config = ee_llm_config.read_config(
    shards.args, vocabulary=vocabulary, tokenizer=tokenizer
  )
  reader = _Reader(shards, config)
  params = {'backbone': reader.backbone(), 'exits': reader.exits()}
  reader.check_nothing_left()
  shapes.check_backbone(tree.shapes(params), config.model)
  shapes.check_exits(params['exits'], config)
  return Model(
    config=config,
    params=params,
    tokenizer_folder=tokenizer,
    provenance={
      'source': str(source),
      'ee_llm': {
        'iteration': shards.iteration,
        **ee_llm_config.kept_settings(shards.args),
      },
    },
  )


class _Reader:
  """Turns the arrays of shards into leaves, each of them once."""

  def __init__(self, shards: Shards, config: EarlyExitConfig):
    self._shards, self._config = shards, config
    layers = config.model.num_layers
    if layers % len(shards.stages):
      raise CheckpointError(
        f'{layers} layers cannot be shared by {len(shards.stages)} stages; the '
        'args of the checkpoint contradict one another.'
      )
    self._layers_per_stage = layers // len(shards.stages)
    self._shapes = {t.path: t.shape for t in tensors(config.model)}
    # In the order of the args, in which output matrices are numbered.
    self._exits = {
      layer: config.exit_at(ee_llm_config.depth_of(shards.args, layer))
      for layer in shards.args.get('exit_layer_nums') or ()
    }

  def backbone(self) -> Params:
    """Return the backbone, blocks apart."""
    first, last = self._shards.stages[0], self._shards.stages[-1]
    table = first.take('embedding.word_embeddings.weight')
    found: Leaves = {
      ('embedding', 'table'): self._tokens(table),
      ('final_norm', 'scale'): last.take('encoder.final_norm.weight'),
    }
    if not self._config.model.tied_head:
      found['head', 'kernel'] = self._tokens(last.take('output_layer.weight'))
    outer: Leaves = {at: _leaf(x, at, self._shapes) for at, x in found.items()}
    blocks = []
    for layer in range(1, self._config.model.num_layers + 1):
      stage, prefix = self._place(layer)
      mlp = f'{prefix}.mlp.trunk' if self._has_twin(layer) else f'{prefix}.mlp'
      inside = self._block(stage, prefix, mlp)
      at = ('blocks', block_key(layer - 1))
      block: Leaves = {
        p: _leaf(x, (*at, *p), self._shapes) for p, x in inside.items()
      }
      blocks.append(arrays.unflatten(block))
    return {**arrays.unflatten(outer), 'blocks': tuple(blocks)}

  def exits(self) -> Params:
    """Return the parameters of the exits, by name."""
    found = {}
    heads = [0] * len(self._shards.stages)
    for layer, exit in self._exits.items():
      stage, prefix = self._place(layer)
      leaves: Leaves = {}
      if exit.head is not ExitHeadKind.EMBEDDING:
        leaves['norm', 'scale'] = stage.take(f'{prefix}.exit_norm.weight')
      if exit.head is ExitHeadKind.MLP:
        leaves |= _under('mlp', self._mlp(stage, f'{prefix}.mlp.branch'))
      if exit.head is ExitHeadKind.BLOCK:
        inner = f'{prefix}.exit_block'
        block = self._block(stage, inner, f'{inner}.mlp')
        leaves |= _under('block', block)
      if exit.output is OutputMatrix.UNTIED:
        number = self._shards.stages.index(stage)
        name = f'exit_output_layer.{heads[number]}.weight'
        heads[number] += 1
        leaves['output', 'kernel'] = self._tokens(stage.take(name))
      wanted = shapes.exit_shapes(exit, self._config.model)
      found[exit.name] = arrays.unflatten(
        {at: _leaf(x, at, wanted) for at, x in leaves.items()}
      )
    return found

  def check_nothing_left(self) -> None:
    """Check that every array has its place in the model.

    Raises:
      CheckpointError: one has none; it is named.
    """
    for stage in self._shards.stages:
      # Where the table is the head, later stages have copies of it.
      stage.drop('word_embeddings_for_head.weight')
      for name in stage.left:
        raise CheckpointError(
          f'{self._shards.folder} has the array {name}, which has no place in '
          'the model that its args describe; it is not passed over, for the '
          'model might need it.'
        )

  def _place(self, layer: int) -> tuple[StageShards, str]:
    """Return the stage of a layer, counted from 1, and its prefix there."""
    stage, inside = divmod(layer - 1, self._layers_per_stage)
    return self._shards.stages[stage], f'encoder.layers.{inside}'

  def _has_twin(self, layer: int) -> bool:
    exit = self._exits.get(layer)
    return exit is not None and exit.head is ExitHeadKind.MLP

  def _tokens(self, array: np.ndarray) -> np.ndarray:
    """Return an array without the rows that pad the vocabulary."""
    if len(array) != self._shards.args['padded_vocab_size']:
      raise CheckpointError(
        f'the args say padded_vocab_size '
        f'{self._shards.args["padded_vocab_size"]}, but a matrix has '
        f'{len(array)} rows.'
      )
    return array[: self._config.model.vocab_size]

  def _block(self, stage: StageShards, prefix: str, mlp: str) -> Leaves:
    c = self._config.model
    attention = f'{prefix}.self_attention'
    found: Leaves = {
      ('attention_norm', 'scale'): stage.take(f'{prefix}.input_norm.weight'),
      ('mlp_norm', 'scale'): stage.take(f'{prefix}.post_attention_norm.weight'),
      ('attention', 'output', 'kernel'): stage.take(
        f'{attention}.dense.weight'
      ),
    }
    if c.output_bias:
      bias = stage.take(f'{attention}.dense.bias')
      found['attention', 'output', 'bias'] = bias
    fused = {'kernel': stage.take(f'{attention}.query_key_value.weight')}
    if c.qkv_bias:
      fused['bias'] = stage.take(f'{attention}.query_key_value.bias')
    for leaf, array in fused.items():
      for name, part in _query_key_value(array, c).items():
        found['attention', name, leaf] = part
    return found | _under('mlp', self._mlp(stage, mlp))

  def _mlp(self, stage: StageShards, prefix: str) -> Leaves:
    found: Leaves = {
      ('down', 'kernel'): stage.take(f'{prefix}.dense_4h_to_h.weight')
    }
    fused = {'kernel': stage.take(f'{prefix}.dense_h_to_4h.weight')}
    if self._config.model.mlp_bias:
      found['down', 'bias'] = stage.take(f'{prefix}.dense_4h_to_h.bias')
      fused['bias'] = stage.take(f'{prefix}.dense_h_to_4h.bias')
    for leaf, array in fused.items():
      middle = len(array) // 2
      found['gate', leaf], found['up', leaf] = array[:middle], array[middle:]
    return found


def _query_key_value(
  array: np.ndarray, config: ModelConfig
) -> dict[str, np.ndarray]:
  """Return the projections of a fused one: a group's queries, key, value."""
  groups, heads = config.num_kv_heads, config.num_heads
  rows = (heads + 2 * groups) * config.head_dim
  if len(array) != rows:
    raise CheckpointError(
      f'a query_key_value has {len(array)} rows, but the args of the '
      f'checkpoint ask for {rows}.'
    )
  inner = array.shape[1:]
  apart = array.reshape(groups, heads // groups + 2, config.head_dim, *inner)
  parts = {'query': apart[:, :-2], 'key': apart[:, -2], 'value': apart[:, -1]}
  return {name: x.reshape(-1, *inner) for name, x in parts.items()}


def _under(name: str, leaves: Leaves) -> Leaves:
  return {(name, *path): leaf for path, leaf in leaves.items()}


def _leaf(
  array: np.ndarray, path: Path, expected: Mapping[Path, tuple[int, ...]]
) -> np.ndarray:
  """Return an array, a matrix [outputs, inputs], in the shape of a leaf."""
  name, shape = '/'.join(path), expected.get(path)
  if array.dtype not in _DTYPES:
    raise CheckpointError(
      f'{name} has dtype {array.dtype}, which is not supported.'
    )
  # The table has a row a token in both.
  whole = array.T if path[-1] == 'kernel' else array
  if shape is None or not _matches(whole.shape, shape):
    raise CheckpointError(
      f'{name} has shape {array.shape} in the file, which contradicts the args '
      f'of the checkpoint.'
    )
  return whole.reshape(shape)


def _matches(held: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  """Return whether axes of `wanted` joined give `held`."""
  if len(held) == 1:
    return held[0] == math.prod(wanted)
  splits = range(1, len(wanted))
  return len(held) == 2 and any(
    held == (math.prod(wanted[:i]), math.prod(wanted[i:])) for i in splits
  )
