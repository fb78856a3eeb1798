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
"""Objectives of the three regimes, as sums over tokens.

Everything is a sum rather than a mean, so that microbatches of different
numbers of tokens add up to exactly the batch's loss: `objective` returns the
sum whose gradient, over the batch's token count, is the gradient of

  L_final + sum_i w_i(t) L_i                     (`joint`)
  sum_i w_i(t) L_i                               (`tune`)

with L_i = sum_t m_t c_it CE_it / sum_t m_t, m the loss mask and c the token
weights (EE-LLM, arXiv 2312.04916, eq. 2 and the dynamic weights of its code).
A backbone of experts that is trained adds its load-balancing loss, see
`eejax.ops.routing.balance_loss`, of each microbatch by itself.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eejax.config import EarlyExitConfig, ExitConfig, GateKind, ModelConfig
from eejax.models import decoder
from eejax.models.decoder import DecoderOutput, LayerDropout
from eejax.models.exits import (
  apply_exit_head,
  gate_logit,
  output_kernel,
  output_matrix_name,
)
from eejax.models.intermediates import Intermediates, IntermediatesSpec
from eejax.ops.cross_entropy import (
  OutputHead,
  TokenStatistics,
  cross_entropy,
  head_statistics,
)
from eejax.ops.routing import balance_loss
from eejax.training import freeze, weight_schedules
from eejax.training.freeze import Regime
from eejax.training.loss_sums import HeadSums, LossSums, TokenBatch, no_sums
from eejax.training.objective import Forward, Objective, TokenWeights
from eejax.types import Array, Bool, Float, Int, Params


def objective_sum(
  trainable: Params,
  frozen: Params,
  batch: TokenBatch,
  *,
  config: EarlyExitConfig,
  objective: Objective,
  forward: Forward,
  step: Int[Array, ''] | int,
  layer_dropout: LayerDropout | None = None,
) -> tuple[Float[Array, ''], LossSums]:
  """Return the objective times the token count, and what it is made of.

  Args:
    trainable: the part of the tree that is differentiated.
    frozen: the rest. A backbone that need not run to its end is truncated
      already (`freeze.cut_to_depth`).
    batch: one microbatch.
    config: the model with its exits.
    objective: what is minimised.
    forward: how the backbone is run.
    step: counts from 0; sets weights and curriculum.
    layer_dropout: random skipping of blocks.
  """
  params = freeze.merge(trainable, frozen)
  run = _Pass(
    params=params,
    out=_run(params, batch, config, forward, layer_dropout, objective),
    batch=batch,
    config=config,
    objective=objective,
    dtype=jnp.dtype(forward.dtype),
  )
  final = _final_statistics(run)
  total = jnp.zeros((), jnp.float32)
  final_sums = no_sums(())
  if final is not None:
    final_sums = head_sums(final, batch, final.top1)
    if objective.regime is not Regime.TUNE:
      total += final_sums.loss
  exit_sums = no_sums((len(config.exits),))
  if objective.regime is not Regime.STANDARD and config.exits:
    weighted, exit_sums = _exit_losses(run, final, step)
    total += weighted
  balance = None
  if run.out.routing is not None:
    balance = balance_loss(run.out.routing) * jnp.sum(batch.weights)
    assert config.model.experts is not None
    total += config.model.experts.balance_weight * balance
    balance = jax.lax.stop_gradient(balance)
  return total, LossSums(
    objective=jax.lax.stop_gradient(total),
    tokens=jnp.sum(batch.weights),
    final=final_sums,
    exits=exit_sums,
    balance=balance,
  )


def evaluation_sums(
  params: Params,
  batch: TokenBatch,
  *,
  config: EarlyExitConfig,
  forward: Forward,
  full_depth: bool,
  chunk_size: int = 1024,
) -> LossSums:
  """Return the sums of every head, whatever the regime trains.

  Args:
    params: the whole tree; the backbone may end at the deepest exit.
    batch: one batch.
    config: the model with its exits.
    forward: how the backbone is run.
    full_depth: whether the backbone is whole, so that the final head and
      agreement with it can be measured.
    chunk_size: tokens whose logits stand at once.
  """
  every = Objective(
    regime=Regime.JOINT if full_depth else Regime.TUNE,
    gate_weight=1.0 if full_depth else 0.0,
    chunk_size=chunk_size,
  )
  _, sums = objective_sum(
    params, {}, batch, config=config, objective=every, forward=forward, step=0
  )
  return sums


@dataclasses.dataclass(frozen=True)
class _Pass:
  """A forward pass whose heads are to be computed.

  Attributes:
    params: the whole tree.
    out: what the backbone has made of the batch.
    batch: one microbatch.
    config: the model with its exits.
    objective: what is minimised.
    dtype: compute dtype.
  """

  params: Params
  out: DecoderOutput
  batch: TokenBatch
  config: EarlyExitConfig
  objective: Objective
  dtype: Any


def _run(
  params, batch, config, forward, layer_dropout, objective
) -> DecoderOutput:
  backbone = params['backbone']
  if batch.streams is not None or batch.residuals is not None:
    return _recall(backbone, batch, config, forward)
  return decoder.run_blocks(
    backbone,
    _embed(backbone, batch, config, forward),
    config=config,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
    rematerialization=forward.rematerialization,
    layer_dropout=layer_dropout,
    implementation=forward.implementation,
    counted=_counted(batch, config, objective),
  )


def _counted(batch, config, objective) -> Bool[Array, 'B T'] | None:
  """Return which tokens experts are balanced by, None where they are not."""
  experts = config.model.experts
  if experts is None or experts.balance_weight == 0:
    return None
  if objective.regime is Regime.TUNE:  # they are frozen
    return None
  return batch.segment_ids > 0


def _embed(backbone, batch, config, forward) -> Float[Array, 'B T D']:
  return decoder.embed(
    backbone,
    batch.tokens,
    positions=batch.positions,
    config=config.model,
    dtype=jnp.dtype(forward.dtype),
  )


def _recall(backbone, batch, config, forward) -> DecoderOutput:
  """Return what the backbone once computed for a batch."""
  x = _embed(backbone, batch, config, forward)
  slots_first = lambda a: None if a is None else jnp.moveaxis(a, 1, 0)
  intermediates = Intermediates(
    slots_first(batch.streams), slots_first(batch.residuals)
  )
  spec = IntermediatesSpec(config, config.model.num_layers)
  # The last stream is the final head's, where it is asked.
  hidden = x if intermediates.streams is None else intermediates.streams[-1]
  return DecoderOutput(hidden, spec.collect(backbone, x, intermediates))


def _final_head(run: _Pass) -> OutputHead:
  model = run.config.model
  hidden = decoder.final_hidden(
    run.params['backbone'], run.out.hidden, config=model
  )
  kernel = output_kernel(run.params, exit=None, config=model)
  return OutputHead(hidden, kernel, softcap=model.logit_softcap)


def _final_statistics(run: _Pass) -> TokenStatistics | None:
  """Return what the final head says, or None where nobody asks it."""
  if not run.objective.full_depth(run.config):
    return None
  head = _final_head(run)
  if run.objective.regime is Regime.TUNE:
    head = jax.lax.stop_gradient(head)
  return cross_entropy(
    head.hidden,
    kernel=head.kernel,
    targets=run.batch.targets,
    chunk_size=run.objective.chunk_size,
    dtype=run.dtype,
    softcap=head.softcap,
  )


def _exit_losses(
  run: _Pass, final: TokenStatistics | None, step: Int[Array, ''] | int
) -> tuple[Float[Array, ''], HeadSums]:
  """Return the weighted losses of the exits whose turn it is."""
  count = len(run.config.exits)
  schedule = run.objective.exit_weights
  weights = weight_schedules.weights_at(
    step, schedule=schedule, num_exits=count
  )
  groups = weight_schedules.groups(schedule.curriculum, count)
  if len(groups) == 1:
    return _group_losses(run, final, weights, groups[0])
  index = weight_schedules.group_at(step, schedule=schedule, num_exits=count)
  return jax.lax.switch(
    index, [lambda g=g: _group_losses(run, final, weights, g) for g in groups]
  )


def _group_losses(
  run: _Pass,
  final: TokenStatistics | None,
  weights: Float[Array, 'E'],
  group: tuple[int, ...],
) -> tuple[Float[Array, ''], HeadSums]:
  """Return the weighted loss and the sums of the exits in `group`."""
  objective, mask = run.objective, run.batch.weights
  exits = [run.config.exits[i] for i in group]
  distilled = objective.distillation_weight > 0
  statistics = head_statistics(
    _exit_heads(run, exits),
    targets=run.batch.targets,
    teacher=_final_head(run) if distilled else None,
    temperature=objective.temperature,
    chunk_size=objective.chunk_size,
    dtype=run.dtype,
  )
  total = jnp.zeros((), jnp.float32)
  sums = no_sums((len(run.config.exits),))
  final_top1 = None if final is None else final.top1
  for i, e, stats in zip(group, exits, statistics.heads, strict=True):
    total += weights[i] * jnp.sum(mask * token_losses(stats, objective))
    one = head_sums(stats, run.batch, final_top1)
    if e.gate is not GateKind.NONE and final is not None:
      one = with_gate(
        one,
        run.params['exits'][e.name],
        run.out.exit_inputs[e.name].hidden,
        run.batch,
        exit=e,
        config=run.config.model,
        agrees=stats.top1 == final.top1,
      )
      total += objective.gate_weight * one.gate_loss
    sums = jax.tree.map(
      lambda s, v, i=i: s.at[i].set(jax.lax.stop_gradient(v)), sums, one
    )
  return total, sums


def _exit_heads(run: _Pass, exits: Sequence[ExitConfig]) -> list[OutputHead]:
  """Return the heads of some exits; a matrix they share is one array."""
  model = run.config.model
  kernels: dict[str, Any] = {}
  heads = []
  for e in exits:
    ready = apply_exit_head(
      run.params['exits'].get(e.name, {}),
      run.out.exit_inputs[e.name],
      exit=e,
      config=model,
      positions=run.batch.positions,
      segment_ids=run.batch.segment_ids,
    )
    name = output_matrix_name(e, config=model)
    if name not in kernels:
      kernels[name] = output_kernel(run.params, exit=e, config=model)
    heads.append(
      OutputHead(ready.hidden, kernels[name], softcap=model.logit_softcap)
    )
  return heads


def token_losses(
  stats: TokenStatistics, objective: Objective
) -> Float[Array, 'B T']:
  """Return what each token adds to an exit's loss, before its mask."""
  losses = stats.loss
  share = objective.distillation_weight
  if share > 0 and stats.divergence is not None:
    # The square keeps gradients of the same size whatever the temperature
    # (Hinton et al. 2015, Distilling the Knowledge, section 2).
    soft = objective.temperature**2 * stats.divergence
    losses = (1 - share) * losses + share * soft
  if objective.token_weights is TokenWeights.CONFIDENCE:
    losses = losses * jnp.exp(stats.max_log_prob)
  return losses


def with_gate(
  sums: HeadSums,
  exit_params: Params,
  hidden: Any,
  batch: TokenBatch,
  *,
  exit: ExitConfig,
  config: ModelConfig,
  agrees: Bool[Array, 'B T'],
) -> HeadSums:
  """Return an exit's sums with those of its gate.

  Args:
    sums: of the exit's head.
    exit_params: with the gate's among them.
    hidden: the stream at the exit's depth, which the gate reads detached.
    batch: the tokens.
    exit: the exit.
    config: its model.
    agrees: where its likeliest token is the final head's.
  """
  logit = gate_logit(
    exit_params, jax.lax.stop_gradient(hidden), exit=exit, config=config
  )
  label = agrees.astype(jnp.float32)
  loss = optax.sigmoid_binary_cross_entropy(logit, label)
  right = (logit > 0) == (label > 0)
  return dataclasses.replace(
    sums,
    gate_loss=jnp.sum(batch.weights * loss),
    gate_correct=jnp.sum(batch.weights * right),
  )


def head_sums(
  stats: TokenStatistics, batch: TokenBatch, final_top1: Any
) -> HeadSums:
  """Return a head's sums, but for those of a gate.

  Args:
    stats: what the head says of every token.
    batch: the tokens.
    final_top1: the final head's likeliest tokens, None where it is not run.
  """
  mask = batch.weights
  zero = jnp.zeros((), jnp.float32)
  agree = divergence = zero
  if final_top1 is not None:
    agree = jnp.sum(mask * (stats.top1 == final_top1))
  if stats.divergence is not None:
    divergence = jnp.sum(mask * stats.divergence)
  return HeadSums(
    tokens=jnp.sum(mask),
    loss=jnp.sum(mask * stats.loss),
    correct=jnp.sum(mask * (stats.top1 == batch.targets)),
    agree=agree,
    confidence=jnp.sum(mask * jnp.exp(stats.max_log_prob)),
    divergence=divergence,
    gate_loss=zero,
    gate_correct=zero,
  )
