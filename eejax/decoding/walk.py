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
"""One tick: tokens of every row pass from stage to stage.

Keys and values are exact by deferred catch-up (design 5.3). A token that
exits leaves its stream at the entrance of the next stage. When some row needs
that stage, it runs for the whole batch, over all tokens that wait there, in
one window.

    position     0 1 2 3 4 5 6
    stage 0      # # # # # # #     every token
    stage 1      # # # # # #       ran last at 5, for the tokens 3, 4 and 5
    stage 2      # # #             tokens 3 to 6 have still to come

Each row has its own lines. Rows do not influence one another: a row that
rides along gets the same keys and values, only sooner.
"""

import dataclasses

import jax.numpy as jnp

from eejax.decoding import batching, fill
from eejax.decoding.accounting import StageEvent
from eejax.decoding.batching import Batching, Cycle
from eejax.decoding.cache import DecodeState, StageState
from eejax.decoding.heads import Answer
from eejax.decoding.plan import Plan
from eejax.decoding.prepare import Prepared
from eejax.decoding.scoring import HeadInput
from eejax.decoding.stages import (
  StageOutput,
  make_window,
  run_stage_if,
  write_at,
  write_rows,
)
from eejax.models.exits import ExitInput
from eejax.types import Array, Bool, Float, Int


class Walk:
  """Carry a tick from stage to stage.

  Attributes:
    at: the stage before which each row's newest token stands; past the last
      one where there is nothing to do for it in this tick any more.
    length: tokens of each row that were fed, this tick's included.
    output: of the newest stage that has blocks.
    stages: states of the stages passed.
    cycles: likewise, under DEPTH_QUEUE.
    events: likewise.
    memory: what exits saw of each row's newest token.
  """

  def __init__(self, params: Prepared, state: DecodeState, *, plan: Plan):
    self._params, self._state, self._plan = params, state, plan
    self._nowhere = len(plan.stages)
    self.at = jnp.where(state.live, state.parked, self._nowhere)
    fed = self.at == 0
    self.length = state.length + fed
    self._fed, self._spent = jnp.sum(fed), jnp.zeros((), jnp.float32)
    embedded = params.table[state.tokens][:, None]  # [B, 1, D]
    # The newest streams at the next stage's entrance, the slot of the first,
    # and the first slot that has not come to it.
    self._incoming, self._incoming_base = embedded, state.length
    self._available = self.length
    self._last = ExitInput(hidden=embedded)
    self._ready: Float[Array, 'B 1 D'] | None = None
    # Rows that skip what is left, and what stands in for their tokens there.
    self._skipping = jnp.zeros_like(state.live)
    self._stand_in = fill.no_stand_in(embedded, plan=plan)
    self.output: StageOutput | None = None
    self.memory = state.memory
    self.stages: list[StageState] = []
    self.cycles: list[Cycle] = []
    self.events: list[StageEvent] = []

  @property
  def position(self) -> Int[Array, 'B']:
    """Return the position of each row's newest token."""
    return self.length - 1

  def head_input(self) -> HeadInput:
    """Return what the head of the newest stage is shown."""
    return HeadInput(self._last, self._ready, self.position, memory=self.memory)

  def pass_stage(self, *, rides: Bool[Array, 'B']) -> Bool[Array, 'B']:
    """Run the next stage if that is due; return the rows that passed it.

    The others stay where they are.

    Args:
      rides: rows whose waiting tokens are taken along if it runs.
    """
    index = len(self.stages)
    stage, before = self._plan.stages[index], self._state.stages[index]
    here = self.at == index
    runs = self._decide(index, here)
    base = before.done_to
    count = jnp.where(here | rides, self._available - base, 0)
    after = before
    if stage.num_caches:
      after, hidden = self._enter(before, base)
      window = make_window(hidden, base=base, count=count, plan=self._plan)
      self.output = run_stage_if(
        runs,
        self._params,
        window=window,
        state=after,
        plan=self._plan,
        stage=stage,
      )
      after = self._write(after, index, window)
      self._last, self._ready = self.output.last, self.output.ready
      self._incoming, self._incoming_base = self.output.hidden, base
    done = jnp.where(runs, count, 0)
    self._available = base + jnp.where(self._skipping, 1, done)
    self.stages.append(dataclasses.replace(after, done_to=self._available))
    nobody = jnp.zeros_like(count)
    self.events.append(StageEvent(runs, done, here, asked=nobody))
    return here & runs

  def leave(self, passed: Bool[Array, 'B'], take: Bool[Array, 'B']) -> None:
    """Part the rows that passed the newest stage: some leave at its head.

    Args:
      passed: rows that passed it.
      take: those of them that go no further.
    """
    if self._plan.kv_strategy.fills:
      self._skipping = self._skipping | take
      self._stand_in = fill.stand_in(
        self._stand_in,
        take,
        self._last,
        self.output,
        plan=self._plan,
        stage=self._plan.stages[len(self.stages) - 1],
      )
    following = jnp.where(take, self._nowhere, len(self.stages))
    self.at = jnp.where(passed, following, self.at)

  def hear(self, answer: Answer) -> None:
    """Note what the newest stage's head said."""
    self.memory = answer.memory
    self.count_asked(answer.asked)

  def count_asked(self, asked: Int[Array, 'B'] | Bool[Array, 'B']) -> None:
    """Note how often each row needed the logits of the newest stage."""
    self.events[-1] = dataclasses.replace(
      self.events[-1], asked=asked.astype(jnp.int32)
    )

  def _decide(self, index: int, here: Bool[Array, 'B']) -> Bool[Array, '']:
    """Return whether a stage runs in this tick."""
    is_needed = jnp.any(here)
    match self._plan.batching:
      case Batching.REFERENCE:
        return jnp.any(self._state.live)
      case Batching.DEPTH_QUEUE:
        runs = self._decide_in_queue(index, here) & is_needed
        cost = self._plan.costs[index]
        self._spent = self._spent + jnp.where(runs, cost, 0.0)
        return runs
    return is_needed

  def _decide_in_queue(
    self, index: int, here: Bool[Array, 'B']
  ) -> Bool[Array, '']:
    """Return whether the rows before a stage have waited long enough."""
    cycle = self._state.cycles[index].after_tick(
      spent=self._spent, fed=self._fed
    )
    ready = (self.at < index) | (self.at == self._nowhere)
    runs = jnp.any(here)
    if index:
      runs &= batching.pays(
        cycle,
        cost=self._plan.costs[index],
        upstream=jnp.sum(ready & self._state.live),
      )
    self.cycles.append(cycle.renewed_if(runs))
    return runs

  def _enter(
    self, state: StageState, base: Int[Array, 'B']
  ) -> tuple[StageState, Float[Array, 'B W D']]:
    """Let the newest streams wait; return all that wait at the entrance.

    Streams of a stage that did not run are written, too, past the last one
    that waits.
    """
    if state.waiting is None:
      return state, self._incoming
    waiting = write_at(
      state.waiting, self._incoming, self._incoming_base - base, axis=0
    )
    after = dataclasses.replace(state, waiting=waiting)
    return after, waiting[:, : self._plan.window]

  def _write(self, state: StageState, index: int, window) -> StageState:
    """Write a stage's new rows, and the stand-ins of rows that skip it."""
    assert self.output is not None
    output = self.output
    if index and self._plan.kv_strategy.fills:
      output = fill.fill_rows(
        output,
        self._stand_in,
        self._skipping,
        params=self._params,
        window=window,
        plan=self._plan,
        stage=self._plan.stages[index],
      )
      if state.visible is not None:
        seen = ~self._skipping[:, None]
        visible = write_at(state.visible, seen, window.base, axis=0)
        state = dataclasses.replace(state, visible=visible)
    return write_rows(state, output, base=window.base)
