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
"""Compile decoding for a device ahead of time, with no array of its size.

Example:
  device = topologies.devices_of('v5e-8')[0]
  program = compile_ahead(config, policy=Policy(), device=device)
  program.memory_analysis().temp_size_in_bytes
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from eejax.config import EarlyExitConfig
from eejax.decoding.loop.cache import (
  BatchSettings,
  DecodeState,
  empty_segments,
)
from eejax.decoding.loop.plan import DecodePlan, make_plan
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.loop.programs import decode_chunk, first_state
from eejax.decoding.policy.policy import Mode, Policy
from eejax.models import decoder
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig, row_sampling
from eejax.parallel.topologies import compiling_for
from eejax.types import DTypeLike, PyTree


def compile_ahead(
  config: EarlyExitConfig,
  *,
  policy: Policy,
  device: jax.Device,
  rows: int = 1,
  slots: int = 2048,
  dtype: DTypeLike = jnp.bfloat16,
  quantization: Quantization = Quantization.NONE,
  capacity: int = 64,
) -> Any:
  """Return the compiled loop over tokens, from shapes alone.

  Args:
    config: the model with its exits.
    policy: what is decoded; decides the program.
    device: what it is compiled for; a described one will do, see
      `eejax.parallel.topologies`.
    rows: texts decoded together.
    slots: tokens of a cache.
    dtype: of parameters and caches.
    quantization: of the kernels of the blocks.
    capacity: the most steps of a call.

  Raises:
    ArgumentError: the policy cannot be used with the model.
  """
  plan, _ = make_plan(
    config, policy=policy, method=SamplingConfig().method, device=device
  )
  params = jax.eval_shape(
    lambda key: prepare(
      decoder.init(config, key),
      config=config,
      dtype=dtype,
      quantization=quantization,
    ),
    jax.random.key(0),
  )
  settings, state = jax.eval_shape(
    lambda params: _first(params, plan, rows, slots), params
  )
  where = SingleDeviceSharding(device)
  place: Any = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
  )
  steps = jax.ShapeDtypeStruct((), jnp.int32)
  lowered = decode_chunk.lower(
    *map(place, (params, settings, state, steps)), plan=plan, capacity=capacity
  )
  with compiling_for(device):
    return lowered.compile()


def abstract_weights(compiled: Any) -> PyTree:
  """Return the shapes of the parameters that a compiled loop reads."""
  return compiled.args_info[0][0]


def _first(
  params: Prepared, plan: DecodePlan, rows: int, slots: int
) -> tuple[BatchSettings, DecodeState]:
  """Return settings and state of rows that are to begin."""
  costs = None
  if plan.mode is Mode.SPECULATIVE:
    costs = jnp.ones((rows, plan.window), jnp.float32)
  settings = BatchSettings(
    end_ids=jnp.zeros((rows, 1), jnp.int32),
    thresholds=jnp.zeros((rows, plan.num_exits), jnp.float32),
    sampling=row_sampling(SamplingConfig(), seeds=[0] * rows),
    window_costs=costs,
  )
  segments = empty_segments(
    plan,
    batch_size=rows,
    size=slots,
    dtype=params.dtype,
    kv_quantization=params.kv_quantization,
  )
  state = first_state(
    params,
    settings,
    segments,
    plan=plan,
    prompts=jnp.zeros((rows, 0), jnp.int32),
    tokens=jnp.zeros((rows,), jnp.int32),
    live=jnp.ones((rows,), bool),
    remaining=jnp.ones((rows,), jnp.int32),
    size=slots,
  )
  return settings, state
