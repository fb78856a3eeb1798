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
"""How far what a loop has kept of texts is from what a full pass leaves."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig
from eejax.decoding import window_costs
from eejax.decoding.generate import CHUNK_CAPACITY, padded_prompts
from eejax.decoding.loop.cache import BatchSettings, SegmentState, cache_size
from eejax.decoding.loop.cached_contexts import states_before
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.loop.programs import decode_chunk, first_state, prefill
from eejax.decoding.policy.batching import CPU
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.decoding.results import EmittedTokens
from eejax.ops.sampling import (
  SamplingConfig,
  SamplingMethod,
  end_table,
  row_sampling,
)
from eejax.types import Params, PyTree


def kv_error(
  params: Params,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Sequence[int]],
  policy: Policy,
  steps: int = CHUNK_CAPACITY,
) -> float:
  """Return the largest error of keys, values and states after some steps.

  It is a share of the largest number of its array. Every segment is compared
  over the tokens that it has processed, caught up or not.

  Args:
    params: the model.
    config: its configuration.
    prompts: token ids, a row each.
    policy: with exact keys, values and states.
    steps: of the decode loop.
  """
  plan, thresholds = make_plan(
    config, policy=policy, method=SamplingMethod.GREEDY
  )
  prepared, rows = prepare(params, config=config), len(prompts)
  size = cache_size(plan, longest=max(map(len, prompts)) + steps * plan.window)
  stated = window_costs.stated(CPU, plan=plan, rows=rows)
  settings = BatchSettings(
    end_ids=end_table([()] * rows),
    thresholds=jnp.tile(threshold_values(thresholds), (rows, 1)),
    sampling=row_sampling(SamplingConfig(), seeds=[0] * rows),
    window_costs=window_costs.for_rows(stated, rows),
  )
  padded = jnp.asarray(padded_prompts(prompts))
  lengths = jnp.array([len(p) - 1 for p in prompts])
  state = first_state(
    prepared,
    settings,
    prefill(prepared, padded, lengths, plan=plan, size=size),
    plan=plan,
    size=size,
    prompts=padded,
    tokens=jnp.array([p[-1] for p in prompts], jnp.int32),
    live=jnp.ones(rows, bool),
    remaining=jnp.full((rows,), size),
  )
  state, chunk = decode_chunk(
    prepared,
    settings,
    state,
    jnp.int32(steps),
    plan=plan,
    capacity=CHUNK_CAPACITY,
  )
  texts = np.zeros((rows, size), np.int32)
  for row, emitted in enumerate(EmittedTokens.fetch(chunk)):
    text = [*prompts[row], *emitted.token.tolist()]
    texts[row, : len(text)] = text
  errors = []
  for number, held in enumerate(state.segments):
    wanted = prefill(
      prepared, jnp.asarray(texts), held.cache_length, plan=plan, size=size
    )[number]
    errors += jax.tree.leaves(
      jax.tree.map(_error, _readable(held), _readable(wanted))
    )
  return float(max(errors))


def _readable(state: SegmentState) -> PyTree:
  """Return what a segment's next token may read, zeros for all else."""

  def valid(cache: jax.Array) -> jax.Array:
    is_there = jnp.arange(cache.shape[2])[None] < state.cache_length[:, None]
    return jnp.where(is_there[:, None, :, None], cache, 0)

  caches = jax.tree.map(valid, (state.keys, state.values))
  return caches, states_before(state.states, state.cache_length)


def _error(found: jax.Array, wanted: jax.Array) -> jax.Array:
  scale = jnp.maximum(jnp.max(jnp.abs(wanted)), 1e-30)
  return jnp.max(jnp.abs(found - wanted)) / scale
