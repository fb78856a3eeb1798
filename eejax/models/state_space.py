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
"""The state-space mixers of Mamba and Mamba 2, as Linen layers.

    inner, gate = projections of the stream
    inner = silu(causal convolution of inner)
    y = recurrence over inner, see `eejax.ops.selective_scan` and
        `eejax.ops.state_space_dual`, plus skip * inner
    MAMBA    added = projection of y * silu(gate)
    MAMBA2   added = projection of norm(y * silu(gate)), see `GatedNorm`

Reference:
  Gu and Dao (2023), Mamba, section 3.4; Dao and Gu (2024), Transformers are
  SSMs, section 7.
"""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import ModelConfig
from eejax.config.state_space import GatedNorm, StateSpaceConfig, StateSpaceKind
from eejax.models.layers import INIT_STD, Projection, Projections, scaled
from eejax.ops.causal_convolution import causal_convolution, next_tails
from eejax.ops.norm import rms_norm
from eejax.ops.recurrent_state import KeptStates, RecurrentState
from eejax.ops.selective_scan import selective_scan
from eejax.ops.state_space_dual import state_space_dual
from eejax.types import Array, Bool, DTypeLike, Float, Int

# Steps of a fresh mixer lie between these, as in the paper's code.
SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1


@flax.struct.dataclass
class RecurrentContext:
  """What a recurrent block goes on from, and what it is to keep.

  Attributes:
    state: of the tokens before; None where there are none.
    count: how many tokens of each row are no padding; None for all.
    kept: whether the state after every token is returned or the last alone.
  """

  state: RecurrentState | None = None
  count: Int[Array, 'B'] | None = None
  kept: KeptStates = flax.struct.field(
    pytree_node=False, default=KeptStates.LAST
  )


class StateSpaceMixer(nn.Module):
  """Mix a token with the tokens before it through a state."""

  config: ModelConfig
  projections: Projections = Projections.SEPARATE
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    *,
    segment_ids: Int[Array, 'B T'] | None = None,
    continuation: RecurrentContext | None = None,
  ) -> tuple[Float[Array, 'B T D'], RecurrentState]:
    """Return what is added to the stream, and the states that are kept.

    Args:
      x: normalised activations.
      segment_ids: a token sees no token of another id.
      continuation: what was before; nothing by default.
    """
    mixer = _mixer(self.config)
    continuation = continuation or RecurrentContext()
    parts = self._project(constrain(x, ('B', None, 'D')))
    convolved, tail = self._convolve(parts, segment_ids, continuation)
    run = self._mamba if mixer.kind is StateSpaceKind.MAMBA else self._mamba2
    y, memory = run(
      convolved,
      parts,
      starts=_starts(segment_ids),
      continuation=continuation,
    )
    output = Projection(
      (x.shape[-1],),
      bias=mixer.output_bias,
      std=INIT_STD / (2 * self.config.num_layers) ** 0.5,
      param_dtype=self.param_dtype,
      name='output',
    )
    added = output(constrain(y, ('B', None, 'I')))
    return added, RecurrentState(tail, memory)

  def _project(self, x: Float[Array, 'B T D']) -> dict[str, jax.Array]:
    """Return the projections of the stream, scaled, by name."""
    names = _mixer(self.config).fused_kernels
    parts = self._projected(x)
    scales = self.config.scales
    if scales is None or not scales.mixer_parts:
      return parts
    pairs = zip(names, scales.mixer_parts, strict=True)
    return {name: scaled(parts[name], factor) for name, factor in pairs}

  def _projected(self, x: Float[Array, 'B T D']) -> dict[str, jax.Array]:
    mixer = _mixer(self.config)
    names = mixer.fused_kernels
    kernels = mixer.kernels(x.shape[-1])
    widths = [kernels[name][1] for name in names]

    def project(name: str, width: int) -> jax.Array:
      return Projection(
        (width,),
        bias=mixer.projection_bias,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    if self.projections is Projections.FUSED:
      ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
      parts = jnp.split(project('stream', sum(widths)), ends, axis=-1)
      return dict(zip(names, parts, strict=True))
    return {n: project(n, w) for n, w in zip(names, widths, strict=True)}

  def _convolve(
    self,
    parts: dict[str, jax.Array],
    segment_ids: Int[Array, 'B T'] | None,
    continuation: RecurrentContext,
  ) -> tuple[list[jax.Array], Array]:
    """Return what the convolution makes, by part, and the tails kept."""
    mixer = _mixer(self.config)
    convolution = Convolution(
      mixer, param_dtype=self.param_dtype, name='convolution'
    )
    state = continuation.state
    tail = None if state is None else state.tail
    inputs = [parts[n] for n in ('inner', 'input', 'readout') if n in parts]
    tails = next_tails(
      jnp.concatenate(inputs, axis=-1),
      tail=tail,
      width=mixer.convolution_width,
      kept=continuation.kept,
      count=continuation.count,
    )
    convolved = convolution(inputs, tail=tail, segment_ids=segment_ids)
    return [jax.nn.silu(part) for part in convolved], tails

  def _mamba(
    self,
    convolved: list[jax.Array],
    parts: dict[str, jax.Array],
    *,
    starts: Bool[Array, 'B T'] | None,
    continuation: RecurrentContext,
  ) -> tuple[Float[Array, 'B T I'], Array]:
    mixer = _mixer(self.config)
    rank, n = mixer.step_rank, mixer.state_dim
    inner = constrain(convolved[0], ('B', None, 'I'))
    selection = Projection(
      (rank + 2 * n,), param_dtype=self.param_dtype, name='selection'
    )(inner)
    low, writes, reads = jnp.split(selection, [rank, rank + n], axis=-1)
    raw = Projection(
      (mixer.inner_dim,),
      std=rank**-0.5,
      param_dtype=self.param_dtype,
      name='step',
    )(low)
    y, memory = selective_scan(
      inner,
      step=self._step(raw, continuation.count),
      rates=self._rates(mixer),
      writes=writes,
      reads=reads,
      memory=None if continuation.state is None else continuation.state.memory,
      starts=starts,
      kept=continuation.kept,
    )
    y = y + self._skip()[None, None] * inner.astype(jnp.float32)
    gated = y * jax.nn.silu(parts['gate'].astype(jnp.float32))
    return gated.astype(inner.dtype), memory

  def _mamba2(
    self,
    convolved: list[jax.Array],
    parts: dict[str, jax.Array],
    *,
    starts: Bool[Array, 'B T'] | None,
    continuation: RecurrentContext,
  ) -> tuple[Float[Array, 'B T I'], Array]:
    mixer = _mixer(self.config)
    inner, writes, reads = convolved
    apart = lambda x, *sizes: x.reshape(*x.shape[:2], *sizes)
    heads = apart(inner, mixer.num_heads, mixer.head_dim)
    heads = constrain(heads, ('B', None, 'I', None))
    y, memory = state_space_dual(
      heads,
      step=self._step(parts['step'], continuation.count),
      rates=self._rates(mixer),
      writes=apart(writes, mixer.num_groups, mixer.state_dim),
      reads=apart(reads, mixer.num_groups, mixer.state_dim),
      memory=None if continuation.state is None else continuation.state.memory,
      starts=starts,
      kept=continuation.kept,
      chunk=mixer.chunk,
    )
    y = y + self._skip()[None, None, :, None] * heads.astype(jnp.float32)
    gate = jax.nn.silu(parts['gate'].astype(jnp.float32))
    y = y.reshape(gate.shape)
    match mixer.norm:
      case GatedNorm.NONE:
        gated = y * gate
      case GatedNorm.AFTER_GATE:
        gated = self._norm(y * gate)
      case GatedNorm.BEFORE_GATE:
        gated = self._norm(y) * gate
    return gated.astype(inner.dtype), memory

  def _norm(self, x: Float[Array, 'B T I']) -> Float[Array, 'B T I']:
    """Normalise each group of heads by its root mean square."""
    mixer = _mixer(self.config)
    scale = self.param(
      'norm_scale',
      nn.initializers.ones_init(),
      (mixer.inner_dim,),
      self.param_dtype,
    )
    groups = x.reshape(*x.shape[:-1], mixer.num_groups, -1)
    ones = jnp.ones(groups.shape[-1:], jnp.float32)
    epsilon = self.config.norm_epsilon
    normed = rms_norm(groups, scale=ones, epsilon=epsilon)
    return normed.reshape(x.shape) * scale.astype(jnp.float32)[None, None]

  def _rates(self, mixer: StateSpaceConfig) -> jax.Array:
    """Return decay rates a, below 0, in float32."""
    is_mamba = mixer.kind is StateSpaceKind.MAMBA
    shape: tuple[int, ...] = (mixer.num_heads,)
    if is_mamba:
      shape = (mixer.state_dim, mixer.inner_dim)
    if self.projections is Projections.FUSED:
      return self.param('rates', nn.initializers.ones_init(), shape)
    logs = self.param(
      'log_rates' if is_mamba else 'head_log_rates',
      _initial_log_rates,
      shape,
      self.param_dtype,
    )
    return rates_of(logs)

  def _step(self, raw: jax.Array, count: Int[Array, 'B'] | None) -> jax.Array:
    """Return step sizes, above 0; 0 for padding, which changes no state."""
    bias = self.param(
      'step_bias', _initial_step_bias, raw.shape[-1:], self.param_dtype
    )
    wide = raw.astype(jnp.float32) + bias.astype(jnp.float32)[None, None]
    step = jax.nn.softplus(wide)
    if count is None:
      return step
    is_text = jnp.arange(step.shape[1])[None] < count[:, None]
    return jnp.where(is_text[..., None], step, 0)

  def _skip(self) -> jax.Array:
    mixer = _mixer(self.config)
    width = mixer.num_heads or mixer.inner_dim
    ones = nn.initializers.ones_init()
    skip = self.param('skip', ones, (width,), self.param_dtype)
    return skip.astype(jnp.float32)


class Convolution(nn.Module):
  """Convolve each channel with the tokens before, part by part.

  Joined, parts that a mesh cuts would have to be cut anew.
  """

  mixer: StateSpaceConfig
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    parts: list[jax.Array],
    *,
    tail: Float[Array, 'B before C'] | None,
    segment_ids: Int[Array, 'B T'] | None,
  ) -> list[jax.Array]:
    """Return the convolution of each part, see `causal_convolution`.

    Args:
      parts: whose channels together are those of the kernel.
      tail: the inputs before, of all parts.
      segment_ids: a token sees no token of another id.
    """
    channels = self.mixer.convolution_dim
    kernel = self.param(
      'kernel',
      _initial_taps,
      (self.mixer.convolution_width, channels),
      self.param_dtype,
    )
    bias = None
    if self.mixer.convolution_bias:
      zeros = nn.initializers.zeros_init()
      bias = self.param('bias', zeros, (channels,), self.param_dtype)
    convolved, first = [], 0
    for x in parts:
      own = slice(first, first + x.shape[-1])
      y = causal_convolution(
        x,
        kernel=kernel[:, own],
        bias=None if bias is None else bias[own],
        tail=None if tail is None else tail[..., own],
        segment_ids=segment_ids,
      )
      convolved.append(y)
      first = own.stop
    return convolved


def rates_of(log_rates: jax.Array) -> jax.Array:
  """Return decay rates, below 0, in float32."""
  return -jnp.exp(log_rates.astype(jnp.float32))


def _starts(
  segment_ids: Int[Array, 'B T'] | None,
) -> Bool[Array, 'B T'] | None:
  """Return the tokens that are the first of their text."""
  if segment_ids is None:
    return None
  changes = segment_ids[:, 1:] != segment_ids[:, :-1]
  return jnp.pad(changes, ((0, 0), (1, 0)))


def _mixer(config: ModelConfig) -> StateSpaceConfig:
  assert config.state_space is not None
  return config.state_space


def _initial_taps(
  key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
  bound = 1 / math.sqrt(shape[0])
  taps = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
  return taps.astype(dtype)


def _initial_log_rates(
  key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
  """Return the logarithms of 1, 2, ... along the state, or the heads."""
  del key
  numbers = jnp.arange(1, shape[0] + 1, dtype=jnp.float32)
  column = numbers.reshape(-1, *(1,) * (len(shape) - 1))
  return jnp.broadcast_to(jnp.log(column), shape).astype(dtype)


def _initial_step_bias(
  key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
  """Return what softplus makes steps of, uniform in their logarithm."""
  low, high = math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
  step = jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
  return (step + jnp.log(-jnp.expm1(-step))).astype(dtype)
