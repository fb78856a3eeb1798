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
"""GGUF files of random models, written with the package gguf alone.

Nothing of `eejax.checkpoint` is used, so that tests compare two readings.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from eejax.config import ModelConfig

# Bytes of a block -> where its half-precision scales stand, for kinds that
# gguf reads and does not write.
_SCALES = {'Q4_K': (0, 2), 'Q5_K': (0, 2), 'Q6_K': (208,), 'Q2_K': (80, 82)}
ARCHITECTURES = {'llama': 'llama', 'qwen2': 'qwen2', 'qwen3': 'qwen3'}

WORDS = ('h', 'e', 'l', 'o', 'w', 'r', 'd', '\u0120', 'he', 'll', 'hell')
MERGES = ('h e', 'l l', 'he ll')
TEMPLATE = (
  '{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}'
  '{% if add_generation_prompt %}<s>{% endif %}'
)


@dataclasses.dataclass(frozen=True)
class TinyGGUF:
  """What a file holds.

  Attributes:
    path: the file.
    config: the model.
    arrays: what `gguf.dequantize` makes of each tensor, by its name.
  """

  path: pathlib.Path
  config: ModelConfig
  arrays: Mapping[str, np.ndarray]


def byte_level_keys(size: int, *, pre: str = 'gpt-2') -> dict[str, Any]:
  """Return the keys of a byte-level tokenizer with `size` tokens.

  Args:
    size: at least 14; what is left over is unused.
    pre: the name of how it cuts text.
  """
  tokens = ['<unk>', '<s>', '</s>', *WORDS]
  types = [3, 3, 3] + [1] * len(WORDS)
  for number in range(len(tokens), size):
    tokens.append(f'[PAD{number}]')
    types.append(5)
  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': pre,
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': types,
    'tokenizer.ggml.merges': list(MERGES),
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.add_bos_token': True,
    'tokenizer.chat_template': TEMPLATE,
  }


def write_gguf(
  path: pathlib.Path,
  config: ModelConfig,
  *,
  kind: str = 'F32',
  keys: Mapping[str, Any] | None = None,
  extra: Mapping[str, np.ndarray] | None = None,
  seed: int = 0,
) -> TinyGGUF:
  """Write a random model.

  Args:
    path: the file to make.
    config: the model; its family is the architecture.
    kind: of matrices; vectors are F32.
    keys: metadata beside the model's own, or in their place; None leaves a
      key out.
    extra: tensors beside the model's own.
    seed: of the values.
  """
  import gguf

  name = ARCHITECTURES[config.family]
  values = {**_model_keys(name, config), **byte_level_keys(config.vocab_size)}
  values |= keys or {}
  generator = np.random.default_rng(seed)
  stored: dict[str, tuple[np.ndarray, str]] = {}
  for tensor, shape in _shapes(config).items():
    stored[tensor] = _random(generator, shape, kind)
  for tensor, array in (extra or {}).items():
    stored[tensor] = (array.astype(np.float32), 'F32')
  writer = gguf.GGUFWriter(path, name)
  for key, value in values.items():
    _add(writer, key, value)
  for tensor, (raw, raw_kind) in stored.items():
    code = gguf.GGMLQuantizationType[raw_kind]
    writer.add_tensor(tensor, raw, raw_dtype=code)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  arrays = {
    tensor: gguf.dequantize(raw, gguf.GGMLQuantizationType[raw_kind])
    for tensor, (raw, raw_kind) in stored.items()
  }
  return TinyGGUF(path, config, arrays)


def _model_keys(name: str, config: ModelConfig) -> dict[str, Any]:
  return {
    f'{name}.block_count': config.num_layers,
    f'{name}.context_length': config.max_length,
    f'{name}.embedding_length': config.embed_dim,
    f'{name}.feed_forward_length': config.mlp_dim,
    f'{name}.attention.head_count': config.num_heads,
    f'{name}.attention.head_count_kv': config.num_kv_heads,
    f'{name}.attention.key_length': config.head_dim,
    f'{name}.attention.value_length': config.head_dim,
    f'{name}.attention.layer_norm_rms_epsilon': config.norm_epsilon,
    f'{name}.rope.freq_base': config.rotary.theta,
    f'{name}.rope.dimension_count': config.head_dim,
  }


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  c = config
  width, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  shapes: dict[str, tuple[int, ...]] = {
    'token_embd.weight': (c.vocab_size, c.embed_dim)
  }
  for index in range(c.num_layers):
    block = {
      'attn_norm.weight': (c.embed_dim,),
      'ffn_norm.weight': (c.embed_dim,),
      'attn_q.weight': (width, c.embed_dim),
      'attn_k.weight': (keys, c.embed_dim),
      'attn_v.weight': (keys, c.embed_dim),
      'attn_output.weight': (c.embed_dim, width),
      'ffn_gate.weight': (c.mlp_dim, c.embed_dim),
      'ffn_up.weight': (c.mlp_dim, c.embed_dim),
      'ffn_down.weight': (c.embed_dim, c.mlp_dim),
    }
    if c.qkv_bias:
      block |= {'attn_q.bias': (width,), 'attn_k.bias': (keys,)}
      block |= {'attn_v.bias': (keys,)}
    if c.qk_norm:
      block |= {'attn_q_norm.weight': (c.head_dim,)}
      block |= {'attn_k_norm.weight': (c.head_dim,)}
    shapes |= {f'blk.{index}.{name}': shape for name, shape in block.items()}
  shapes['output_norm.weight'] = (c.embed_dim,)
  if not c.tied_head:
    shapes['output.weight'] = (c.vocab_size, c.embed_dim)
  return shapes


def _random(
  generator: np.random.Generator, shape: tuple[int, ...], kind: str
) -> tuple[np.ndarray, str]:
  """Return stored values, and their kind."""
  import gguf

  if len(shape) == 1:
    return generator.normal(1, 0.1, shape).astype(np.float32), 'F32'
  code = gguf.GGMLQuantizationType[kind]
  if kind not in _SCALES:
    array = generator.normal(0, 0.1, shape).astype(np.float32)
    return gguf.quantize(array, code), kind
  values, size = gguf.GGML_QUANT_SIZES[code]
  raw = generator.integers(
    0, 256, (math.prod(shape) // values, size), dtype=np.uint8
  )
  for place in _SCALES[kind]:
    scale = generator.uniform(1e-3, 2e-3, len(raw)).astype(np.float16)
    raw[:, place : place + 2] = scale[:, None].view(np.uint8)
  return raw.reshape(shape[0], -1), kind


def _add(writer: Any, key: str, value: Any) -> None:
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  elif value is not None:
    writer.add_array(key, value)
