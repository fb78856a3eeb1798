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
"""A model of its own, made of the blocks up to an exit and its head.

Its logits are those of the exit, so that any program that decodes lossless
with a small draft model of the same tokenizer can draft with the exit: vLLM's
method `draft_model`, transformers' `assistant_model`. Such a program runs the
shared blocks twice, once to draft and once to verify; eejax's own decoding
runs them once.

  norm   the final norm and head are the exit's
  mlp    so is the MLP of the last block, whose twin the exit is
  block  the exit's block is one more block

`embedding` has no norm before the head, and `bottleneck_mlp` a second MLP:
neither is a model of the backbone's family.
"""

import dataclasses

from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  ModelConfig,
  OutputMatrix,
)
from eejax.errors import ArgumentError
from eejax.models.exits import exit_window, output_kernel
from eejax.types import Params

_KINDS = (ExitHeadKind.NORM, ExitHeadKind.MLP, ExitHeadKind.BLOCK)


def draft_model(model: Model, depth: int) -> Model:
  """Return the exit at a depth as a model without exits.

  Args:
    model: with the exit; every block below it must be there.
    depth: of the exit.

  Raises:
    ArgumentError: there is no such exit, or its head is of a kind that is no
      model by itself.

  Example:
    >>> import eejax
    >>> model = eejax.add_exits(eejax.load('default'), '4:mlp')
    >>> draft = eejax.draft_model(model, 4)
    >>> draft.config.model.num_layers
    4
  """
  exit = _find(model.config, depth)
  config = _shape(model.config.model, exit)
  params, own = model.params, model.params['exits'][exit.name]
  blocks = [dict(tree.block(params, index)) for index in range(depth)]
  if exit.head is ExitHeadKind.MLP:
    blocks[-1] |= {k: v for k, v in own.items() if k.startswith('mlp')}
  elif exit.head is ExitHeadKind.BLOCK:
    blocks.append(own['block'])
  backbone: Params = {
    'embedding': params['backbone']['embedding'],
    'blocks': tuple(blocks),
    'final_norm': own['norm'],
  }
  if not config.tied_head:
    kernel = output_kernel(params, exit=exit, config=model.config.model)
    backbone['head'] = {'kernel': kernel}
  return Model(
    config=EarlyExitConfig(config),
    params={'backbone': backbone, 'exits': {}},
    tokenizer_folder=model.tokenizer_folder,
    provenance={'source': f'the exit at depth {depth} of another model'},
  )


def _find(config: EarlyExitConfig, depth: int) -> ExitConfig:
  for exit in config.exits:
    if exit.depth == depth:
      break
  else:
    there = ', '.join(map(str, config.exit_depths)) or 'none'
    raise ArgumentError(
      f'the model has no exit at depth {depth}; it has {there}.'
    )
  if exit.head not in _KINDS:
    kinds = ', '.join(kind.value for kind in _KINDS)
    raise ArgumentError(
      f'a {exit.head.value} exit is no model by itself; exits of these kinds '
      f'are: {kinds}.'
    )
  return exit


def _shape(config: ModelConfig, exit: ExitConfig) -> ModelConfig:
  more = 1 if exit.head is ExitHeadKind.BLOCK else 0
  if exit.depth + more == 0:
    raise ArgumentError('an exit at depth 0 has no block; it is no model.')
  embedding = exit.output is OutputMatrix.TIED_EMBEDDING
  shared = exit.output is OutputMatrix.SHARED and config.tied_head
  made = dataclasses.replace(
    config,
    num_layers=exit.depth + more,
    tied_head=embedding or shared,
    full_attention_blocks=min(config.full_attention_blocks, exit.depth),
  )
  if more and made.window_of(exit.depth) != exit_window(config):
    raise ArgumentError(
      'the block of the exit sees another window than a block at its depth '
      'would; it is no model by itself.'
    )
  return made
