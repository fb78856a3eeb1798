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
"""A decoder backbone: its sizes, and where it departs from Llama."""

import dataclasses

from eejax.config.block import (
  Activation,
  MLPKind,
  NormKind,
  NormPlacement,
  PositionKind,
  QKNormSpan,
  Residual,
)
from eejax.config.block_scales import BlockScales
from eejax.config.experts import ExpertsConfig
from eejax.config.field_types import check_fields
from eejax.config.rotary import RotaryConfig
from eejax.config.state_space import StateSpaceConfig
from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Describe a decoder backbone; a default is what Llama does.

  Attributes:
    vocab_size: rows of the embedding table (V).
    num_layers: blocks (L).
    embed_dim: width of the residual stream (D).
    num_heads: query heads (N), a multiple of `num_kv_heads`; 0, as the two
      fields that follow, where blocks have no attention.
    num_kv_heads: key/value heads (K).
    head_dim: width of a head (H); its rotated part is even.
    mlp_dim: width of the MLP (F); 0 where blocks have none.
    max_length: longest context the model may be used with, in tokens.
    norm_epsilon: added to the mean square, or the variance, in every norm.
    rotary: position embedding.
    qkv_bias: whether query, key and value projections have biases (Qwen2).
    output_bias: whether the attention output projection has a bias.
    mlp_bias: whether the MLP's projections have biases.
    qk_norm: whether queries and keys are normalised (Qwen3).
    tied_head: whether the final head is the embedding table.
    sliding_window: keys a query sees, itself included; None sees all.
    full_attention_blocks: how many blocks from the bottom ignore
      `sliding_window` (Qwen2's `max_window_layers`).
    bos_id: token that starts a text, or None.
    eos_ids: tokens that end a text.
    family: Hugging Face `model_type` the shape came from; used by export.
    norm: which norms it has.
    norm_gain_offset: added to every norm's learned gain (Gemma: 1).
    norm_placement: where norms stand about attention and MLP.
    residual: what the MLP reads.
    mlp: the form of the MLP.
    activation: the MLP's.
    positions: how it knows positions.
    position_offset: row of a learned table that position 0 has (OPT: 2).
    unrotated_blocks: blocks (0-based) that are told no positions (SmolLM3).
    windowed_blocks: blocks with the sliding window, where those are not all
      above `full_attention_blocks` (Gemma).
    window_rotary: rotation in blocks with the window, where it is another
      one (Gemma 3).
    qk_norm_span: what a norm of queries or keys spans.
    embedding_scale: multiplies embeddings.
    query_scale: multiplies the product of a query and a key; None is
      1 / sqrt(H).
    residual_scale: multiplies what attention and MLP add to the stream.
    logit_scale: multiplies the logits of every head.
    attention_softcap: c in c tanh(score / c), or None.
    logit_softcap: c in c tanh(logit / c) for every head, or None.
    experts: the experts that the MLP of every block is made of; None has one
      dense MLP a block. `mlp_dim` has no use then.
    state_space: the state-space mixer that stands beside attention, or in its
      place; None where there is none.
    scales: factors of the parts of a block (Falcon-H1); None is 1 for all.
  """

  vocab_size: int
  num_layers: int
  embed_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  max_length: int
  norm_epsilon: float = 1e-5
  rotary: RotaryConfig = RotaryConfig()
  qkv_bias: bool = False
  output_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  tied_head: bool = False
  sliding_window: int | None = None
  full_attention_blocks: int = 0
  bos_id: int | None = None
  eos_ids: tuple[int, ...] = ()
  family: str = 'llama'
  norm: NormKind = NormKind.RMS
  norm_gain_offset: float = 0.0
  norm_placement: NormPlacement = NormPlacement.BEFORE
  residual: Residual = Residual.SEQUENTIAL
  mlp: MLPKind = MLPKind.GATED
  activation: Activation = Activation.SILU
  positions: PositionKind = PositionKind.ROTARY
  position_offset: int = 0
  unrotated_blocks: tuple[int, ...] = ()
  windowed_blocks: tuple[int, ...] | None = None
  window_rotary: RotaryConfig | None = None
  qk_norm_span: QKNormSpan = QKNormSpan.HEAD
  embedding_scale: float = 1.0
  query_scale: float | None = None
  residual_scale: float = 1.0
  logit_scale: float = 1.0
  attention_softcap: float | None = None
  logit_softcap: float | None = None
  experts: ExpertsConfig | None = None
  state_space: StateSpaceConfig | None = None
  scales: BlockScales | None = None

  def __post_init__(self):
    check_fields(self)
    self._check_sizes()
    if self.has_attention and self.num_heads % self.num_kv_heads:
      raise ArgumentError(
        f'num_heads ({self.num_heads}) must be a multiple of num_kv_heads '
        f'({self.num_kv_heads}).'
      )
    if self.positions is PositionKind.ROTARY and self.rotary_dim % 2:
      raise ArgumentError(
        f'{self.rotary_dim} of {self.head_dim} dimensions of a head would be '
        'rotated; that must be an even number.'
      )
    factors = self.rotary.short_factors
    if factors and len(factors) != self.rotary_dim // 2:
      raise ArgumentError(
        f'{len(factors)} rotary factors do not fit {self.rotary_dim} rotated '
        'dimensions of a head; there must be one for each pair.'
      )
    for name in ('attention_softcap', 'logit_softcap'):
      if (getattr(self, name) or 1.0) <= 0:
        raise ArgumentError(f'{name} must be above 0.')
    if self.residual is Residual.PARALLEL and self.norm_placement.has_after:
      raise ArgumentError(
        'parallel residuals with norms after are not supported.'
      )
    if self.experts is not None and (
      self.mlp is not MLPKind.GATED or self.mlp_bias
    ):
      raise ArgumentError('experts must be gated MLPs without biases.')
    if self.sliding_window is not None and self.sliding_window < 1:
      raise ArgumentError(
        f'sliding_window must be at least 1, not {self.sliding_window}.'
      )

  def _check_sizes(self) -> None:
    sizes = ['vocab_size', 'num_layers', 'embed_dim', 'max_length']
    if self.state_space is None or self.has_attention:
      sizes += ['num_heads', 'num_kv_heads', 'head_dim']
    if self.state_space is None or self.mlp_dim:
      sizes.append('mlp_dim')
    for name in sizes:
      if (value := getattr(self, name)) < 1:
        raise ArgumentError(f'{name} must be a positive integer, not {value}.')
    if not self.has_attention:
      self._check_without_attention()

  def _check_without_attention(self) -> None:
    placed = self.norm_placement.has_after or self.sliding_window is not None
    unused = self.positions is PositionKind.ROTARY or self.qk_norm
    if placed or unused or self.experts or self.residual is Residual.PARALLEL:
      raise ArgumentError(
        'a model without attention has no rotary positions, no window, no '
        'norms but before its mixers, no experts, and sequential residuals.'
      )

  @property
  def has_attention(self) -> bool:
    """Return whether blocks attend to earlier tokens."""
    return bool(self.num_heads or self.num_kv_heads or self.head_dim)

  @property
  def has_mlp(self) -> bool:
    """Return whether blocks have an MLP."""
    return self.mlp_dim > 0 or self.experts is not None

  def window_of(self, block: int) -> int | None:
    """Return how many keys block `block` (0-based) sees, or None for all."""
    if self.windowed_blocks is not None:
      return self.sliding_window if block in self.windowed_blocks else None
    return None if block < self.full_attention_blocks else self.sliding_window

  @property
  def rotary_dim(self) -> int:
    """Return how many dimensions of a head are rotated."""
    return int(self.head_dim * self.rotary.fraction)

  @property
  def mlp_values(self) -> int:
    """Return by how many numbers of an MLP's kernels a token is multiplied."""
    if self.experts is not None:
      return self.experts.num_values(self.embed_dim, num=self.experts.top_k)
    kernels = 3 if self.mlp is MLPKind.GATED else 2
    return kernels * self.embed_dim * self.mlp_dim

  @property
  def rotations(self) -> tuple[RotaryConfig | None, ...]:
    """Return the different rotations of the blocks; None rotates nothing."""
    if self.positions is not PositionKind.ROTARY:
      return (None,)
    rotations: list[RotaryConfig | None] = [self.rotary]
    if self.window_rotary is not None:
      rotations.append(self.window_rotary)
    return (*rotations, None) if self.unrotated_blocks else tuple(rotations)

  def rotation_of(self, block: int) -> int:
    """Return which of `rotations` block `block` (0-based) has."""
    if block in self.unrotated_blocks:
      return len(self.rotations) - 1
    has_own = self.window_rotary is not None
    return int(has_own and self.window_of(block) is not None)

  @property
  def beyond_llama(self) -> str | None:
    """Return the first field in which the model is more than a Llama.

    Layouts of other programs that are known for blocks like Llama's alone
    refuse a model by it. Biases, norms of queries and keys and windows are not
    counted: those layouts have, or check, them.
    """
    for field in dataclasses.fields(self)[NUM_FIRST_FIELDS:]:
      if getattr(self, field.name) != field.default:
        return field.name
    return None if self.rotary.fraction == 1 else 'rotary.fraction'

  def with_depth(self, depth: int) -> 'ModelConfig':
    """Return the same model with only its first `depth` blocks."""
    return dataclasses.replace(self, num_layers=depth)


# Fields that every model had from the first; later ones are written where they
# are not what Llama does, so that hashes of earlier descriptions stay.
_NAMES = [f.name for f in dataclasses.fields(ModelConfig)]
NUM_FIRST_FIELDS = _NAMES.index('norm')
