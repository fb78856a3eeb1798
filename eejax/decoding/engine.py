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

from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.decoding.admission import Request, insert
from eejax.decoding.generate import (
  CHUNK_CAPACITY,
  CHUNK_WITH_STOPS,
  GREEDY,
  SMALLEST_PREFILL,
  check_prompts,
  padded_prompts,
)
from eejax.decoding.loop import cache as cache_lib
from eejax.decoding.loop.accounting import no_counts, row_accounting
from eejax.decoding.loop.cache import (
  DecodeState,
  cache_size,
  empty_segment,
)
from eejax.decoding.loop.plan import bucket, make_plan
from eejax.decoding.loop.prepare import Prepared, check_plan, prepare
from eejax.decoding.loop.programs import decode_chunk, first_state
from eejax.decoding.loop.scoring import with_scored_matrices
from eejax.decoding.policy.batching import PlatformCosts, platform_costs
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import Threshold, threshold_values
from eejax.decoding.policy.use import (
  Use,
  check_covered,
  check_uncertified,
  check_use,
)
from eejax.decoding.results import (
  EmittedTokens,
  FinishReason,
  GeneratedRow,
  RowProgress,
  TokenUpdate,
)
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError, EejaxError
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling
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
  """

  slots: int = 8
  max_length: int | None = None
  max_waiting: int = 64
  ticks_per_step: int = CHUNK_WITH_STOPS

  def __post_init__(self):
    for name in ('slots', 'max_waiting', 'ticks_per_step'):
      if getattr(self, name) < 1:
        raise ArgumentError(
          f'{name} must be at least 1, not {getattr(self, name)}.'
        )
    if self.ticks_per_step > CHUNK_CAPACITY:
      raise ArgumentError(
        f'ticks_per_step is at most {CHUNK_CAPACITY}, not '
        f'{self.ticks_per_step}.'
      )


@dataclasses.dataclass
class _Job:
  """A request from its submission to its end."""

  request_id: int
  prompt: list[int]
  thresholds: np.ndarray
  sampling: SamplingConfig
  limit: int
  progress: RowProgress
  on_update: OnUpdate | None


class Engine:
  """Decodes requests that come at any time, each with settings of its own.

  Invariants: a slot is free or has one request; the device's `live` is true
  for no free slot; one program is compiled for the loop, and one for each
  length of padded prompt that is inserted.
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
      platform: see `eejax.decoding.generate.generate`.

    Raises:
      ArgumentError: something cannot be used as given, or the policy is
        another model's or certified for something else; see
        `eejax.decoding.policy.use`.
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
      params = prepare(model, config=config, dtype=dtype)
    self._plan, thresholds = make_plan(
      config,
      policy=policy,
      method=method,
      platform=platform or platform_costs(),
    )
    check_plan(params, self._plan)
    self._params = with_scored_matrices(
      params, plan=self._plan, token_ids=frequent_ids
    )
    self._config, self._limits = config, limits
    self._policy = policy
    self._thresholds = threshold_values(thresholds)
    self._eos = tuple(config.model.eos_ids if eos_ids is None else eos_ids)
    self._longest = min(
      limits.max_length or config.model.max_length, config.model.max_length
    )
    widest = bucket(self._longest, smallest=SMALLEST_PREFILL)
    self._size = cache_size(self._plan, longest=widest)
    self._settings, self._state = self._empty()
    self._slots: list[_Job | None] = [None] * limits.slots
    self._waiting: collections.deque[_Job] = collections.deque()
    self._results: dict[int, GeneratedRow] = {}
    self._next_id = 0

  @property
  def is_idle(self) -> bool:
    """Return whether nothing is decoded and nothing waits."""
    return not self._waiting and not any(self._slots)

  @property
  def num_waiting(self) -> int:
    """Return how many requests wait for a slot."""
    return len(self._waiting)

  def submit(
    self,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 128,
    sampling: SamplingConfig = GREEDY,
    thresholds: Sequence[Threshold] | None = None,
    text: TextStream | None = None,
    on_update: OnUpdate | None = None,
  ) -> int:
    """Add a request to those that wait for a slot; return its id.

    Args:
      prompt: token ids; an empty one becomes the start token.
      max_new_tokens: tokens to emit at most.
      sampling: how its tokens are chosen.
      thresholds: of each exit in use, None being never; by default the
        policy's.
      text: to get text and heed stop strings.
      on_update: called with what the request emits, after each step. The
        `row` of an update is the request's id.

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
    job = _Job(
      request_id=self._next_id,
      prompt=self._checked_prompt(prompt),
      thresholds=self._checked_thresholds(thresholds),
      sampling=self._checked_sampling(sampling),
      limit=0,
      progress=RowProgress(self._next_id, text, eos_ids=self._eos),
      on_update=on_update,
    )
    if max_new_tokens < 1:
      raise ArgumentError(
        f'max_new_tokens must be at least 1, not {max_new_tokens}.'
      )
    job.limit = min(max_new_tokens, self._longest - len(job.prompt))
    self._waiting.append(job)
    self._next_id += 1
    return job.request_id

  def cancel(self, request_id: int) -> None:
    """Take a request out, whether it waits or is decoded; the others go on.

    What it emitted so far is its result. Unknown ids and those of requests
    that have ended are let be.
    """
    for job in list(self._waiting):
      if job.request_id == request_id:
        self._waiting.remove(job)
        self._finish(job, slot=None, reason=FinishReason.CANCELLED)
    for slot, running in enumerate(self._slots):
      if running is not None and running.request_id == request_id:
        self._finish(running, slot=slot, reason=FinishReason.CANCELLED)
        self._free([slot])

  def step(self) -> list[TokenUpdate]:
    """Fill free slots, decode for a few ticks, return what was emitted."""
    self._insert_waiting()
    if not any(self._slots):
      return []
    self._state, chunk = decode_chunk(
      self._params,
      self._settings,
      self._state,
      jnp.int32(self._limits.ticks_per_step),
      plan=self._plan,
      capacity=CHUNK_CAPACITY,
    )
    emitted = EmittedTokens.fetch(chunk)
    live = np.asarray(self._state.live)
    failed = np.asarray(self._state.failed)
    updates, ended = [], []
    for slot, job in enumerate(self._slots):
      if job is None:
        continue
      update = job.progress.take(
        emitted[slot], is_live=bool(live[slot]), has_failed=bool(failed[slot])
      )
      updates.append(update)
      if job.progress.ended:
        self._finish(job, slot=slot)
        ended.append(slot)
      if job.on_update is not None:
        job.on_update(update)
    self._free(ended)
    return updates

  def result(self, request_id: int) -> GeneratedRow:
    """Return the result of a request that has ended; it is kept no longer.

    Raises:
      ArgumentError: it has not ended, or its result was returned before.
    """
    if request_id not in self._results:
      raise ArgumentError(f'request {request_id} has no result to return.')
    return self._results.pop(request_id)

  # MARK: Slots

  def _empty(self) -> tuple[cache_lib.BatchSettings, DecodeState]:
    """Return settings and state of slots that are all free."""
    count = self._limits.slots
    settings = cache_lib.BatchSettings(
      eos=jnp.array(self._eos, jnp.int32),
      thresholds=jnp.tile(jnp.asarray(self._thresholds)[None], (count, 1)),
      sampling=row_sampling(GREEDY, seeds=[0] * count),
    )
    segments = tuple(
      empty_segment(
        self._plan,
        segment,
        batch_size=count,
        size=self._size,
        dtype=self._params.dtype,
        kv_quantization=self._params.kv_quantization,
      )
      for segment in self._plan.segments
    )
    # Buffers of their own: the loop takes over every one of them.
    zeros = lambda: jnp.zeros((count,), jnp.int32)
    state = first_state(
      self._params,
      settings,
      segments,
      plan=self._plan,
      prompts=jnp.zeros((count, 0), jnp.int32),
      tokens=zeros(),
      live=jnp.zeros((count,), bool),
      remaining=zeros(),
    )
    return settings, state

  def _insert_waiting(self) -> None:
    for slot, job in enumerate(self._slots):
      if job is None and self._waiting:
        self._insert(self._waiting.popleft(), slot)

  def _insert(self, job: _Job, slot: int) -> None:
    padded = padded_prompts([job.prompt])
    request = Request(
      tokens=jnp.asarray(padded),
      length=jnp.array([len(job.prompt) - 1]),
      last=jnp.array(job.prompt[-1:], jnp.int32),
      remaining=jnp.array([job.limit]),
      thresholds=jnp.asarray(job.thresholds)[None],
      sampling=row_sampling(job.sampling, seeds=[job.sampling.seed]),
    )
    self._settings, self._state = insert(
      self._params,
      self._settings,
      self._state,
      request,
      jnp.int32(slot),
      plan=self._plan,
      size=self._size,
    )
    self._slots[slot] = job

  def _finish(
    self, job: _Job, *, slot: int | None, reason: FinishReason | None = None
  ) -> None:
    if reason is not None:
      job.progress.finish_reason = reason
    counts, row = self._state.counts, slot or 0
    if slot is None:
      counts = no_counts(batch_size=1, num_segments=len(self._plan.segments))
    accounting = row_accounting(
      counts, plan=self._plan, row=row, num_tokens=job.progress.num_emitted
    )
    self._results[job.request_id] = job.progress.result(job.prompt, accounting)

  def _free(self, slots: Sequence[int]) -> None:
    """Give slots back; rows that would have gone on are stopped."""
    if not slots:
      return
    for slot in slots:
      self._slots[slot] = None
    taken = np.array([job is not None for job in self._slots])
    live = jnp.asarray(np.asarray(self._state.live) & taken)
    self._state = dataclasses.replace(self._state, live=live)

  # MARK: Settings of a request

  def _checked_prompt(self, prompt: Sequence[int]) -> list[int]:
    model = dataclasses.replace(self._config.model, max_length=self._longest)
    return check_prompts([prompt], config=model)[0]

  def _checked_sampling(self, sampling: SamplingConfig) -> SamplingConfig:
    if self._plan.method is SamplingMethod.GREEDY and sampling.temperature:
      raise ArgumentError('this engine decodes greedily; use temperature 0.')
    return sampling

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
