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
"""The program that runs prompts through all stages.

It is one `shard_map` over the stages; what is left to the compiler is tensor
parallelism inside a stage.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.axes import STAGE
from eejax.decoding.pipelined.exchange import (
  Packet,
  if_any,
  no_packet,
  over_stages,
  own,
  received,
  sent,
  shared,
)
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.parameters import PipelinedParams, model_partition
from eejax.decoding.pipelined.stage import Caches, embed, run_stage, write_rows
from eejax.decoding.policy.criteria import Memory
from eejax.types import Array, DTypeLike, Int

_SPLIT, _WHOLE = PartitionSpec(STAGE), PartitionSpec()


def empty_caches(
  layout: PipelineLayout,
  *,
  mesh: Mesh,
  batch_size: int,
  size: int,
  dtype: DTypeLike,
) -> Caches:
  """Return caches of `size` slots, each stage's on its own devices."""
  c = layout.config
  shape = (
    layout.num_stages,
    batch_size,
    c.num_kv_heads,
    size,
    c.head_dim,
  )
  heads = model_partition(mesh, size=c.num_kv_heads)
  sharding = NamedSharding(mesh, PartitionSpec(STAGE, None, heads))
  make = lambda: tuple(
    jnp.zeros(shape, dtype, device=sharding) for _ in range(layout.num_caches)
  )
  return Caches(make(), make())


@functools.partial(
  jax.jit,
  static_argnames=('layout', 'mesh', 'width'),
  donate_argnames='caches',
)
def prefill(
  params: PipelinedParams,
  caches: Caches,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  layout: PipelineLayout,
  mesh: Mesh,
  width: int,
) -> tuple[Caches, Int[Array, '']]:
  """Run prompts through all stages, a chunk of all rows after the other.

  Args:
    params: the model.
    caches: are consumed.
    tokens: prompts without their last token, padded on the right to a
      multiple of `width`; what is padding for all rows takes no time.
    lengths: how many tokens of each row are text.
    layout: the static shape of the program.
    mesh: where it runs.
    width: tokens of a chunk.

  Returns:
    The caches, filled, and how many steps it took.
  """
  run = functools.partial(_prefill_on_stage, layout=layout, width=width)
  specs = (_SPLIT, _SPLIT, _WHOLE, _WHOLE)
  on_stages = over_stages(run, mesh, in_specs=specs, out_specs=(_SPLIT, _WHOLE))
  return on_stages(params, caches, tokens, lengths)


def _prefill_on_stage(
  params: PipelinedParams,
  caches: Caches,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  layout: PipelineLayout,
  width: int,
) -> tuple[Caches, Int[Array, '']]:
  params = own(params)
  batch_size = tokens.shape[0]
  answered = jnp.ones((batch_size,), bool)
  run = functools.partial(run_stage, params, layout=layout)

  def advance(
    step: Int[Array, ''], carry: tuple[Caches, Packet]
  ) -> tuple[Caches, Packet]:
    caches, inbox = carry
    start = step * width
    # Past the last chunk nothing is left of any row.
    count = jnp.clip(lengths - start, 0, width)
    chunk = lax.dynamic_slice_in_dim(tokens, start, width, axis=1)
    base = jnp.full((batch_size,), start)
    positions = base[:, None] + jnp.arange(width)[None]
    hidden = embed(params, chunk, positions, config=layout.config)
    packet = Packet(hidden, base, count, answered, Memory())
    packet = received(inbox, packet)
    out = if_any(packet.count > 0, run, packet, caches)
    caches = write_rows(caches, out.rows, packet)
    packet = dataclasses.replace(packet, hidden=out.hidden)
    return caches, sent(packet, num_stages=layout.num_stages)

  num_chunks = -(-jnp.max(lengths) // width)
  num_steps = num_chunks + layout.num_stages - 1
  inbox = no_packet(
    batch_size=batch_size,
    width=width,
    embed_dim=layout.config.embed_dim,
    dtype=params.table.dtype,
    memory=Memory(),
  )
  caches, _ = lax.fori_loop(0, num_steps, advance, (own(caches), inbox))
  return shared(caches), num_steps
