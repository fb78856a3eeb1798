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
"""Where the files of a family keep each part of a model."""

import dataclasses
import types
from collections.abc import Mapping

# What stands for the number of an expert in the names of its parts.
EXPERT = 'EXPERT'


@dataclasses.dataclass(frozen=True)
class Packed:
  """Say that several of our parts are one part of the file.

  Attributes:
    name: of the part in the file.
    parts: ours, in the file's order.
    per_head: whether each head has all of them in turn; otherwise one part
      follows the other, whole.
  """

  name: str
  parts: tuple[str, ...]
  per_head: bool = False


@dataclasses.dataclass(frozen=True)
class Names:
  """Name the parts of a model in the files of a family.

  Attributes:
    outer: what is no block, by our path.
    blocks: what stands before the number of a block.
    block: parts of a block, by our path in it.
    packed: parts that the file has in one.
    conv1d: whether kernels are [in, out] in the file (GPT-2).
    prefix: the start of names that some files leave out.
    ignored: ends of names of buffers that follow from the configuration.
  """

  outer: Mapping[str, str]
  blocks: str
  block: Mapping[str, str]
  packed: tuple[Packed, ...] = ()
  conv1d: bool = False
  prefix: str = ''
  # Early files carry the rotary frequencies.
  ignored: tuple[str, ...] = ('.rotary_emb.inv_freq',)


LLAMA_NAMES = Names(
  outer={
    'embedding/table': 'model.embed_tokens',
    'final_norm': 'model.norm',
    'head': 'lm_head',
  },
  blocks='model.layers',
  block={
    'attention_norm': 'input_layernorm',
    'attention/query': 'self_attn.q_proj',
    'attention/key': 'self_attn.k_proj',
    'attention/value': 'self_attn.v_proj',
    'attention/output': 'self_attn.o_proj',
    'attention/query_norm': 'self_attn.q_norm',
    'attention/key_norm': 'self_attn.k_norm',
    'mlp_norm': 'post_attention_layernorm',
    'mlp/gate': 'mlp.gate_proj',
    'mlp/up': 'mlp.up_proj',
    'mlp/down': 'mlp.down_proj',
  },
)


def like_llama(
  within: Mapping[str, str] = types.MappingProxyType({}),
  *,
  packed: tuple[Packed, ...] = (),
  **block: str,
) -> Names:
  """Return Llama's names with other ones for some parts of a block.

  Args:
    within: names of parts of its attention and its MLP, by our paths.
    packed: parts that the file has in one.
    **block: names of other parts, by our names.
  """
  names = {**LLAMA_NAMES.block, **within, **block}
  return dataclasses.replace(LLAMA_NAMES, block=names, packed=packed)
