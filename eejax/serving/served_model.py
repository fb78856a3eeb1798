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
"""A model under a name, with the engines that decode it.

An engine is one compiled program: what a policy's mode, criterion and window
make of the model. Thresholds are arguments of the program, so requests that
differ in them alone share an engine. A threshold of 0 is the exception in
early exit: the model ends at that exit, which is a program of its own.
"""

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from eejax.checkpoint.model import Model
from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.loop.device_placement import check_mesh
from eejax.decoding.loop.plan import DecodePlan, make_plan
from eejax.decoding.policy.certificate import PromptKind
from eejax.decoding.policy.check_use import (
  Use,
  check_covered,
  check_sampling_covered,
  check_uncertified,
  check_use,
)
from eejax.decoding.policy.defaults import complete_policy
from eejax.decoding.policy.modes import Mode
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import Threshold
from eejax.errors import ArgumentError, EejaxError
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig, SamplingMethod
from eejax.recipes.generate import prepared
from eejax.serving.api_error import too_many_requests
from eejax.serving.generation_request import (
  MOST_LOGPROBS,
  MOST_STOPS,
  ExitSettings,
)
from eejax.serving.scheduler import EngineState, Scheduler, Watcher
from eejax.serving.server_settings import ServerLimits

# Those of a request, and those of a chat template.
_MOST_STOP_TOKENS = MOST_STOPS + 8

# Stands for a threshold that is neither 0 nor never: which one it is does not
# change the program.
_SOME_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Numbers:
  """What a model is computed in, and on which devices; see `eejax.generate`."""

  dtype: str = 'float32'
  weights: Quantization = Quantization.NONE
  kv: Quantization = Quantization.NONE
  mesh: Mesh | None = None


@dataclasses.dataclass(frozen=True)
class Exits:
  """How the exits of a model are used for one text.

  Attributes:
    policy: what was asked for.
    scheduler: of the engine that follows it.
    thresholds: of the exits in the engine's plan.
  """

  policy: Policy
  scheduler: Scheduler
  thresholds: tuple[Threshold, ...]


class ServedModel:
  """A model under a name, and its engines.

  Attributes:
    name: as requests name it.
    model: as it was loaded.
    policy: followed where a request says nothing of exits.
    max_length: tokens of the longest text, its prompt included.
    can_start: whether all engines could be made that it starts with.
  """

  def __init__(
    self,
    name: str,
    model: Model,
    *,
    policy: Policy,
    limits: ServerLimits,
    watcher: Watcher,
    numbers: Numbers = Numbers(),
  ):
    """Serve a model; no engine is made yet.

    Args:
      name: as requests name it.
      model: as `eejax.load` returns it.
      policy: followed where a request says nothing of exits.
      limits: of the server.
      watcher: hears of texts.
      numbers: what is computed in.

    Raises:
      ArgumentError: the policy does not fit the model or the numbers, or the
        mesh not the model.
    """
    self.name, self.model, self.policy = name, model, policy
    self._limits, self._watcher, self._numbers = limits, watcher, numbers
    self._use = Use(numbers.dtype, numbers.weights, numbers.kv)
    context = model.config.model.max_length
    self.max_length = min(limits.max_length or context, context)
    self._schedulers: dict[DecodePlan, Scheduler] = {}
    self.can_start = True
    self._top_logprobs = min(MOST_LOGPROBS, model.config.model.vocab_size)
    self._compiling = threading.Lock()
    # One prompt is scored at a time: its logits take memory.
    self.scoring = asyncio.Lock()
    check_use(policy, model, self._use)
    if numbers.mesh is not None:
      check_mesh(numbers.mesh, config=model.config)
    self._plan(policy)

  @property
  def dtype(self) -> str:
    """Return what is computed in."""
    return self._numbers.dtype

  @property
  def full_depth(self) -> int:
    """Return how many blocks the model has."""
    return self.model.config.model.num_layers

  @property
  def levels(self) -> tuple[int, ...]:
    """Return the depths at which tokens can be emitted, full depth last."""
    depths = self.model.config.exit_depths
    return (*(d for d in depths if d < self.full_depth), self.full_depth)

  @functools.cached_property
  def has_chat_template(self) -> bool:
    """Return whether the model answers conversations."""
    try:
      return bool(self.model.chat_template)
    except EejaxError:
      return False

  @property
  def schedulers(self) -> Sequence[Scheduler]:
    """Return those of all engines."""
    return tuple(self._schedulers.values())

  @property
  def engines(self) -> Sequence[tuple[str, Scheduler]]:
    """Return all engines by what their programs do, which is told apart."""
    named = []
    for number, (plan, scheduler) in enumerate(self._schedulers.items()):
      named.append((f'{number}:{plan.mode.value}', scheduler))
    return named

  def policy_of(self, settings: ExitSettings) -> Policy:
    """Return the policy that a request asks for.

    Raises:
      ArgumentError: its parts contradict one another, or the model.
    """
    if settings.policy is not None:
      if settings.says_score:
        raise ArgumentError(
          'a policy says what criterion and threshold say; give one of them.'
        )
      policy = settings.policy.with_mode(settings.mode)
    else:
      policy = self._changed(settings)
    if settings.max_depth is not None:
      policy = self._bounded(policy, settings.max_depth)
    if policy is not self.policy:
      check_use(policy, self.model, self._use)
    return policy

  async def exits(
    self,
    policy: Policy,
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    prompt_kind: PromptKind,
  ) -> Exits:
    """Return how a policy is followed, by an engine made for it if need be.

    Raises:
      ArgumentError: the policy's certificate does not cover the text.
      ApiError: there is no room for another engine.
    """
    use = Use(
      temperature=sampling.temperature,
      max_new_tokens=max_new_tokens,
      prompt_kind=prompt_kind,
    )
    check_covered(policy, use)
    check_sampling_covered(policy, sampling)
    plan, thresholds = self._plan(policy)
    scheduler = self._schedulers.get(plan)
    if scheduler is not None and scheduler.state is EngineState.NOT_MADE:
      # It may have been for want of memory that is there now.
      scheduler = None
    if scheduler is None:
      await self._make_room()
      scheduler = self._start(plan, policy)
    return Exits(policy, scheduler, thresholds)

  async def start(self, policies: Sequence[Policy]) -> None:
    """Make the engines of policies and wait until they have settled."""
    for policy in policies:
      plan, _ = self._plan(policy)
      if plan not in self._schedulers:
        self._start(plan, policy)
    for scheduler in self.schedulers:
      await scheduler.settled()
    states = {scheduler.state for scheduler in self.schedulers}
    self.can_start = EngineState.NOT_MADE not in states

  async def close(self) -> None:
    """End all engines."""
    for scheduler in self.schedulers:
      await scheduler.close()

  # MARK: Policies

  def _changed(self, settings: ExitSettings) -> Policy:
    """Return the server's policy with what a request says changed.

    A mode that is not the server's has its own defaults.
    """
    mode = settings.mode or self.policy.mode
    if settings.mode is None and mode is Mode.FULL and settings.says_score:
      mode = Mode.EARLY_EXIT
    if mode is Mode.FULL:
      if settings.says_score:
        raise ArgumentError(
          'mode full uses no exits, so it takes neither criterion nor '
          'threshold.'
        )
      return self.policy if self.policy.mode is Mode.FULL else Policy()
    changes: dict[str, Any] = {}
    if settings.criterion is not None:
      changes['criterion'] = settings.criterion
    if settings.thresholds is not None:
      changes['thresholds'] = settings.thresholds
    if mode is not self.policy.mode:
      return complete_policy(self.model.config, mode=mode, **changes)
    if not changes:
      return self.policy
    check_uncertified(self.policy, 'criterion or thresholds of a request')
    policy = dataclasses.replace(self.policy, **changes)
    policy.usable_exits(self.model.config)
    return policy

  def _bounded(self, policy: Policy, depth: int) -> Policy:
    """Return a policy by which the model ends at an exit."""
    if depth == self.full_depth:
      return policy
    if policy.mode is Mode.SPECULATIVE:
      raise ArgumentError(
        'speculative decoding verifies at full depth, so it takes no '
        'max_depth; use mode early_exit.'
      )
    check_uncertified(policy, 'max_depth of a request')
    depths = self.model.config.exit_depths
    if depth not in depths:
      raise ArgumentError(
        f'there is no exit at depth {depth}; the model has some at '
        f'{", ".join(map(str, depths)) or "none"}, and ends at '
        f'{self.full_depth}.'
      )
    thresholds: tuple[Threshold, ...] = (None,)
    if policy.mode is Mode.FULL:
      # No score is asked for where the only exit is always taken.
      policy = Policy(Mode.EARLY_EXIT, 'max_prob')
    else:
      thresholds = policy.thresholds
    if len(thresholds) == 1:
      thresholds *= len(depths)
    bounded = (
      0.0 if d >= depth else t for d, t in zip(depths, thresholds, strict=True)
    )
    return dataclasses.replace(policy, thresholds=tuple(bounded))

  # MARK: Engines

  def _plan(self, policy: Policy) -> tuple[DecodePlan, tuple[Threshold, ...]]:
    """Return the program of a policy and the thresholds it is given."""
    config = self.model.config
    opened = policy
    if policy.mode is not Mode.FULL:
      opened = dataclasses.replace(
        policy,
        thresholds=_opened(policy.thresholds, policy.mode),
        certificate=None,
      )
    plan, _ = make_plan(
      config,
      policy=opened,
      method=SamplingMethod.RANDOM,
      top_logprobs=self._top_logprobs,
    )
    if policy.mode is Mode.FULL:
      return plan, ()
    wanted = {e.depth: t for e, t in policy.usable_exits(config)}
    used = [s.exit.depth for s in plan.segments[:-1] if s.exit is not None]
    return plan, tuple(wanted[depth] for depth in used)

  def _start(self, plan: DecodePlan, policy: Policy) -> Scheduler:
    limits = EngineLimits(
      slots=self._limits.slots,
      max_length=self.max_length,
      # The scheduler keeps the limit; these may all come before a step.
      max_waiting=self._limits.max_waiting + self._limits.slots,
      ticks_per_step=self._limits.ticks_per_step,
      top_logprobs=self._top_logprobs,
      max_stop_token_ids=_MOST_STOP_TOKENS,
    )
    opened = policy.without_certificate()
    if policy.mode is not Mode.FULL:
      thresholds = _opened(policy.thresholds, policy.mode)
      opened = dataclasses.replace(opened, thresholds=thresholds)

    def make_engine() -> Engine:
      # One at a time: they share the parameters that are laid out first.
      with self._compiling:
        return compiled_engine()

    def compiled_engine() -> Engine:
      numbers = self._numbers
      params = prepared(
        self.model,
        dtype=numbers.dtype,
        weights=numbers.weights,
        kv=numbers.kv,
        mesh=numbers.mesh,
      )
      engine = Engine(
        params, config=self.model.config, policy=opened, limits=limits
      )
      engine.warm_up()
      return engine

    scheduler = Scheduler(
      make_engine,
      limits=dataclasses.replace(limits, max_waiting=self._limits.max_waiting),
      watcher=self._watcher,
    )
    self._schedulers[plan] = scheduler
    scheduler.start()
    return scheduler

  async def _make_room(self) -> None:
    """Give up the idle engine that was used longest ago, if there are many."""
    if len(self._schedulers) < self._limits.max_engines:
      return
    own, _ = self._plan(self.policy)
    idle = [
      (scheduler.last_used, plan)
      for plan, scheduler in self._schedulers.items()
      if scheduler.is_idle
      and plan != own
      and scheduler.state is not EngineState.COMPILING
    ]
    if not idle:
      raise too_many_requests(
        f'{len(self._schedulers)} combinations of mode and exits are in use, '
        'as many as may',
        retry_after=5,
      )
    plan = min(idle, key=lambda pair: pair[0])[1]
    await self._schedulers.pop(plan).close()


def _opened(
  thresholds: Sequence[Threshold], mode: Mode
) -> tuple[Threshold, ...]:
  """Return thresholds of which only those remain that make the program."""
  if mode is Mode.SPECULATIVE:
    return tuple(_SOME_THRESHOLD for _ in thresholds)
  if all(t is None or t == 0 for t in thresholds):
    return tuple(thresholds)
  return tuple(0.0 if t == 0 else _SOME_THRESHOLD for t in thresholds)
