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
"""A serving core: texts come and go in the rows of one running batch.

Between chunks of the compiled loop rows that have ended are given to requests
that wait. A server, or a loop over a file of prompts, only wraps it:

  engine = Engine(model, policy=policy, limits=EngineLimits(slots=8))
  request_id = engine.submit(prompt, max_new_tokens=64)
  while not engine.is_idle:
    for update in engine.step():
      print(update.row, update.tokens)
  result = engine.result(request_id)

One thread at a time may call it.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.decoding.engine_stats import EngineStats, EngineTotals
from eejax.decoding.generate import (
  CHUNK_CAPACITY,
  CHUNK_WITH_STOPS,
  GREEDY,
  check_prompts,
  prompt_widths,
)
from eejax.decoding.loop.accounting import Accounting, row_accounting
from eejax.decoding.loop.exit_scoring import with_scored_matrices
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import Prepared, check_plan, prepare
from eejax.decoding.policy.batching import PlatformCosts, platform_costs
from eejax.decoding.policy.check_use import (
  Use,
  check_covered,
  check_sampling_covered,
  check_uncertified,
  check_use,
)
from eejax.decoding.policy.defaults import MAX_NEW_TOKENS
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import Threshold, threshold_values
from eejax.decoding.prefix_reuse import Placement, SlotTexts
from eejax.decoding.results import (
  FinishReason,
  GeneratedRow,
  RowProgress,
  TokenUpdate,
)
from eejax.decoding.slots import DecodeSlots, SlotRequest
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError, EejaxError
from eejax.ops.sampling import SamplingConfig, SamplingMethod
from eejax.progress import SILENT, Progress
from eejax.types import DTypeLike, Params

OnUpdate = Callable[[TokenUpdate], None]


class EngineFull(EejaxError):
  """Raised where no more requests may wait; try again after a step."""


@dataclasses.dataclass(frozen=True)
class EngineLimits:
  """How much an engine takes on.

  Attributes:
    slots: requests that are decoded together.
    max_length: tokens of the longest text, its prompt included; None is the
      model's context.
    max_waiting: requests that may wait for a slot.
    ticks_per_step: decode steps of one call of `Engine.step`; fewer show
      tokens sooner, more run faster.
    top_logprobs: how many of the likeliest tokens a request may ask for beside
      each token, at most 20; steps in which nobody asks do not compute them.
    max_stop_token_ids: end tokens of its own that a request may bring.
    min_prefix: tokens that a prompt has to share with a slot's text for their
      keys and values to be reused, 1 at least; None runs every prompt whole.
  """

  slots: int = 8
  max_length: int | None = None
  max_waiting: int = 64
  ticks_per_step: int = CHUNK_WITH_STOPS
  top_logprobs: int = 0
  max_stop_token_ids: int = 8
  min_prefix: int | None = 16

  def __post_init__(self):
    for name in ('slots', 'max_waiting', 'ticks_per_step', 'min_prefix'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ArgumentError(f'{name} must be at least 1, not {value}.')
    if self.ticks_per_step > CHUNK_CAPACITY:
      raise ArgumentError(
        f'ticks_per_step is at most {CHUNK_CAPACITY}, not '
        f'{self.ticks_per_step}.'
      )


@dataclasses.dataclass
class _Job:
  """A request from its submission to its end."""

  request_id: int
  request: SlotRequest
  progress: RowProgress
  on_update: OnUpdate | None
  reused_tokens: int = 0


class Engine:
  """Decodes requests that come at any time, each with settings of its own.

  Invariants: a slot is free or has one request; the device's `live` is true
  for no free slot; one program is compiled for the loop, another for steps in
  which some request changes logits, and one for each length of padded prompt
  that is inserted.
  """

  def __init__(
    self,
    model: Model | Params | Prepared,
    *,
    config: EarlyExitConfig | None = None,
    policy: Policy,
    limits: EngineLimits = EngineLimits(),
    method: SamplingMethod = SamplingMethod.RANDOM,
    eos_ids: Sequence[int] | None = None,
    dtype: DTypeLike = jnp.float32,
    frequent_ids: Sequence[int] | None = None,
    progress: Progress = SILENT,
    platform: PlatformCosts | None = None,
    mesh: Mesh | None = None,
  ):
    """Make an engine whose slots are all free.

    Args:
      model: as it was loaded. Its parameters alone, prepared or not, do for
        policies without a certificate.
      config: the model with its exits, where `model` is parameters.
      policy: when to exit early, where a request brings no thresholds.
      limits: how much is taken on.
      method: `GREEDY` engines refuse requests that sample.
      eos_ids: tokens that end a text; by default the model's.
      dtype: compute type, where parameters are not prepared yet.
      frequent_ids: see `eejax.decoding.generate.generate`.
      progress: is told while weights are hashed for a certified policy.
      platform: what tokens cost, for adaptive drafting; None takes what is
        stated of the device, until `warm_up` measures what windows cost.
      mesh: the devices, where parameters are not prepared yet; None takes
        those that they lie on.

    Raises:
      ArgumentError: something cannot be used as given, or the policy is
        another model's or certified for something else; see
        `eejax.decoding.policy.check_use`.
    """
    if frequent_ids is not None:
      check_uncertified(policy, 'frequent_ids of your own')
    if eos_ids is not None:
      check_uncertified(policy, 'eos_ids of your own')
    if isinstance(model, Model):
      use = Use(dtype=jnp.dtype(dtype).name)
      check_use(policy, model, use, progress=progress)
      config = model.config
      model = model.params
    else:
      check_uncertified(policy, 'parameters without their model')
    if config is None:
      raise ArgumentError('an engine of parameters alone needs their config.')
    if isinstance(model, Prepared):
      params = model
    else:
      params = prepare(model, config=config, dtype=dtype, mesh=mesh)
    self._plan, thresholds = make_plan(
      config,
      policy=policy,
      method=method,
      top_logprobs=limits.top_logprobs,
    )
    check_plan(params, self._plan)
    params = with_scored_matrices(
      params, plan=self._plan, token_ids=frequent_ids
    )
    self._config, self._limits = config, limits
    self._policy = policy
    self._thresholds = threshold_values(thresholds)
    self._eos = tuple(config.model.eos_ids if eos_ids is None else eos_ids)
    self._longest = min(
      limits.max_length or config.model.max_length, config.model.max_length
    )
    self._slots = DecodeSlots(
      params,
      plan=self._plan,
      count=limits.slots,
      longest=self._longest,
      num_end_ids=len(self._eos) + limits.max_stop_token_ids,
      platform=platform or platform_costs(),
    )
    self._measures_costs = platform is None
    self._totals = EngineTotals(self._plan)
    self._min_prefix = limits.min_prefix
    if config.model.state_space is not None:
      # The state after a prefix is not kept, so nothing can go on from it.
      self._min_prefix = None
    self._texts = SlotTexts(limits.slots, shortest=self._min_prefix)
    self._jobs: list[_Job | None] = [None] * limits.slots
    self._waiting: collections.deque[_Job] = collections.deque()
    self._results: dict[int, GeneratedRow] = {}
    self._next_id = 0

  @property
  def is_idle(self) -> bool:
    """Return whether nothing is decoded and nothing waits."""
    return not self._waiting and not any(self._jobs)

  @property
  def num_waiting(self) -> int:
    """Return how many requests wait for a slot."""
    return len(self._waiting)

  @property
  def max_length(self) -> int:
    """Return how many tokens a text may have, its prompt included."""
    return self._longest

  @property
  def exit_depths(self) -> tuple[int, ...]:
    """Return the depths of the exits that a request's thresholds are of."""
    return tuple(s.last for s in self._plan.segments[:-1])

  def warm_up(self, *, max_prompt_length: int | None = None) -> None:
    """Compile, and run once, every program that requests can need.

    After it no request waits for a program to be compiled, unless its prompt
    is longer, and drafts follow what windows cost here.

    Args:
      max_prompt_length: tokens of the longest prompt to be prepared for; by
        default the longest that fits.

    Raises:
      ArgumentError: requests are decoded or wait.
    """
    if not self.is_idle:
      raise ArgumentError('an engine is warmed up while no request is there.')
    longest = min(max_prompt_length or self._longest, self._longest - 1)
    for width in prompt_widths(longest):
      prompt = [0] * min(width + 1, self._longest)
      request = SlotRequest(prompt, 0, self._thresholds)
      self._slots.insert(request, Placement(0))
    self._slots.run(ticks=0)
    if self._measures_costs:
      self._slots.measure_costs()
    if self._min_prefix is not None:
      for rest in self._slots.rest_widths:
        prompt = [0] * min(rest + 1, self._longest)
        request = SlotRequest(prompt, 0, self._thresholds)
        self._slots.can_reuse(Placement(0, source=0))
        self._slots.insert(request, Placement(0, source=0))
    late = SamplingConfig(min_tokens=1)
    request = SlotRequest([0], 0, self._thresholds, late)
    self._slots.insert(request, Placement(0))
    self._slots.run(ticks=0)
    self._slots.free([0])
    self._texts.forget(0)

  def stats(self) -> EngineStats:
    """Return what the engine does, and what it has done so far.

    It reads counts from the device, so it is called by whoever calls `step`.
    """
    running = {i: job for i, job in enumerate(self._jobs) if job is not None}
    filled = sum(
      len(job.request.prompt) + len(job.progress.tokens)
      for job in running.values()
    )
    return self._totals.stats(
      self._slots.counts,
      emitted={i: job.progress.num_emitted for i, job in running.items()},
      waiting=len(self._waiting),
      slots=len(self._jobs),
      kv_usage=filled / (len(self._jobs) * self._longest),
    )

  def submit(
    self,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    sampling: SamplingConfig = GREEDY,
    thresholds: Sequence[Threshold] | None = None,
    text: TextStream | None = None,
    on_update: OnUpdate | None = None,
    top_logprobs: int = 0,
  ) -> int:
    """Add a request to those that wait for a slot; return its id.

    Args:
      prompt: token ids; an empty one becomes the start token.
      max_new_tokens: tokens to emit at most.
      sampling: how its tokens are chosen and which of them end it. Its seed
        alone decides what is drawn, whoever shares the batch.
      thresholds: of each exit in use, None being never; by default the
        policy's.
      text: to get text and heed stop strings.
      on_update: called with what the request emits, after each step. The
        `row` of an update is the request's id.
      top_logprobs: how many of the likeliest tokens to report beside each one,
        at most `EngineLimits.top_logprobs`.

    Raises:
      EngineFull: as many requests wait as may.
      ArgumentError: something cannot be used as given, or the certificate of
        the policy does not cover it.
    """
    if len(self._waiting) >= self._limits.max_waiting:
      raise EngineFull(
        f'{len(self._waiting)} requests wait already, as many as may; try '
        'again when one has ended.'
      )
    use = Use(temperature=sampling.temperature, max_new_tokens=max_new_tokens)
    check_covered(self._policy, use)
    if max_new_tokens < 1:
      raise ArgumentError(
        f'max_new_tokens must be at least 1, not {max_new_tokens}.'
      )
    self._check_sampling(sampling, top_logprobs)
    ids, ends = self._checked_prompt(prompt), sampling.end_ids(self._eos)
    request = SlotRequest(
      prompt=ids,
      limit=min(max_new_tokens, self._longest - len(ids)),
      thresholds=self._checked_thresholds(thresholds),
      sampling=sampling,
      end_ids=ends,
      wants_top=top_logprobs > 0,
    )
    request_id = self._next_id
    progress = RowProgress(
      request_id, text, end_ids=ends, top_logprobs=top_logprobs
    )
    self._waiting.append(_Job(request_id, request, progress, on_update))
    self._next_id += 1
    return request_id

  def cancel(self, request_id: int) -> None:
    """Take a request out, whether it waits or is decoded; the others go on.

    What it emitted so far is its result. Its slot is free at once, for the
    next step to fill. Unknown ids and those of requests that have ended are
    let be.
    """
    for job in list(self._waiting):
      if job.request_id == request_id:
        self._waiting.remove(job)
        self._finish(job, slot=None, reason=FinishReason.CANCELLED)
    for slot, running in enumerate(self._jobs):
      if running is not None and running.request_id == request_id:
        self._finish(running, slot=slot, reason=FinishReason.CANCELLED)
        self._free([slot])

  def step(self) -> list[TokenUpdate]:
    """Fill free slots, decode for a few ticks, return what was emitted."""
    self._insert_waiting()
    if not any(self._jobs):
      return []
    emitted = self._slots.run(ticks=self._limits.ticks_per_step)
    live, failed = self._slots.live, self._slots.failed
    updated, ended = [], []
    for slot, job in enumerate(self._jobs):
      if job is None:
        continue
      update = job.progress.take(
        emitted[slot], is_live=bool(live[slot]), has_failed=bool(failed[slot])
      )
      updated.append((job, update))
      self._totals.add_tokens(update)
      if job.progress.ended:
        self._finish(job, slot=slot)
        ended.append(slot)
    self._free(ended)
    for job, update in updated:
      if job.on_update is not None:
        job.on_update(update)
    return [update for _, update in updated]

  def result(self, request_id: int) -> GeneratedRow:
    """Return the result of a request that has ended; it is kept no longer.

    Raises:
      ArgumentError: it has not ended, or its result was returned before.
    """
    if request_id not in self._results:
      raise ArgumentError(f'request {request_id} has no result to return.')
    return self._results.pop(request_id)

  # MARK: DecodeSlots

  def _insert_waiting(self) -> None:
    while self._waiting and not all(self._jobs):
      job = self._waiting.popleft()
      prompt = job.request.prompt
      placement = self._texts.place(
        prompt,
        free=[i for i, running in enumerate(self._jobs) if running is None],
        complete=self._slots.complete,
      )
      if placement.source is not None and not self._slots.can_reuse(placement):
        placement = Placement(placement.slot)
      self._slots.insert(job.request, placement)
      self._jobs[placement.slot] = job
      self._texts.put(placement.slot, prompt[:-1])
      job.reused_tokens = placement.reused
      self._totals.add_prompt(len(prompt), reused=placement.reused)

  def _finish(
    self, job: _Job, *, slot: int | None, reason: FinishReason | None = None
  ) -> None:
    if reason is not None:
      job.progress.finish_reason = reason
    accounting = Accounting()
    if slot is not None:
      accounting = row_accounting(
        self._slots.counts,
        plan=self._plan,
        row=slot,
        num_tokens=job.progress.num_emitted,
      )
    row = job.progress.result(
      job.request.prompt, accounting, reused_tokens=job.reused_tokens
    )
    self._results[job.request_id] = row
    self._totals.add_ended(row, self._slots.counts, slot)

  def _free(self, slots: Sequence[int]) -> None:
    if slots:
      self._slots.free(slots)
    for slot in slots:
      job, self._jobs[slot] = self._jobs[slot], None
      assert job is not None
      if job.progress.finish_reason is FinishReason.NON_FINITE:
        self._texts.forget(slot)
      else:
        self._texts.put(slot, self._text_of(job))

  def _text_of(self, job: _Job) -> Sequence[int]:
    """Return the text whose keys and values are those of a full pass."""
    prompt = job.request.prompt
    if self._plan.kv_strategy.is_exact:
      return [*prompt, *job.progress.tokens]
    return prompt[:-1]

  # MARK: Settings of a request

  def _checked_prompt(self, prompt: Sequence[int]) -> list[int]:
    model = dataclasses.replace(self._config.model, max_length=self._longest)
    return check_prompts([prompt], config=model)[0]

  def _check_sampling(
    self, sampling: SamplingConfig, top_logprobs: int
  ) -> None:
    if self._plan.method is SamplingMethod.GREEDY and sampling.temperature:
      raise ArgumentError('this engine decodes greedily; use temperature 0.')
    check_sampling_covered(self._policy, sampling)
    sampling.check_tokens(self._config.model.vocab_size)
    most = self._limits.max_stop_token_ids
    if len(sampling.stop_token_ids) > most:
      raise ArgumentError(
        f'there are {len(sampling.stop_token_ids)} stop_token_ids, and a '
        f'request may bring {most}.'
      )
    if not 0 <= top_logprobs <= self._limits.top_logprobs:
      raise ArgumentError(
        f'top_logprobs must be from 0 to {self._limits.top_logprobs}, not '
        f'{top_logprobs}.'
      )

  def _checked_thresholds(
    self, thresholds: Sequence[float | None] | None
  ) -> np.ndarray:
    if thresholds is None:
      return self._thresholds
    check_uncertified(self._policy, 'thresholds of a request')
    wanted = self._plan.num_exits
    if len(thresholds) != wanted:
      raise ArgumentError(
        f'there are {len(thresholds)} thresholds for {wanted} exits in use.'
      )
    for value in thresholds:
      if value is not None and not 0 <= value <= 1:
        raise ArgumentError(
          f'a threshold must lie in [0, 1] or be never, not {value}.'
        )
    return threshold_values(thresholds)
