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
"""Inputs of heads and of scores, and the matrices that they are read with."""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import ExitConfig
from eejax.decoding.loop.device_placement import place_prepared, replicate
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.criteria import (
  Evidence,
  Memory,
  Reads,
  blank_memory,
  get_criterion,
  recall,
)
from eejax.decoding.policy.policy import Mode
from eejax.decoding.policy.scored_vocabulary import (
  Scored,
  ScoredVocabulary,
  first_token_ids,
  parse_scored_vocabulary,
)
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  gate_logit,
  output_matrix_name,
)
from eejax.ops.matmul import (
  FlatKernel,
  matrix_product,
  some_outputs,
)
from eejax.ops.sampling import greedy
from eejax.ops.softcap import soft_cap
from eejax.types import Array, Float, Int

_FREQUENT = '/frequent'


@flax.struct.dataclass
class HeadInput:
  """Inputs of a head.

  Attributes:
    last: what the backbone computed for the newest token.
    ready: state of a BLOCK head, which ran with its segment, else None.
    positions: position of the newest token in each row's text.
    memory: what earlier exits of the plan saw of the same token; None is
      nothing.
  """

  last: ExitInput
  ready: Float[Array, 'B 1 D'] | None
  positions: Int[Array, 'B']
  memory: Memory | None = None


@flax.struct.dataclass
class ScoreInputs:
  """Inputs of a score, and what was computed for them.

  Attributes:
    evidence: what the criterion is shown.
    ready: the head's state before the output matrix, if it was computed.
    logits: that a token is chosen from, if they were computed.
    candidates: tokens that deeper exits score, if that is settled here.
    scores_candidates: whether the logits shown are those of candidates that
      an earlier exit settled.
  """

  evidence: Evidence
  ready: Float[Array, 'B D'] | None = None
  logits: Float[Array, 'B V'] | None = None
  candidates: Int[Array, 'B C'] | None = None
  scores_candidates: bool = flax.struct.field(pytree_node=False, default=False)

  @property
  def compared(self) -> Evidence:
    """Return the evidence with the logits that the next exit compares with."""
    if self.candidates is None or self.evidence.logits is None:
      return self.evidence
    logits = jnp.take_along_axis(self.evidence.logits, self.candidates, axis=-1)
    return dataclasses.replace(
      self.evidence, logits=logits, previous_logits=None
    )


def empty_memory(
  plan: DecodePlan, *, batch_size: int, params: Prepared
) -> Memory:
  """Return what rows remember that no exit has seen.

  Args:
    plan: its criterion says what is worth remembering.
    batch_size: rows.
    params: the model, for the dtype of its stream.
  """
  if not plan.criterion:
    return Memory()
  vocabulary = _vocabulary(plan)
  config = plan.config.model
  keeps = vocabulary.kind is Scored.CANDIDATES
  return blank_memory(
    get_criterion(plan.criterion).reads,
    batch_size=batch_size,
    num_scored=vocabulary.size or config.vocab_size,
    embed_dim=config.embed_dim,
    num_candidates=vocabulary.size if keeps else 0,
    dtype=params.dtype,
  )


def with_scored_matrices(
  params: Prepared,
  *,
  plan: DecodePlan,
  token_ids: Sequence[int] | np.ndarray | None = None,
) -> Prepared:
  """Return `params` with matrices of frequent tokens, where exits score those.

  They are made once, outside of compiled programs; to gather so many rows in
  every step would cost more than it saves.

  Args:
    params: the model.
    plan: what is to be decoded.
    token_ids: the most frequent first, for FREQUENT; see `first_token_ids`.

  Raises:
    ArgumentError: the ids cannot be used.
  """
  vocabulary = _vocabulary(plan)
  if vocabulary.kind is not Scored.FREQUENT:
    return params
  config = plan.config.model
  exits = [s.exit for s in plan.segments if s.exit is not None]
  if not exits:
    return params
  names = {output_matrix_name(exit, config=config) for exit in exits}
  ids = jnp.asarray(
    first_token_ids(vocabulary, token_ids, vocab_size=config.vocab_size)
  )
  added = {
    name + _FREQUENT: some_outputs(params.kernels[name], ids) for name in names
  }
  placed = place_prepared({'kernels': added}, mesh=params.mesh)
  return dataclasses.replace(
    params,
    kernels={**params.kernels, **placed['kernels']},
    frequent_ids=replicate(ids, mesh=params.mesh),
  )


def compute_score_inputs(
  params: Prepared,
  head_input: HeadInput,
  memory: Memory,
  *,
  plan: DecodePlan,
  index: int,
) -> ScoreInputs:
  """Compute what the plan's criterion reads at the exit of segment `index`."""
  segment = plan.segments[index]
  exit = segment.needed_exit
  reads = get_criterion(plan.criterion).reads
  evidence = Evidence(
    exit_index=index,
    depth=segment.last,
    num_layers=plan.config.model.num_layers,
  )
  if reads & Reads.POSITIONS:
    evidence = dataclasses.replace(evidence, positions=head_input.positions)
  if reads & (Reads.STREAM | Reads.PREVIOUS_STREAM):
    evidence = dataclasses.replace(evidence, stream=_stream(head_input))
  if reads & Reads.GATE:
    logit = gate_logit(
      params.exits[exit.name],
      _stream(head_input),
      exit=exit,
      config=plan.config.model,
    )
    evidence = dataclasses.replace(evidence, gate_logit=logit)
  inputs = ScoreInputs(evidence)
  if reads.asks_head:
    inputs = _with_logits(params, head_input, memory, inputs, plan, index)
  return dataclasses.replace(
    inputs,
    evidence=recall(inputs.evidence, memory, positions=head_input.positions),
  )


def _with_logits(
  params: Prepared,
  head_input: HeadInput,
  memory: Memory,
  inputs: ScoreInputs,
  plan: DecodePlan,
  index: int,
) -> ScoreInputs:
  """Add the logits of the tokens that are scored."""
  exit, vocabulary = plan.segments[index].needed_exit, _vocabulary(plan)
  name = output_matrix_name(exit, config=plan.config.model)
  ready = ready_state(params, head_input, plan=plan, exit=exit)
  whole = candidates = ids = None
  if vocabulary.kind is Scored.FREQUENT:
    logits = _times_frequent(params, ready, plan, exit)
    if drafts_frequent(plan):
      whole = _spread(logits, params)
  elif vocabulary.kind is Scored.CANDIDATES and index:
    assert memory.candidates is not None
    ids = memory.candidates
    rows = params.kernels[name].matrix[ids]
    logits = jnp.einsum(
      'BD,BCD->BC', ready, rows, preferred_element_type=jnp.float32
    )
    logits = soft_cap(logits, plan.config.model.logit_softcap)
  else:
    whole = logits = whole_logits(params, ready, plan=plan, exit=exit)
    if vocabulary.kind is Scored.CANDIDATES:
      candidates = jax.lax.top_k(logits, vocabulary.size)[1]
  top = greedy(logits)
  if ids is not None:
    top = jnp.take_along_axis(ids, top[:, None], axis=-1)[:, 0]
  evidence = dataclasses.replace(inputs.evidence, logits=logits, top_token=top)
  return ScoreInputs(
    evidence, ready, whole, candidates, scores_candidates=ids is not None
  )


def drafts_frequent(plan: DecodePlan) -> bool:
  """Return whether exits propose frequent tokens alone.

  The whole model verifies them, so no whole head need be asked for a draft.
  """
  is_frequent = _vocabulary(plan).kind is Scored.FREQUENT
  return is_frequent and plan.mode is Mode.SPECULATIVE


def frequent_logits(
  params: Prepared,
  ready: Float[Array, 'B D'],
  *,
  plan: DecodePlan,
  exit: ExitConfig,
) -> Float[Array, 'B V']:
  """Return logits of all tokens, -inf where they are not frequent."""
  return _spread(_times_frequent(params, ready, plan, exit), params)


def _times_frequent(
  params: Prepared,
  ready: Float[Array, 'B D'],
  plan: DecodePlan,
  exit: ExitConfig,
) -> Float[Array, 'B N']:
  name = output_matrix_name(exit, config=plan.config.model)
  if name + _FREQUENT not in params.kernels:
    raise ArgumentError(
      f'the scored vocabulary {plan.scored_vocabulary} reads matrices that '
      'this model was not prepared with; call with_scored_matrices first.'
    )
  return _times(ready, params.kernels[name + _FREQUENT], plan)


def _spread(
  logits: Float[Array, 'B N'], params: Prepared
) -> Float[Array, 'B V']:
  assert params.frequent_ids is not None
  shape = (logits.shape[0], params.config.model.vocab_size)
  return jnp.full(shape, -jnp.inf).at[:, params.frequent_ids].set(logits)


def ready_state(
  params: Prepared,
  head_input: HeadInput,
  *,
  plan: DecodePlan,
  exit: ExitConfig | None,
) -> Float[Array, 'B D']:
  """Return the newest token's state, ready for a head's output matrix.

  Args:
    params: the model.
    head_input: what the head is shown.
    plan: what is decoded.
    exit: the head; None is the final one.
  """
  config = plan.config.model
  ready = head_input.ready
  if exit is None:
    assert head_input.last.hidden is not None
    ready = decoder.final_hidden(
      {'final_norm': params.final_norm}, head_input.last.hidden, config=config
    )
  elif ready is None:
    ready = apply_exit_head(
      params.exits[exit.name],
      head_input.last,
      exit=exit,
      config=config,
      positions=head_input.positions[:, None],
    ).hidden
  return ready[:, 0]


def whole_logits(
  params: Prepared,
  ready: Float[Array, 'B D'],
  *,
  plan: DecodePlan,
  exit: ExitConfig | None,
) -> Float[Array, 'B V']:
  """Return logits of all tokens in float32."""
  name = output_matrix_name(exit, config=plan.config.model)
  return _times(ready, params.kernels[name], plan)


def _times(
  ready: Float[Array, 'B D'],
  kernel: FlatKernel,
  plan: DecodePlan,
) -> Float[Array, 'B V']:
  logits = matrix_product(ready, kernel, dtype=jnp.float32)
  return soft_cap(logits, plan.config.model.logit_softcap)


def _stream(head_input: HeadInput) -> Float[Array, 'B D']:
  assert head_input.last.hidden is not None
  return head_input.last.hidden[:, 0]


def _vocabulary(plan: DecodePlan) -> ScoredVocabulary:
  return parse_scored_vocabulary(plan.scored_vocabulary)
