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
"""What the architectures of GGUF files are called in Hugging Face's folders.

A GGUF file is read as the folder that it was converted from would be: its
metadata become a `config.json`, its tensors get their old names and layout,
and the rest is done by `eejax.models.families`. So an architecture is one
entry of the table below.

Reference: llama.cpp's convert_hf_to_gguf.py, gguf's tensor_mapping.py.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eejax.errors import CheckpointError

# The keys of a config.json.
Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Change:
  """How a tensor's values differ between the two kinds of files.

  Attributes:
    read: returns the array of a Hugging Face file for that of a GGUF file.
    write: the other way.
    transposed: whether dimensions are swapped as well.
  """

  read: Callable[[np.ndarray, Values], np.ndarray]
  write: Callable[[np.ndarray, Values], np.ndarray]
  transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Describe one `general.architecture`.

  Attributes:
    name: the architecture.
    model_type: of Hugging Face's folders.
    class_name: the class that transformers has for it.
    keys: of config.json -> of the GGUF file, after the architecture.
    outer: module outside the blocks -> the GGUF name.
    blocks: module of a block -> the GGUF name.
    changes: GGUF name of a module -> what is changed in its tensors.
    biases: key of config.json -> the GGUF name of the module of a block that
      has a bias if it is true.
    fixed: what else its config.json says.
  """

  name: str
  model_type: str
  class_name: str
  keys: Mapping[str, str]
  outer: Mapping[str, str]
  blocks: Mapping[str, str]
  changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  biases: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def to_huggingface(self, name: str) -> str | None:
    """Return the Hugging Face name of a tensor, None for an unknown one."""
    module, _, kind = name.rpartition('.')
    inside = _BLOCK.fullmatch(module)
    if inside is None:
      theirs = {v: k for k, v in self.outer.items()}.get(module)
      return None if theirs is None else f'{theirs}.{kind}'
    theirs = {v: k for k, v in self.blocks.items()}.get(inside[2])
    return None if theirs is None else f'{_LAYERS}.{inside[1]}.{theirs}.{kind}'

  def to_gguf(self, name: str) -> str:
    """Return the GGUF name of a tensor.

    Raises:
      CheckpointError: the architecture has no such tensor.
    """
    module, _, kind = name.rpartition('.')
    inside = _LAYER.fullmatch(module)
    if inside is None and module in self.outer:
      return f'{self.outer[module]}.{kind}'
    if inside is not None and inside[2] in self.blocks:
      return f'blk.{inside[1]}.{self.blocks[inside[2]]}.{kind}'
    raise CheckpointError(
      f'the tensor {name} has no name in GGUF files of {self.name!r}.'
    )

  def change_of(self, name: str) -> Change | None:
    """Return what is changed in the tensor of a GGUF name."""
    module = name.rpartition('.')[0]
    inside = _BLOCK.fullmatch(module)
    return self.changes.get(inside[2] if inside else module)


_BLOCK = re.compile(r'blk\.(\d{1,6})\.(\w+)')
_LAYERS = 'model.layers'
_LAYER = re.compile(r'model\.layers\.(\d{1,6})\.(.+)')


def _heads(key: str) -> Change:
  """Return the change of projections whose rotary pairs lie side by side.

  GGUF has the two members of a pair next to each other, Hugging Face's files
  all first ones of a head before all second ones.
  """

  def split(array: np.ndarray, values: Values, *, sizes: Any) -> np.ndarray:
    heads = values[key]
    apart = array.reshape(heads, *sizes(array.shape[0] // heads // 2), -1)
    return apart.swapaxes(1, 2).reshape(array.shape)

  return Change(
    lambda array, values: split(array, values, sizes=lambda half: (half, 2)),
    lambda array, values: split(array, values, sizes=lambda half: (2, half)),
  )


_KEYS = {
  'hidden_size': 'embedding_length',
  'num_hidden_layers': 'block_count',
  'num_attention_heads': 'attention.head_count',
  'num_key_value_heads': 'attention.head_count_kv',
  'head_dim': 'attention.key_length',
  'intermediate_size': 'feed_forward_length',
  'max_position_embeddings': 'context_length',
  'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
  'rope_theta': 'rope.freq_base',
}
_OUTER = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
}
_BLOCKS = {
  'input_layernorm': 'attn_norm',
  'post_attention_layernorm': 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

LLAMA = Architecture(
  name='llama',
  model_type='llama',
  class_name='LlamaForCausalLM',
  keys=_KEYS,
  outer=_OUTER,
  blocks=_BLOCKS,
  changes={
    'attn_q': _heads('num_attention_heads'),
    'attn_k': _heads('num_key_value_heads'),
  },
  biases={'attention_bias': 'attn_q', 'mlp_bias': 'ffn_gate'},
)
QWEN2 = Architecture(
  name='qwen2',
  model_type='qwen2',
  class_name='Qwen2ForCausalLM',
  keys=_KEYS,
  outer=_OUTER,
  blocks=_BLOCKS,
  fixed={'use_sliding_window': False},
)
QWEN3 = Architecture(
  name='qwen3',
  model_type='qwen3',
  class_name='Qwen3ForCausalLM',
  keys=_KEYS,
  outer=_OUTER,
  blocks={
    **_BLOCKS,
    'self_attn.q_norm': 'attn_q_norm',
    'self_attn.k_norm': 'attn_k_norm',
  },
  biases={'attention_bias': 'attn_q'},
  fixed={'use_sliding_window': False},
)

ARCHITECTURES: dict[str, Architecture] = {
  a.name: a for a in (LLAMA, QWEN2, QWEN3)
}
# Families that are written as another architecture.
WRITTEN_AS = {'mistral': 'llama'}


def find(name: str) -> Architecture:
  """Return the architecture of a file.

  Raises:
    CheckpointError: it is not one of the table.
  """
  if name not in ARCHITECTURES:
    known = ', '.join(ARCHITECTURES)
    raise CheckpointError(
      f'the architecture {name!r:.80} is not supported in GGUF files; '
      f'supported are {known}.'
    )
  return ARCHITECTURES[name]
