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
"""Approximate keys, values and states of blocks that a token skipped.

They are written at once, so no token waits and no window is needed; later
tokens attend to something else than the whole model would have shown them.
"""

import functools
from typing import cast

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.config import ModelConfig
from eejax.decoding.loop.cache import SegmentState, rows_at
from eejax.decoding.loop.plan import DecodePlan, Segment
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.policy import KVStrategy
from eejax.models.block import RecurrentContext, first_norm
from eejax.models.exits import ExitInput
from eejax.models.kernel_layout import for_modules
from eejax.models.layers import apply_norm, normed_heads, scaled
from eejax.models.stacking import projections_of
from eejax.models.state_space import StateSpaceMixer
from eejax.ops.quant import kernel_product
from eejax.ops.recurrent_state import RecurrentState
from eejax.ops.rotary import Rotation, Rotations, rotate
from eejax.types import Array, Bool, Float, Params, PyTree

# What is kept of an exit: the stream there (PROPAGATE), keys and values of the
# last block that ran (COPY), or nothing.
KVSource = tuple[jax.Array, ...]

# New keys and new values for each cache of a segment.
KVRows = tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]


@flax.struct.dataclass
class SkippedRows:
  """Rows that skip segments, and what approximates their keys and values.

  Attributes:
    mask: which rows.
    source: what the rows left behind at their exits.
  """

  mask: Bool[Array, 'B']
  source: KVSource


def empty_source(
  embedded: Float[Array, 'B 1 D'], *, plan: DecodePlan
) -> KVSource:
  """Return a source with any values, before a row has exited."""
  c = plan.config.model
  match plan.kv_strategy:
    case KVStrategy.PROPAGATE:
      return (embedded,)
    case KVStrategy.COPY:
      shape = (embedded.shape[0], c.num_kv_heads, 1, c.head_dim)
      zeros = jnp.zeros(shape, embedded.dtype)
      return (zeros, zeros)
  return ()


def record_source(
  before: KVSource,
  rows: Bool[Array, 'B'],
  last: ExitInput,
  state: SegmentState,
  *,
  plan: DecodePlan,
  segment: Segment,
) -> KVSource:
  """Return `before` with what rows that exit leave behind.

  Args:
    before: of the rows that exited before.
    rows: that exit now.
    last: what the exit's head read.
    state: of the segment before the exit, which has just run.
    plan: what is decoded.
    segment: the segment before the exit.
  """
  match plan.kv_strategy:
    case KVStrategy.PROPAGATE:
      assert last.hidden is not None
      new: KVSource = (last.hidden,)
    case KVStrategy.COPY:
      block = segment.last - segment.first - 1
      new = tuple(
        rows_at(caches[block], state.cache_length - 1, dtype=before[0].dtype)
        for caches in (state.keys, state.values)
      )
    case _:
      return ()
  return tuple(
    jnp.where(rows.reshape(-1, *(1,) * (n.ndim - 1)), n, b)
    for n, b in zip(new, before, strict=True)
  )


def override_skipped(
  computed: KVRows,
  skipped: SkippedRows,
  rotations: Rotations,
  *,
  params: Prepared,
  plan: DecodePlan,
  segment: Segment,
) -> KVRows:
  """Put approximate keys and values in place of those of skipped rows.

  Args:
    computed: keys and values that a segment computed for one token of each row,
      one array a cache.
    skipped: rows that skip the segment.
    rotations: by the tokens' positions, in each way of the model.
    params: the model.
    plan: what is decoded.
    segment: the segment.
  """
  if plan.kv_strategy is KVStrategy.MASK or not computed[0]:
    return computed
  rows = skipped.mask
  approximate = lambda: _approximate(
    skipped.source, params, rotations, plan, segment
  )
  override = lax.cond(jnp.any(rows), approximate, lambda: computed)
  pick = lambda new, old: jnp.where(rows[:, None, None, None], new, old)
  return jax.tree.map(pick, override, computed)


def override_states(
  computed: tuple[RecurrentState, ...],
  skipped: SkippedRows,
  before: tuple[RecurrentState, ...],
  *,
  params: Prepared,
  plan: DecodePlan,
  segment: Segment,
) -> tuple[RecurrentState, ...]:
  """Put approximate states in place of those of skipped rows.

  Under MASK a state stays as it is, as if the token had not been. Under
  PROPAGATE each mixer takes in the stream at the exit.

  Args:
    computed: states after one token of each row, one a recurrent block.
    skipped: rows that skip the segment.
    before: states before that token.
    params: the model.
    plan: what is decoded.
    segment: the segment.
  """
  if not computed:
    return computed
  rows = skipped.mask
  after = lambda state: jax.tree.map(lambda leaf: leaf[:, None], state)

  def approximate() -> tuple[RecurrentState, ...]:
    if plan.kv_strategy is KVStrategy.MASK:
      return tuple(map(after, before))
    blocks, _ = _blocks_of(params, plan, segment)
    take_in = functools.partial(_take_in, config=plan.config.model)
    return tuple(
      after(take_in(block, skipped.source[0], state))
      for block, state in zip(blocks, before, strict=True)
    )

  override = lax.cond(jnp.any(rows), approximate, lambda: computed)

  def pick(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(rows.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

  return jax.tree.map(pick, override, computed)


def _take_in(
  block: Params,
  stream: Float[Array, 'B 1 D'],
  state: RecurrentState,
  *,
  config: ModelConfig,
) -> RecurrentState:
  """Return the state of a block's mixer after one more token."""
  block = for_modules(block)
  x = apply_norm(block[first_norm(config)], stream, config=config)
  if config.scales is not None:
    x = scaled(x, config.scales.mixer_input)
  mixer = StateSpaceMixer(config, projections_of(block))
  _, after = mixer.apply(
    {'params': block['mixer']}, x, continuation=RecurrentContext(state)
  )
  return cast(RecurrentState, after)


def _blocks_of(
  params: Prepared, plan: DecodePlan, segment: Segment
) -> tuple[list[PyTree], list[int]]:
  """Return what keeps something in a segment, and which block each is as."""
  blocks: list[PyTree] = list(params.blocks[segment.first : segment.last])
  numbers = list(range(segment.first, segment.last))
  if segment.has_block_head:
    blocks.append(params.exits[segment.needed_exit.name]['block'])
    numbers.append(plan.config.model.num_layers - 1)
  return blocks, numbers


def _approximate(
  source: KVSource,
  params: Prepared,
  rotations: Rotations,
  plan: DecodePlan,
  segment: Segment,
) -> KVRows:
  """Return keys and values for every cache of a segment."""
  if plan.kv_strategy is KVStrategy.COPY:
    keys, values = source
    return (keys,) * segment.num_caches, (values,) * segment.num_caches
  config = plan.config.model
  blocks, numbers = _blocks_of(params, plan, segment)
  pairs = [
    _project(
      block, source[0], rotations[config.rotation_of(number)], config=config
    )
    for block, number in zip(blocks, numbers, strict=True)
  ]
  return tuple(k for k, _ in pairs), tuple(v for _, v in pairs)


def _project(
  block: Params,
  stream: Float[Array, 'B 1 D'],
  rotation: Rotation | None,
  *,
  config: ModelConfig,
) -> tuple[Float[Array, 'B K 1 H'], Float[Array, 'B K 1 H']]:
  """Return the keys and values a block would make of a stream.

  Reference:
    Schuster et al. (2022), Confident Adaptive Language Modeling, section 2.2,
    state propagation.
  """
  c, x = config, stream
  if c.norm_placement.has_before:
    x = apply_norm(block['attention_norm'], stream, config=c)
  if c.scales is not None:
    x = scaled(x, c.scales.attention_input)
  key, value = _key_and_value(block['attention'], x, config=c)
  if c.qk_norm:
    key = normed_heads(block['attention']['key_norm'], key, config=c)
  if rotation is not None:
    key = rotate(key, positions=rotation, config=c.rotary)
  return jnp.moveaxis(key, 2, 1), jnp.moveaxis(value, 2, 1)


def _key_and_value(
  attention: Params, x: Float[Array, 'B 1 D'], *, config: ModelConfig
) -> tuple[Float[Array, 'B 1 K H'], Float[Array, 'B 1 K H']]:
  """Return both products, of a fused kernel with the queries' thrown away.

  Cutting the kernel instead would copy most of it for every token.
  """
  if 'qkv' in attention:
    all_heads = _product(attention['qkv'], x)
    pair = all_heads[:, :, config.num_heads :]
    key, value = jnp.split(pair, 2, axis=2)
    return key, value
  return _product(attention['key'], x), _product(attention['value'], x)


def _product(
  projection: Params, x: Float[Array, 'B 1 D']
) -> Float[Array, 'B 1 K H']:
  y = kernel_product(x, projection['kernel'])
  return y + projection['bias'][None, None] if 'bias' in projection else y
