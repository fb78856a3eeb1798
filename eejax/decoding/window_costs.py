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
"""What windows of several tokens cost where they are decoded, measured.

A window reads the weights once, as one token does; what it costs beside that
depends on the processor, on the kernels that its products go to, and on how
weights are stored: a window of eight tokens took 1.2 to 2.3 steps of one
token on processors that were tried. So the program that is to decode is run,
step by step, over a text that repeats itself, with windows of each compiled
width, before the first prompt. Calls without a step are timed, too, and taken
off.

Example:
  costs = measure(params, settings, plan=plan, size=size)
  settings = dataclasses.replace(settings, window_costs=for_rows(costs, 4))
"""

import dataclasses
import statistics
import time
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from eejax.decoding.loop.cache import (
  BatchSettings,
  DecodeState,
  SegmentState,
  empty_segments,
)
from eejax.decoding.loop.device_placement import place_state
from eejax.decoding.loop.plan import DecodePlan, Drafting
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.programs import decode_chunk, first_state
from eejax.decoding.policy.batching import PlatformCosts, head_in_blocks
from eejax.decoding.policy.modes import Mode
from eejax.types import Array, Float

_ROUNDS = 3

# What was measured before, by the shapes of the program.
_measured: dict[Hashable, Float[np.ndarray, 'W']] = {}


def follows_costs(plan: DecodePlan) -> bool:
  """Return whether a plan drafts as windows cost."""
  is_adaptive = plan.drafting is Drafting.ADAPTIVE
  return plan.mode is Mode.SPECULATIVE and is_adaptive and plan.window > 1


def stated(
  platform: PlatformCosts, *, plan: DecodePlan, rows: int
) -> Float[np.ndarray, 'W'] | None:
  """Return what windows are said to cost, where a plan asks for it."""
  if plan.mode is not Mode.SPECULATIVE:
    return None
  return platform.of_windows(rows=rows, longest=plan.window)


def for_rows(
  costs: Float[np.ndarray, 'W'] | None, rows: int
) -> Float[Array, 'B W'] | None:
  """Return costs as `BatchSettings` holds them."""
  if costs is None:
    return None
  return jnp.tile(jnp.asarray(costs, jnp.float32)[None], (rows, 1))


def measure(
  params: Prepared,
  settings: BatchSettings,
  *,
  plan: DecodePlan,
  size: int,
  capacity: int,
) -> Float[np.ndarray, 'W']:
  """Return what windows of 1 to `plan.window` tokens cost, in plain steps.

  It is measured once for a program, which is compiled if it was not yet. No
  window costs less than a shorter one.

  Args:
    params: the model.
    settings: of a batch, with costs of any value.
    plan: what is decoded.
    size: slots of a cache.
    capacity: as `decode_chunk` is given it.
  """
  leaves, structure = jax.tree.flatten((params, settings))
  shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
  key = (structure, shapes, plan, size, capacity)
  if key not in _measured:
    seconds = _times(params, settings, plan=plan, size=size, capacity=capacity)
    costs = _relative(seconds, plan=plan)
    if jax.process_count() > 1:
      # All processes run one program, so they have to draft alike.
      costs = np.asarray(multihost_utils.broadcast_one_to_all(costs))
    _measured[key] = costs
  return _measured[key]


def _relative(
  seconds: dict[int, float], *, plan: DecodePlan
) -> Float[np.ndarray, 'W']:
  """Return costs by length of a window, from seconds by width."""
  narrowest = seconds[plan.widths[0]]
  step = max(narrowest - seconds[0], 1e-9)
  excess = np.array([(seconds[w] - narrowest) / step for w in plan.widths])
  if plan.prompt_lookup is None:
    # The first segment ran over one token, whatever waited behind it.
    head = head_in_blocks(plan.config)
    blocks = [s.num_caches for s in plan.segments]
    excess *= (sum(blocks) + head) / (sum(blocks[1:]) + head)
  rising = np.maximum.accumulate(np.maximum(1 + excess, 1.0))
  lengths = np.arange(1, plan.window + 1)
  return rising[np.searchsorted(plan.widths, lengths)].astype(np.float32)


def _times(
  params: Prepared,
  settings: BatchSettings,
  *,
  plan: DecodePlan,
  size: int,
  capacity: int,
) -> dict[int, float]:
  """Return the seconds of a call with one window of each width, 0 for none."""
  rows = settings.thresholds.shape[0]
  segments = empty_segments(
    plan,
    batch_size=rows,
    size=size,
    dtype=params.dtype,
    kv_quantization=params.kv_quantization,
  )
  seconds: dict[int, list[float]] = {w: [] for w in (0, *plan.widths)}
  for _ in range(1 + _ROUNDS):
    for width, times in seconds.items():
      state = _poised(
        params, settings, segments, plan=plan, size=size, width=width
      )
      jax.block_until_ready(state)
      steps = np.int32(min(width, 1))
      clock = time.perf_counter()
      state, _ = jax.block_until_ready(
        decode_chunk(
          params, settings, state, steps, plan=plan, capacity=capacity
        )
      )
      times.append(time.perf_counter() - clock)
      segments = state.segments  # The loop took over those before.
  # The first round compiles, and warms up.
  return {w: statistics.median(times[1:]) for w, times in seconds.items()}


def _poised(
  params: Prepared,
  settings: BatchSettings,
  segments: tuple[SegmentState, ...],
  *,
  plan: DecodePlan,
  size: int,
  width: int,
) -> DecodeState:
  """Return a state whose next step verifies a window as wide as is said.

  Its text is one token over and over, so as many drafts are found as may be.
  Where none are looked up, they wait behind the first segment.
  """
  rows = settings.thresholds.shape[0]
  for_rows = lambda value: jnp.full((rows,), value, jnp.int32)
  drafts = max(width - 1, 0)
  waiting = drafts if plan.prompt_lookup is None else 0
  length = plan.window + (plan.prompt_lookup or 0)
  lengths = [length + waiting] + [length] * plan.num_exits
  state = first_state(
    params,
    settings,
    tuple(
      dataclasses.replace(s, cache_length=for_rows(n))
      for s, n in zip(segments, lengths, strict=True)
    ),
    plan=plan,
    size=size,
    prompts=jnp.zeros((rows, 0), jnp.int32),
    tokens=for_rows(0),
    live=jnp.ones((rows,), bool),
    remaining=for_rows(plan.window),
  )
  assert state.draft is not None
  choice = dataclasses.replace(
    state.draft.choice,
    limit=for_rows(0),
    lookup_limits=jnp.full_like(state.draft.choice.lookup_limits, drafts),
  )
  state = dataclasses.replace(
    state, draft=dataclasses.replace(state.draft, choice=choice)
  )
  return place_state(state, mesh=params.mesh)
