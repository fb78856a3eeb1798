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
"""The heads of stages: scores, exit decisions and tokens."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from eejax.axes import STAGE
from eejax.decoding.pipelined.exchange import Packet, of_stage
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.parameters import PipelinedParams
from eejax.decoding.pipelined.rows import Emitted, PipelineRequest
from eejax.decoding.pipelined.stage import PipelineStageOutput
from eejax.decoding.policy.criteria import (
  Evidence,
  Memory,
  get_criterion,
  recall,
  remember,
)
from eejax.models.exits import gate_logit
from eejax.ops.sampling import (
  SamplingMethod,
  choose,
  greedy,
  log_probability,
  top_log_probabilities,
)
from eejax.ops.softcap import soft_cap
from eejax.types import Array, Bool, Float


def decide_exit(
  params: PipelinedParams,
  request: PipelineRequest,
  packet: Packet,
  out: PipelineStageOutput,
  asks: Bool[Array, 'B'],
  *,
  layout: PipelineLayout,
  method: SamplingMethod,
  top_logprobs: int,
) -> tuple[Bool[Array, 'B'], Emitted, Memory]:
  """Return which rows emit at this stage, and the token its head chooses.

  A row emits once after each token: at the first exit whose score reaches
  its threshold, or at the final head. What the exit saw of rows that asked
  is remembered for the exits that follow.
  """
  logits = _logits(params, out.ready[:, 0], layout)
  evidence = _evidence(params, packet, out.hidden[:, 0], logits, layout)
  score = _score(evidence, layout=layout)
  threshold = request.thresholds[lax.axis_index(STAGE)]
  is_final = of_stage([s.is_final for s in layout.stages])
  token = choose(
    logits,
    method=method,
    sampling=request.sampling,
    positions=packet.base + 1,
    bias=request.bias,
  )
  top = None
  if top_logprobs:
    top = top_log_probabilities(logits, count=top_logprobs)
  emitted = Emitted(
    token=token,
    stage=jnp.full_like(token, lax.axis_index(STAGE)),
    score=score,
    log_prob=log_probability(logits, token),
    top_ids=None if top is None else top.ids,
    top_log_probs=None if top is None else top.log_probs,
  )
  memory = remember(packet.memory, evidence, positions=packet.base, rows=asks)
  return asks & (is_final | (score >= threshold)), emitted, memory


def _logits(
  params: PipelinedParams, ready: Float[Array, 'B D'], layout: PipelineLayout
) -> Float[Array, 'B V']:
  """Return the logits of this stage's head in float32."""
  logits = jnp.einsum(
    'BD,DV->BV',
    ready,
    params.output_matrix,
    preferred_element_type=jnp.float32,
  )
  logits = soft_cap(logits, layout.config.logit_softcap)
  # Whole on every device: what chooses tokens gathers from the vocabulary,
  # which aborts where that is split (jaxlib 0.10.2, CPU).
  return lax.with_sharding_constraint(logits, jax.sharding.PartitionSpec())


def _evidence(
  params: PipelinedParams,
  packet: Packet,
  hidden: Float[Array, 'B D'],
  logits: Float[Array, 'B V'],
  layout: PipelineLayout,
) -> Evidence:
  """Return what this stage's exit and those before it see of each row."""
  evidence = Evidence(
    gate_logit=_gate_logit(params, hidden, layout=layout)
    if layout.gate_kinds
    else None,
    logits=logits,
    stream=hidden,
    top_token=greedy(logits),
    positions=packet.base,
    # A token enters with a blank memory, so the first exit, like any other,
    # may look there for one before it.
    exit_index=1,
    num_layers=layout.config.num_layers,
  )
  return recall(evidence, packet.memory, positions=packet.base)


def _score(evidence: Evidence, *, layout: PipelineLayout) -> Float[Array, 'B']:
  """Return the score of this stage's exit; where there is none, NaN.

  The criterion is asked for every exit, for it may treat them differently;
  where it does not, the compiler sees that it is asked the same.
  """
  assert evidence.positions is not None
  result = jnp.full(evidence.positions.shape, jnp.nan, jnp.float32)
  if not layout.criterion:
    return result
  criterion = get_criterion(layout.criterion)
  for index, stage in enumerate(s for s in layout.stages if s.exit is not None):
    shown = dataclasses.replace(evidence, exit_index=index, depth=stage.last)
    is_own = of_stage([s is stage for s in layout.stages])
    result = jnp.where(is_own, criterion.score(shown), result)
  return result


def _gate_logit(
  params: PipelinedParams,
  hidden: Float[Array, 'B D'],
  *,
  layout: PipelineLayout,
) -> Float[Array, 'B']:
  result = jnp.zeros(hidden.shape[:1], jnp.float32)
  for kind in layout.gate_kinds:
    exits = [s.exit for s in layout.stages]
    has_gate = [e is not None and e.gate is kind for e in exits]
    exit = next(e for e in exits if e is not None and e.gate is kind)
    gate = {'gate': params.gates[kind.value]}
    logit = gate_logit(gate, hidden, exit=exit, config=layout.config)
    result = jnp.where(of_stage(has_gate), logit, result)
  return result
