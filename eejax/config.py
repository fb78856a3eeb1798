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
"""Frozen, validated descriptions of a model and its exits.

These say what a model *is*; how it is trained or decoded lives with the
training and decoding packages. Every class checks itself on construction, so
code that receives one need not check again.
"""

import dataclasses
import enum
from typing import Any

from eejax.block_scales import BlockScales
from eejax.errors import ArgumentError
from eejax.experts_config import ExpertsConfig
from eejax.field_types import check_fields
from eejax.state_space import StateSpaceConfig


class RotaryScaling(enum.Enum):
  """How rotary frequencies are stretched beyond the trained context.

  Values are the `rope_type` names of Hugging Face configurations.
  """

  NONE = 'default'
  LINEAR = 'linear'
  DYNAMIC = 'dynamic'
  LLAMA3 = 'llama3'
  YARN = 'yarn'


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


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
  """Describe a rotary position embedding.

  Attributes:
    theta: base of the geometric series of wavelengths, > 1.
    scaling: which rule stretches the frequencies.
    factor: context extension, >= 1; read by every rule but `NONE`.
    original_max_length: the context the frequencies were trained for; read
      by `DYNAMIC`, `LLAMA3` and `YARN`.
    low_frequency_factor: `LLAMA3`: wavelengths above original / this are
      scaled fully.
    high_frequency_factor: `LLAMA3`: wavelengths below original / this are
      left alone.
    beta_fast: `YARN`: rotations above which a dimension is left alone.
    beta_slow: `YARN`: rotations below which a dimension is scaled fully.
    attention_factor: `YARN`: multiplies cosine and sine; None derives it
      from `factor`.
    truncate: `YARN`: whether the ramp's ends are rounded to whole
      dimensions, as in the original code.
    fraction: share of a head's dimensions that is rotated, the first ones;
      in (0, 1].
  """

  theta: float = 10_000.0
  scaling: RotaryScaling = RotaryScaling.NONE
  factor: float = 1.0
  original_max_length: int | None = None
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float | None = None
  truncate: bool = True
  fraction: float = 1.0

  def __post_init__(self):
    check_fields(self)
    if not 0 < self.fraction <= 1:
      raise ArgumentError(
        f'rotary fraction must be in (0, 1], not {self.fraction}.'
      )
    if self.theta <= 1:
      raise ArgumentError(f'rotary theta must be above 1, not {self.theta}.')
    if self.factor < 1:
      raise ArgumentError(f'rotary factor must be >= 1, not {self.factor}.')
    needs_length = self.scaling in (
      RotaryScaling.DYNAMIC,
      RotaryScaling.LLAMA3,
      RotaryScaling.YARN,
    )
    if needs_length and not self.original_max_length:
      raise ArgumentError(
        f'rotary scaling {self.scaling.value!r} needs original_max_length.'
      )


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


class ExitHeadKind(enum.Enum):
  """What stands between the residual stream and an exit's output matrix.

  With r the stream after a block's attention and u = norm(r) the input of
  its MLP, both of the exit's own block, and h the stream after the block:

    EMBEDDING       z = h
    NORM            z = norm_e(h)
    MLP             z = norm_e(r + mlp_e(u)), a twin of the block's own MLP
    BOTTLENECK_MLP  z = norm_e(h + low-rank mlp_e(norm'_e(h)))
    BLOCK           z = norm_e(block_e(h)), a whole extra block

  Reference: EE-LLM (arXiv 2312.04916), exit layer structures.
  """

  EMBEDDING = 'embedding'
  NORM = 'norm'
  MLP = 'mlp'
  BOTTLENECK_MLP = 'bottleneck_mlp'
  BLOCK = 'block'


class OutputMatrix(enum.Enum):
  """Which matrix an exit multiplies by to get logits.

  UNTIED          its own, trained
  TIED_EMBEDDING  the embedding table
  SHARED          the backbone's final head, whatever that is
  """

  UNTIED = 'untied'
  TIED_EMBEDDING = 'tied_embedding'
  SHARED = 'shared'


class GateKind(enum.Enum):
  """Which probe, read before the output matrix, predicts a safe exit."""

  NONE = 'none'
  LINEAR = 'linear'
  MLP = 'mlp'


class Initialization(enum.Enum):
  """How a new exit's parameters start."""

  COPY = 'copy'
  RANDOM = 'random'


@dataclasses.dataclass(frozen=True)
class ExitConfig:
  """Describe one exit.

  Attributes:
    depth: blocks run before the exit reads the stream, 0..L.
    head: what stands before the output matrix.
    output: which output matrix is used.
    rank: width of the bottleneck; `BOTTLENECK_MLP` needs it, others refuse it.
    gate: which probe is trained beside the head.
  """

  depth: int
  head: ExitHeadKind = ExitHeadKind.NORM
  output: OutputMatrix = OutputMatrix.SHARED
  rank: int | None = None
  gate: GateKind = GateKind.NONE

  def __post_init__(self):
    check_fields(self)
    if self.depth < 0:
      raise ArgumentError(f'an exit depth must be >= 0, not {self.depth}.')
    bottleneck = self.head is ExitHeadKind.BOTTLENECK_MLP
    if bottleneck and (self.rank is None or self.rank < 1):
      raise ArgumentError(
        f'the bottleneck_mlp exit at depth {self.depth} needs a rank >= 1.'
      )
    if not bottleneck and self.rank is not None:
      raise ArgumentError(
        f'the {self.head.value} exit at depth {self.depth} takes no rank.'
      )
    if self.head is ExitHeadKind.MLP and self.depth == 0:
      raise ArgumentError(
        'an mlp exit is the twin of the MLP below it, so depth 0 has none; '
        'use norm, embedding or block there.'
      )

  @property
  def name(self) -> str:
    """Return the exit's key in a parameter tree."""
    return exit_name(self.depth)


def exit_name(depth: int) -> str:
  """Return the key under which an exit's parameters are kept."""
  return f'exit_{depth}'


@dataclasses.dataclass(frozen=True)
class EarlyExitConfig:
  """Describe a backbone with its exits, sorted by depth.

  Attributes:
    model: the backbone.
    exits: the exits, at most one per depth, shallowest first.
  """

  model: ModelConfig
  exits: tuple[ExitConfig, ...] = ()

  def __post_init__(self):
    depths = [e.depth for e in self.exits]
    if len(set(depths)) < len(depths):
      twice = sorted({d for d in depths if depths.count(d) > 1})
      raise ArgumentError(
        f'there is more than one exit at depth {twice[0]}; keep one.'
      )
    if depths and max(depths) > self.model.num_layers:
      raise ArgumentError(
        f'an exit at depth {max(depths)} lies beyond the model, which has '
        f'{self.model.num_layers} blocks.'
      )
    heads = {e.head for e in self.exits}
    if ExitHeadKind.MLP in heads and not self.model.has_mlp:
      raise ArgumentError(
        'an mlp exit is the twin of an MLP, and blocks of this model have '
        'none; use norm, bottleneck_mlp, block or embedding.'
      )
    ordered = tuple(sorted(self.exits, key=lambda e: e.depth))
    object.__setattr__(self, 'exits', ordered)

  @property
  def exit_depths(self) -> tuple[int, ...]:
    """Return the depths of the exits, shallowest first."""
    return tuple(e.depth for e in self.exits)

  @property
  def deepest_exit(self) -> int:
    """Return the depth of the deepest exit, 0 without exits."""
    return max(self.exit_depths, default=0)

  def exit_at(self, depth: int) -> ExitConfig:
    """Return the exit at `depth`.

    Raises:
      ArgumentError: no exit is there.
    """
    for e in self.exits:
      if e.depth == depth:
        return e
    have = ', '.join(map(str, self.exit_depths)) or 'none'
    raise ArgumentError(f'there is no exit at depth {depth} (exits: {have}).')

  def with_exits(self, exits: tuple[ExitConfig, ...]) -> 'EarlyExitConfig':
    """Return the same backbone with other exits."""
    return dataclasses.replace(self, exits=exits)


def parse_exits(text: str) -> tuple[ExitConfig, ...]:
  """Read exits as the command line writes them.

  Each is `DEPTH:HEAD[(RANK)][:OUTPUT][:gate|:mlp_gate]`, separated by commas;
  HEAD is an `ExitHeadKind`, OUTPUT an `OutputMatrix`.

  Example:
    >>> [e.depth for e in parse_exits('3:norm,6:bottleneck_mlp(8):untied')]
    [3, 6]

  Raises:
    ArgumentError: a part is not understood; it is named.
  """
  return tuple(_parse_exit(part.strip()) for part in text.split(','))


def _parse_exit(text: str) -> ExitConfig:
  depth, *rest = text.split(':')
  if not depth.isdigit():
    raise ArgumentError(
      f'{text!r} is not an exit; write DEPTH:HEAD, for example 6:mlp.'
    )
  fields: dict[str, Any] = {'depth': int(depth)}
  head, _, rank = (rest[0] if rest else 'norm').partition('(')
  fields['head'] = _member(ExitHeadKind, head, text)
  if rank:
    if not rank.rstrip(')').isdigit():
      raise ArgumentError(f'{text!r}: the rank must be a number.')
    fields['rank'] = int(rank.rstrip(')'))
  for option in rest[1:]:
    if option in ('gate', 'mlp_gate'):
      fields['gate'] = GateKind.MLP if option == 'mlp_gate' else GateKind.LINEAR
    else:
      fields['output'] = _member(OutputMatrix, option, text)
  return ExitConfig(**fields)


def _member(kind: type[enum.Enum], value: str, text: str) -> Any:
  try:
    return kind(value)
  except ValueError:
    known = ', '.join(m.value for m in kind)
    raise ArgumentError(
      f'{value!r} in {text!r} is not one of: {known}.'
    ) from None
