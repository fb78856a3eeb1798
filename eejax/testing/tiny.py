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
"""Models small enough to compile in a second.

Every dimension has a size of its own, so that a transposed or mistaken axis
cannot pass unnoticed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eejax.config import (
  Activation,
  EarlyExitConfig,
  ExitConfig,
  MLPKind,
  ModelConfig,
  NormKind,
  NormPlacement,
  PositionKind,
  QKNormSpan,
  Residual,
  RotaryConfig,
  parse_exits,
)
from eejax.config.block_scales import BlockScales
from eejax.config.experts import ExpertsConfig
from eejax.config.state_space import GatedNorm, StateSpaceConfig, StateSpaceKind
from eejax.models import decoder
from eejax.types import Params

# One exit of each kind of head, output matrix and gate.
EVERY_KIND_OF_EXIT = (
  '0:embedding:tied_embedding,'
  '1:norm:gate,'
  '2:mlp:untied:mlp_gate,'
  '3:bottleneck_mlp(5),'
  '4:block'
)


_LAYER_NORMS: dict[str, Any] = {
  'norm': NormKind.LAYER,
  'mlp': MLPKind.PLAIN,
  'qkv_bias': True,
  'output_bias': True,
  'mlp_bias': True,
  'num_kv_heads': 4,
}
# Each joins what blocks of several families do.
KINDS_OF_BLOCK: dict[str, dict[str, Any]] = {
  # GPT-NeoX
  'parallel': {
    **_LAYER_NORMS,
    'residual': Residual.PARALLEL,
    'activation': Activation.GELU,
    'rotary': RotaryConfig(fraction=0.5),
    'head_dim': 8,
  },
  # OPT, GPT-2
  'learned': {
    **_LAYER_NORMS,
    'positions': PositionKind.LEARNED,
    'position_offset': 2,
    'activation': Activation.RELU,
  },
  # Gemma 3 with the caps of Gemma 2, a block without positions as SmolLM3 and
  # the factors of Granite.
  'around': {
    'norm_placement': NormPlacement.AROUND,
    'norm_gain_offset': 1.0,
    'activation': Activation.GELU_TANH,
    'qk_norm': True,
    'sliding_window': 3,
    'windowed_blocks': (0, 3),
    'window_rotary': RotaryConfig(theta=100.0),
    'unrotated_blocks': (1,),
    'query_scale': 0.3,
    'embedding_scale': 4.0,
    'residual_scale': 0.7,
    'logit_scale': 2.0,
    'attention_softcap': 6.0,
    'logit_softcap': 8.0,
  },
  # OLMo2
  'after': {
    'norm_placement': NormPlacement.AFTER,
    'qk_norm': True,
    'qk_norm_span': QKNormSpan.ALL_HEADS,
  },
  # Mixtral, Qwen3-MoE, with the shared expert of Qwen2-MoE
  'experts': {
    'experts': ExpertsConfig(5, 2, 12, renormalized=False, shared_dim=7),
  },
}


_NO_ATTENTION: dict[str, Any] = {
  'num_heads': 0,
  'num_kv_heads': 0,
  'head_dim': 0,
  'mlp_dim': 0,
  'positions': PositionKind.NONE,
}
_MAMBA2 = StateSpaceConfig(
  StateSpaceKind.MAMBA2,
  inner_dim=24,
  state_dim=3,
  convolution_width=3,
  num_heads=4,
  num_groups=2,
  norm=GatedNorm.AFTER_GATE,
  chunk=4,
)
# Blocks that keep a state; the last keeps keys and values, too.
KINDS_OF_RECURRENT_BLOCK: dict[str, dict[str, Any]] = {
  'mamba': {
    **_NO_ATTENTION,
    'state_space': StateSpaceConfig(
      StateSpaceKind.MAMBA, inner_dim=24, state_dim=3, step_rank=2
    ),
  },
  'mamba2': {**_NO_ATTENTION, 'state_space': _MAMBA2},
  # Falcon-H1
  'hybrid': {
    'state_space': dataclasses.replace(_MAMBA2, norm=GatedNorm.BEFORE_GATE),
    'scales': BlockScales(0.7, 1.2, 0.8, (0.9, 1.1, 0.7, 1.3, 0.6), 1.4, 0.9),
  },
}


def tiny_model_config(**overrides: Any) -> ModelConfig:
  """Return a Llama of 4 blocks with grouped queries.

  Args:
    **overrides: fields of `ModelConfig` to set otherwise.
  """
  fields: dict[str, Any] = {
    'vocab_size': 29,
    'num_layers': 4,
    'embed_dim': 16,
    'num_heads': 4,
    'num_kv_heads': 2,
    'head_dim': 6,
    'mlp_dim': 20,
    'max_length': 48,
    'bos_id': 1,
    'eos_ids': (2,),
  }
  return ModelConfig(**{**fields, **overrides})


def tiny_exits(
  text: str = '1:norm,2:mlp,3:norm:gate',
) -> tuple[ExitConfig, ...]:
  """Return the exits that `text` names, as on the command line."""
  return parse_exits(text)


def tiny_config(
  exits: str = '1:norm,2:mlp,3:norm:gate', **overrides: Any
) -> EarlyExitConfig:
  """Return a tiny backbone with exits.

  Args:
    exits: exits as the command line writes them; '' for none.
    **overrides: fields of `ModelConfig` to set otherwise.
  """
  model = tiny_model_config(**overrides)
  return EarlyExitConfig(model, tiny_exits(exits) if exits else ())


def tiny_params(
  config: EarlyExitConfig, *, seed: int = 0, dtype: Any = jnp.float32
) -> Params:
  """Return random parameters, the same for the same arguments.

  Norm scales are moved away from one and biases away from zero, for a norm or
  a bias that is left out would not show otherwise.
  """
  # Not as one program: what it is made of is alike in most configurations,
  # and compiled for the first of them.
  init_key, noise_key = jax.random.split(jax.random.key(seed))
  params = decoder.init(config, init_key, dtype=jnp.dtype(dtype))
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  keys = jax.random.split(noise_key, len(leaves))
  moved = [
    _move(path[-1].key, leaf, key)
    for (path, leaf), key in zip(leaves, keys, strict=True)
  ]
  return jax.tree_util.tree_unflatten(structure, moved)


def _move(name: str, leaf: jax.Array, key: jax.Array) -> jax.Array:
  if name not in ('scale', 'bias'):
    return leaf
  return leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)


def tiny_tokens(
  config: EarlyExitConfig,
  *,
  batch_size: int = 2,
  length: int = 7,
  seed: int = 0,
) -> jax.Array:
  """Return random token ids [B, T] above the special ones."""
  return jax.random.randint(
    jax.random.key(seed),
    (batch_size, length),
    min(3, config.model.vocab_size - 1),
    config.model.vocab_size,
  )
