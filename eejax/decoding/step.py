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
"""One token of every row, through as many stages as some row needs.

Early exit with exact keys and values, by deferred catch-up (design 5.3). A
token that exits leaves its stream at the entrance of the next stage. When
some row needs that stage, it runs for the whole batch and for all tokens that
wait there, in one window, so that one number says how far a stage has come
and every cache is written at one offset (`ride_along`).

    slot         0 1 2 3 4 5 6
    stage 0      # # # # # # #     every token
    stage 1      # # # # # #       ran last at slot 5, for slots 3, 4 and 5
    stage 2      # # #             slots 3 to 6 have still to come

Rows do not influence one another: whether a row may exit follows from its own
tokens since its own last one at full depth, as if it were alone, and a row
that rides along gets the same keys and values, only sooner.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax

from eejax.decoding.accounting import StageEvent, count_step
from eejax.decoding.cache import (
  DecodeState,
  Emission,
  Request,
  StageState,
  blank_emission,
)
from eejax.decoding.heads import Answer, HeadInput, answer_exit, answer_last
from eejax.decoding.plan import Plan
from eejax.decoding.prepare import Prepared
from eejax.decoding.stages import make_window, run_stage_if, write_rows
from eejax.models.exits import ExitInput
from eejax.types import Array, Float, Int


def decode_step(
  params: Prepared, request: Request, state: DecodeState, *, plan: Plan
) -> tuple[DecodeState, Emission]:
  """Feed each row's token and emit its next one.

  Args:
    params: the model.
    request: settings of the rows.
    state: where the rows stand; what is emitted for rows that are not live
      means nothing.
    plan: the static shape of the program.
  """
  walk = _Walk(params, request, state, plan)
  for index in range(len(plan.stages)):
    walk.pass_stage(index)
  emission = walk.emission
  live, slot = state.live, state.slot
  ended = jnp.isin(emission.token, request.eos)
  remaining = state.remaining - live
  at_full_depth = emission.depth == plan.depth
  new_state = DecodeState(
    slot=slot + 1,
    tokens=emission.token,
    live=live & ~ended & (remaining > 0),
    remaining=remaining,
    since_full=jnp.where(at_full_depth, 0, state.since_full + 1),
    stages=tuple(walk.stages),
    counts=count_step(state.counts, tuple(walk.events), live=live),
  )
  return new_state, emission


class _Walk:
  """Carry one token of every row from stage to stage.

  Attributes:
    active: rows that have not emitted their token yet.
    emission: what the others emitted.
    stages: states of the stages passed.
    events: what happened at them.
  """

  def __init__(
    self, params: Prepared, request: Request, state: DecodeState, plan: Plan
  ):
    self._params, self._request = params, request
    self._state, self._plan = state, plan
    self._embedded = params.table[state.tokens][:, None]  # [B, 1, D]
    # The newest streams at the next stage's entrance, and their first slot.
    self._incoming, self._incoming_base = self._embedded, state.slot
    self._last = ExitInput(hidden=self._embedded)
    # A token that exits waits, and the next one must still fit beside it.
    self._may_exit = state.since_full + 1 < plan.window
    self.active = state.live
    self.emission = blank_emission(state.live.shape[0])
    self.stages: list[StageState] = []
    self.events: list[StageEvent] = []

  def pass_stage(self, index: int) -> None:
    """Run stage `index` if some row is still active, and ask its head."""
    stage, before = self._plan.stages[index], self._state.stages[index]
    slot, is_needed = self._state.slot, jnp.any(self.active)
    # Every token enters the first stage, so none waits there.
    base = before.done_to if index else slot
    count = slot + 1 - base
    after, ready = before, None
    if stage.num_caches:
      after, hidden = self._enter(before, base)
      output = run_stage_if(
        is_needed,
        self._params,
        window=make_window(
          hidden,
          base=base,
          count=count,
          start=self._request.start,
          plan=self._plan,
        ),
        state=after,
        plan=self._plan,
        stage=stage,
      )
      after = write_rows(after, output, base=base)
      self._last, ready = output.last, output.ready
      self._incoming, self._incoming_base = output.hidden, base
    done_to = jnp.where(is_needed, slot + 1, base)
    self.stages.append(dataclasses.replace(after, done_to=done_to))
    answer = self._ask(index, ready)
    self.events.append(
      StageEvent(is_needed, count, self.active, asked=answer.asked)
    )
    self.emission = _merge(self.emission, answer, depth=stage.last)
    self.active = self.active & ~answer.take

  def _enter(
    self, state: StageState, base: Int[Array, '']
  ) -> tuple[StageState, Float[Array, 'B W D']]:
    """Let the newest streams wait; return all that wait at the entrance.

    Streams of a stage that did not run are written, too, past the last one
    that waits.
    """
    if state.waiting is None:
      return state, self._embedded
    waiting = lax.dynamic_update_slice(
      state.waiting, self._incoming, (0, self._incoming_base - base, 0)
    )
    after = dataclasses.replace(state, waiting=waiting)
    return after, waiting[:, : self._plan.window]

  def _ask(self, index: int, ready: Float[Array, 'B 1 D'] | None) -> Answer:
    positions = self._state.slot - self._request.start
    head_input = HeadInput(self._last, ready, positions)
    if index == self._plan.num_exits:
      return answer_last(
        self._params,
        self._request,
        head_input,
        plan=self._plan,
        active=self.active,
      )
    return answer_exit(
      self._params,
      self._request,
      head_input,
      plan=self._plan,
      index=index,
      may_take=self.active & self._may_exit,
    )


def _merge(emission: Emission, answer: Answer, *, depth: int) -> Emission:
  """Let rows that take an answer emit it."""
  pick = lambda new, old: jnp.where(answer.take, new, old)
  return Emission(
    token=pick(answer.token, emission.token),
    depth=pick(depth, emission.depth),
    score=pick(answer.score, emission.score),
    log_prob=pick(answer.log_prob, emission.log_prob),
  )
