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
"""What blocks of different families do differently, by name."""

import enum


class NormKind(enum.Enum):
  """Which norms a model has: root mean square, or LayerNorm with a bias."""

  RMS = 'rms'
  LAYER = 'layer'


class NormPlacement(enum.Enum):
  """Where norms stand about attention and MLP.

  BEFORE  x + f(norm(x)), as in Llama
  AFTER   x + norm(f(x)), as in OLMo2
  AROUND  x + norm'(f(norm(x))), as in Gemma 2
  """

  BEFORE = 'before'
  AFTER = 'after'
  AROUND = 'around'

  @property
  def has_before(self) -> bool:
    """Return whether attention and MLP read something normalised."""
    return self is not NormPlacement.AFTER

  @property
  def has_after(self) -> bool:
    """Return whether what they add to the stream is normalised."""
    return self is not NormPlacement.BEFORE


class Residual(enum.Enum):
  """What the MLP of a block reads.

  SEQUENTIAL  the stream after the attention
  PARALLEL    the stream that the attention reads, too (GPT-NeoX)
  """

  SEQUENTIAL = 'sequential'
  PARALLEL = 'parallel'


class MLPKind(enum.Enum):
  """GATED is down(act(gate(x)) * up(x)), PLAIN is down(act(up(x)))."""

  GATED = 'gated'
  PLAIN = 'plain'


class Activation(enum.Enum):
  """The nonlinearity of an MLP; GELU_TANH is its tanh approximation."""

  SILU = 'silu'
  GELU = 'gelu'
  GELU_TANH = 'gelu_tanh'
  RELU = 'relu'


class PositionKind(enum.Enum):
  """How a model knows positions.

  ROTARY   heads are rotated by them
  LEARNED  a table that is added to embeddings has a row for each
  NONE     from the order of tokens alone, as recurrent blocks do
  """

  ROTARY = 'rotary'
  LEARNED = 'learned'
  NONE = 'none'


class QKNormSpan(enum.Enum):
  """What a norm of queries or keys spans: a head, or all of them (OLMo2)."""

  HEAD = 'head'
  ALL_HEADS = 'all_heads'
