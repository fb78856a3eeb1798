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
"""Reading one batch at every read-out: the compiled part of a capture.

One program a shape of batch. It runs the model once, keeps the stream at
each depth for the chosen positions, and passes the output matrices over them
a chunk at a time.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from eejax.capture.captured import Readout, ReadoutKind, compared_with
from eejax.capture.readouts import (
  ChunkReadings,
  ChunkStates,
  ReadoutFields,
  cosine,
  read_chunk,
  without_mean,
)
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  GateKind,
)
from eejax.decoding.policy.criteria import Evidence, GateScore
from eejax.models import decoder
from eejax.models.exits import (
  apply_exit_head,
  gate_logit,
  output_kernels,
  output_matrix_name,
)
from eejax.models.intermediates import CollectedDepths
from eejax.types import Array, Float, Int, Num, Params

_COMPARED = ('js_previous', 'hidden_cosine_previous')


@dataclasses.dataclass(frozen=True)
class BatchReading:
  """Read-outs of a batch, and how they are computed.

  Attributes:
    depths: natural read-outs, shallowest first, the last one at depth L.
    reads_attention: whether the stream after each attention is read, too.
    exits: trained exits to be read, shallowest first.
    reading: what is computed.
    dtype: compute dtype.
    chunk_size: positions whose logits stand at once.
  """

  depths: tuple[int, ...]
  reads_attention: bool
  exits: tuple[ExitConfig, ...]
  reading: ReadoutFields
  dtype: str
  chunk_size: int

  @property
  def readouts(self) -> tuple[Readout, ...]:
    """Return the read-outs in the order of the arrays."""
    computed = self._computed()
    return tuple(computed[i] for i in self.places)

  @property
  def places(self) -> tuple[int, ...]:
    """Return which of the read-outs as computed each one in order is."""
    computed = self._computed()
    last = len(computed) - 1

    def order(i: int) -> tuple[bool, float, bool]:
      is_exit = computed[i].kind is ReadoutKind.EXIT
      return i == last, computed[i].depth, is_exit

    return tuple(sorted(range(len(computed)), key=order))

  @property
  def before(self) -> tuple[int | None, ...]:
    """Return which read-out each one is compared with, None for none."""
    return compared_with(self.readouts)

  def _computed(self) -> list[Readout]:
    natural = [
      Readout(f'depth_{d}', float(d), ReadoutKind.NATURAL) for d in self.depths
    ]
    attention = []
    if self.reads_attention:
      attention = [
        Readout(f'attention_{d + 1}', d + 0.5, ReadoutKind.ATTENTION)
        for d in self.depths[:-1]
      ]
    exits = [
      Readout(e.name, float(e.depth), ReadoutKind.EXIT) for e in self.exits
    ]
    return [*natural[:-1], *attention, *exits, natural[-1]]


@functools.partial(jax.jit, static_argnames=('config', 'how'))
def read_batch(
  params: Params,
  batch: Mapping[str, jax.Array],
  chosen: Int[Array, 'C'] | None,
  *,
  config: EarlyExitConfig,
  how: BatchReading,
) -> dict[str, Array]:
  """Return the read-out arrays of a batch, and `finite`, all [R, C, ...].

  Args:
    params: the whole tree, blocks stacked.
    batch: arrays of an `eejax.data.batch.Batch`, by name.
    chosen: positions to be read, by their number in the flattened batch;
      None reads all.
    config: the model with its exits.
    how: where and how it is read.
  """
  states, gates = _states(params, batch, chosen, config, how)
  kernels = output_kernels(params, config=config.with_exits(how.exits))
  dtype = jnp.dtype(how.dtype)
  cap = config.model.logit_softcap
  # A cap reads logits as they are, not up to what they have in common.
  matrices = {
    name: without_mean(k, dtype=dtype) if cap is None else k.astype(dtype)
    for name, k in kernels.items()
  }
  name_of = functools.partial(output_matrix_name, config=config.model)

  def read(chunk: ChunkStates) -> ChunkReadings:
    return read_chunk(
      chunk,
      kernel=matrices[name_of(None)],
      exit_kernels=[matrices[name_of(e)] for e in how.exits],
      reading=how.reading,
      softcap=cap,
    )

  positions = len(states.targets)
  chunks = _in_chunks(states, how.chunk_size)
  found = _joined(jax.lax.map(read, chunks), how)
  found = {name: x[:, :positions] for name, x in found.items()}
  found |= _hidden_cosines(states, how)
  if how.reading.wants('gate_score'):
    found['gate_score'] = _gate_scores(gates, how, positions)
  nan = np.array([before is None for before in how.before])[:, None]
  for name in _COMPARED:
    if name in found:
      found[name] = jnp.where(nan, jnp.nan, found[name])
  return found


def _states(
  params, batch, chosen, config: EarlyExitConfig, how: BatchReading
) -> tuple[ChunkStates, dict[str, Array]]:
  """Return what output matrices read at the positions, and gates by exit."""
  backbone, model = params['backbone'], config.model
  context = {k: batch[k] for k in ('positions', 'segment_ids')}
  inner = how.depths[:-1]
  blocks = [d + 1 for d in inner] if how.reads_attention else []
  out = decoder.run_blocks(
    backbone,
    decoder.embed(
      backbone,
      batch['tokens'],
      positions=batch['positions'],
      config=model,
      dtype=jnp.dtype(how.dtype),
    ),
    config=config.with_exits(how.exits),
    collect=CollectedDepths(streams=inner, residuals=tuple(blocks)),
    **context,
  )

  def take(x: Num[Array, 'B T *D']) -> Num[Array, 'C *D']:
    flat = x.reshape(-1, *x.shape[2:])
    return flat if chosen is None else flat[chosen]

  normed = functools.partial(decoder.final_hidden, backbone, config=model)
  stack = lambda streams: normed(jnp.stack([take(s) for s in streams]))
  nothing = jnp.zeros((0, *take(batch['targets']).shape, model.embed_dim))
  exits, gates = [], {}
  for exit in how.exits:
    exit_input = out.exit_inputs[exit.name]
    exit_params = params['exits'].get(exit.name, {})
    ready = apply_exit_head(
      exit_params, exit_input, exit=exit, config=model, **context
    )
    exits.append(take(ready.hidden))
    if exit.gate is not GateKind.NONE:
      gates[exit.name] = gate_logit(
        exit_params,
        take(cast(Array, exit_input.hidden)),
        exit=exit,
        config=model,
      )
  states = ChunkStates(
    natural=stack([out.streams[d] for d in inner]) if inner else nothing,
    attention=stack([out.residuals[d] for d in blocks]) if blocks else None,
    exits=tuple(exits),
    final=normed(take(out.hidden)),
    targets=take(batch['targets']),
  )
  return states, gates


def _in_chunks(states: ChunkStates, chunk_size: int) -> ChunkStates:
  """Return the states with chunks of positions on a leading axis."""
  positions = len(states.targets)
  count = -(-positions // chunk_size)
  width = -(-positions // count)  # even chunks need the least padding

  def split(x, axis):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, count * width - positions)
    shape = (*x.shape[:axis], count, width, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, padding).reshape(shape), axis, 0)

  attention = states.attention
  return ChunkStates(
    natural=split(states.natural, 1),
    attention=None if attention is None else split(attention, 1),
    exits=tuple(split(x, 0) for x in states.exits),
    final=split(states.final, 0),
    targets=split(states.targets, 0),
  )


def _joined(readings: ChunkReadings, how: BatchReading) -> dict[str, Array]:
  """Return [R, positions, ...] arrays in the order of the read-outs."""
  several = [readings.natural]
  if readings.attention is not None:
    several.append(readings.attention)
  # [chunks, readouts, width, ...] and [chunks, width, ...]
  parts = [jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), s) for s in several]
  parts += [
    jax.tree.map(lambda x: x[None], s)
    for s in (*readings.exits, readings.final)
  ]

  def join(*arrays: Array) -> Array:
    both = jnp.concatenate(arrays)
    return both.reshape(len(both), -1, *both.shape[3:])[np.array(how.places)]

  said = jax.tree.map(join, *parts)
  found = {
    name: said.scalars[..., i] for i, name in enumerate(how.reading.scalars)
  }
  found['finite'] = found['finite'] > 0
  candidates = {
    'top_tokens': said.top_tokens,
    'top_log_probs': said.top_log_probs,
  }
  return found | {k: v for k, v in candidates.items() if v is not None}


def _hidden_cosines(
  states: ChunkStates, how: BatchReading
) -> dict[str, Float[Array, 'R C']]:
  """Return how what the output matrices read turns, read-out by read-out."""
  streams = list(states.natural)
  if states.attention is not None:
    streams += list(states.attention)
  streams += [*states.exits, states.final]
  hidden = [streams[i].astype(jnp.float32) for i in how.places]
  found = {}
  if how.reading.wants('hidden_cosine'):
    found['hidden_cosine'] = [cosine(h, hidden[-1]) for h in hidden]
  if how.reading.wants('hidden_cosine_previous'):
    found['hidden_cosine_previous'] = [
      cosine(h, hidden[0 if before is None else before])
      for h, before in zip(hidden, how.before, strict=True)
    ]
  return {name: jnp.stack(values) for name, values in found.items()}


def _gate_scores(
  gates: Mapping[str, Array], how: BatchReading, positions: int
) -> Float[Array, 'R C']:
  none = jnp.full((positions,), jnp.nan, jnp.float32)
  return jnp.stack(
    [
      GateScore().score(Evidence(gate_logit=gates[r.name]))
      if r.name in gates
      else none
      for r in how.readouts
    ]
  )
