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
"""One step: tokens of every row pass from stage to stage.

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
import functools

import flax.struct
import jax
import jax.numpy as jnp

from eejax.decoding.loop import approximate_kv
from eejax.decoding.loop.accounting import StageEvent
from eejax.decoding.loop.cache import DecodeState, StageState
from eejax.decoding.loop.heads import HeadOutput
from eejax.decoding.loop.plan import Plan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.scoring import HeadInput
from eejax.decoding.loop.segments import (
  Buffers,
  StageRun,
  at_index,
  run_stage,
  write_at,
)
from eejax.decoding.policy import batching
from eejax.decoding.policy.batching import Batching, Cycle
from eejax.models.exits import ExitInput
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class StepInputs:
  """Hold tokens that enter a step; rows whose token waits feed none.

  Attributes:
    tokens: of each row, the one to be fed next first.
    count: how many of them, 1 at least, are fed.
  """

  tokens: Int[Array, 'B N']
  count: Int[Array, 'B']


class Walk:
  """Carry a step from stage to stage.

  Attributes:
    at: the stage before which each row's newest token stands; past the last
      one where there is nothing to do for it in this step any more.
    length: tokens of each row that were fed, this step's included.
    stages: states of the stages passed.
    cycles: likewise, under DEPTH_QUEUE.
    events: likewise.
    memory: what exits saw of each row's newest token.
  """

  def __init__(
    self,
    params: Prepared,
    state: DecodeState,
    *,
    plan: Plan,
    fed: StepInputs | None = None,
  ):
    if fed is None:
      fed = StepInputs(state.tokens[:, None], jnp.ones_like(state.length))
    self._params, self._state, self._plan = params, state, plan
    self._nowhere = len(plan.stages)
    self.at = jnp.where(state.live, state.resume_stage, self._nowhere)
    num_fed = jnp.where(self.at == 0, fed.count, 0)
    self.length = state.length + num_fed
    self._fed, self._spent = jnp.sum(num_fed), jnp.zeros((), jnp.float32)
    embedded = params.table[fed.tokens]  # [B, N, D]
    newest = at_index(embedded, fed.count - 1)
    # The first slot of each row that has not come to the next stage.
    self._available = self.length
    self._waiting = self._embed(embedded)
    self._last = ExitInput(hidden=newest)
    self._ready: Float[Array, 'B 1 D'] | None = None
    # Rows that skip what is left, and what stands in for their tokens there.
    self._skipping = jnp.zeros_like(state.live)
    self._kv_source = approximate_kv.empty_source(newest, plan=plan)
    self.memory = state.memory
    self.stages: list[StageState] = []
    self.cycles: list[Cycle] = []
    self.events: list[StageEvent] = []

  @property
  def position(self) -> Int[Array, 'B']:
    """Return the position of each row's newest token."""
    return self.length - 1

  @property
  def verify_hidden(self) -> Float[Array, 'B two_W D'] | None:
    """Return what waits behind the newest stage for the final head."""
    return self._waiting[len(self.stages)]

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
    base = before.cache_length
    count = jnp.where(here | rides, self._available - base, 0)
    after = dataclasses.replace(before, waiting=self._waiting[index])
    if stage.num_caches:
      after = self._run(index, after, count, runs)
    if before.waiting is None:
      after = dataclasses.replace(after, waiting=None)
    done = jnp.where(runs, count, 0)
    self._available = base + jnp.where(self._skipping, 1, done)
    self.stages.append(dataclasses.replace(after, cache_length=self._available))
    nobody = jnp.zeros_like(count)
    self.events.append(StageEvent(runs, done, here, logits_computed=nobody))
    return here & runs

  def leave(
    self, passed: Bool[Array, 'B'], exit_mask: Bool[Array, 'B']
  ) -> None:
    """Part the rows that passed the newest stage: some leave at its head.

    Args:
      passed: rows that passed it.
      exit_mask: those of them that go no further.
    """
    if self._plan.kv_strategy.fills:
      self._skipping = self._skipping | exit_mask
      self._kv_source = approximate_kv.record_source(
        self._kv_source,
        exit_mask,
        self._last,
        self.stages[-1],
        plan=self._plan,
        stage=self._plan.stages[len(self.stages) - 1],
      )
    following = jnp.where(exit_mask, self._nowhere, len(self.stages))
    self.at = jnp.where(passed, following, self.at)

  def hear(self, output: HeadOutput) -> None:
    """Note what the newest stage's head said."""
    self.memory = output.memory
    self.count_logits(output.logits_computed)

  def count_logits(
    self, logits_computed: Int[Array, 'B'] | Bool[Array, 'B']
  ) -> None:
    """Note how often each row needed the logits of the newest stage."""
    self.events[-1] = dataclasses.replace(
      self.events[-1], logits_computed=logits_computed.astype(jnp.int32)
    )

  def _decide(self, index: int, here: Bool[Array, 'B']) -> Bool[Array, '']:
    """Return whether a stage runs in this step."""
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
    cycle = self._state.cycles[index].after_step(
      spent=self._spent, fed=self._fed
    )
    ready = (self.at < index) | (self.at == self._nowhere)
    runs = jnp.any(here)
    if index:
      runs &= batching.pays(
        cycle,
        cost=self._plan.costs[index],
        upstream=jnp.sum(ready & self._state.live),
        patience=self._plan.patience,
      )
    self.cycles.append(cycle.renewed_if(runs))
    return runs

  def _embed(self, embedded: Float[Array, 'B N D']) -> list[jax.Array | None]:
    """Return what waits at each entrance once new tokens are embedded.

    Behind the last stage waits what the final head is shown.
    """
    stages = self._state.stages
    waiting = [*(s.waiting for s in stages), self._state.verify_hidden]
    enters_at = 0 if self._plan.stages[0].num_caches else 1
    before = waiting[enters_at]
    if before is None:
      waiting[enters_at] = embedded
    else:
      at = self._state.length - stages[enters_at].cache_length
      waiting[enters_at] = write_at(before, embedded, at, axis=0)
    return waiting

  def _run(
    self,
    index: int,
    state: StageState,
    count: Int[Array, 'B'],
    runs: Bool[Array, ''],
  ) -> StageState:
    """Run a stage if it `runs`; return its state but for how far it came."""
    following = self._waiting[index + 1]
    at, base = jnp.zeros_like(count), state.cache_length
    if index + 1 < len(self._plan.stages):
      at = base - self._state.stages[index + 1].cache_length
    entering = state.waiting
    assert entering is not None
    run = StageRun(
      params=self._params,
      plan=self._plan,
      stage=self._plan.stages[index],
      runs=runs,
      entering=entering,
      base=base,
      count=count,
      following_at=at,
      visible=state.visible,
      kv_override=self._kv_override(index),
    )
    buffers = Buffers(state.keys, state.values, following)
    result = run_stage(run, buffers)
    self._last, self._ready = result.last, result.ready
    self._waiting[index + 1] = result.buffers.following
    visible = state.visible
    if visible is not None:
      visible = write_at(visible, ~self._skipping[:, None], base, axis=0)
    return dataclasses.replace(
      state,
      keys=result.buffers.keys,
      values=result.buffers.values,
      visible=visible,
    )

  def _kv_override(self, index: int):
    """Return what puts stand-ins for the rows that skip stage `index`."""
    if not (index and self._plan.kv_strategy.fills):
      return None
    return functools.partial(
      approximate_kv.override_skipped,
      source=self._kv_source,
      rows=self._skipping,
      params=self._params,
      plan=self._plan,
      stage=self._plan.stages[index],
    )
