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
"""The slots of an engine: rows of one running batch, on the device.

Nothing here knows of queues or results; see `eejax.decoding.engine`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from eejax.decoding import window_costs
from eejax.decoding.admission import (
  REST_WIDTHS,
  Prefix,
  Request,
  insert,
  insert_bias,
  is_finite,
)
from eejax.decoding.generate import (
  CHUNK_CAPACITY,
  GREEDY,
  SMALLEST_PREFILL,
  padded_prompts,
)
from eejax.decoding.loop.accounting import Counts
from eejax.decoding.loop.cache import (
  BatchSettings,
  DecodeState,
  cache_size,
  empty_segments,
)
from eejax.decoding.loop.device_placement import place_state, replicate
from eejax.decoding.loop.plan import DecodePlan, bucket
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.programs import decode_chunk, first_state
from eejax.decoding.policy.batching import PlatformCosts
from eejax.decoding.prefix_reuse import Placement
from eejax.decoding.results import EmittedTokens
from eejax.ops.sampling import (
  RowBias,
  SamplingConfig,
  end_table,
  no_row_bias,
  row_bias,
  row_sampling,
)

Tree = TypeVar('Tree')


@dataclasses.dataclass(frozen=True)
class SlotRequest:
  """What is to be decoded in a slot.

  Attributes:
    prompt: token ids, one at least.
    limit: tokens to emit at most.
    thresholds: of the plan's exits; infinity is never.
    sampling: how tokens are chosen.
    end_ids: tokens that end it.
    wants_top: whether the likeliest tokens are wanted beside each one.
  """

  prompt: Sequence[int]
  limit: int
  thresholds: np.ndarray
  sampling: SamplingConfig = GREEDY
  end_ids: tuple[int, ...] = ()
  wants_top: bool = False


class DecodeSlots:
  """A batch whose rows start and stop one by one.

  Invariant: the state's `live` is true for no row that was freed.
  """

  def __init__(
    self,
    params: Prepared,
    *,
    plan: DecodePlan,
    count: int,
    longest: int,
    num_end_ids: int,
    platform: PlatformCosts,
  ):
    """Make slots that are all free.

    Args:
      params: the model, ready for the plan.
      plan: what is decoded.
      count: how many slots.
      longest: tokens of the longest text, its prompt included.
      num_end_ids: end tokens that a request may have.
      platform: what tokens are said to cost.
    """
    self._params, self._plan = params, plan
    self._num_end_ids = num_end_ids
    widest = bucket(longest, smallest=SMALLEST_PREFILL)
    self._size = cache_size(plan, longest=widest)
    self._window_costs = window_costs.stated(platform, plan=plan, rows=count)
    self._settings, self._state = self._empty(count)
    self._bias: RowBias | None = None
    self._biased: set[int] = set()

  @property
  def counts(self) -> Counts:
    """Return the work done for each slot's newest request."""
    return self._state.counts

  @property
  def live(self) -> np.ndarray:
    """Return which slots go on."""
    return np.asarray(self._state.live)

  @property
  def failed(self) -> np.ndarray:
    """Return which slots ended because their logits were not finite."""
    return np.asarray(self._state.failed)

  def run(self, *, ticks: int) -> tuple[EmittedTokens, ...]:
    """Decode for some ticks; return what each slot emitted."""
    self._state, chunk = decode_chunk(
      self._params,
      dataclasses.replace(self._settings, bias=self._bias),
      self._state,
      np.int32(ticks),
      plan=self._plan,
      capacity=CHUNK_CAPACITY,
    )
    return EmittedTokens.fetch(chunk)

  @property
  def complete(self) -> list[int]:
    """Return how many tokens of each slot's text every block has run over."""
    return np.asarray(self._state.segments[-1].cache_length).tolist()

  @property
  def rest_widths(self) -> tuple[int, ...]:
    """Return the widths of windows in which the rest of a prompt is run."""
    return tuple(w for w in REST_WIDTHS if w <= self._size)

  def can_reuse(self, placement: Placement) -> bool:
    """Return whether the keys and values that it starts from are finite."""
    prefix = self._everywhere(_prefix(placement))
    return bool(is_finite(self._state.segments, prefix))

  def measure_costs(self) -> None:
    """Put what windows cost here in place of what they are said to."""
    if not window_costs.follows_costs(self._plan):
      return
    self._window_costs = window_costs.measure(
      self._params,
      self._settings,
      plan=self._plan,
      size=self._size,
      capacity=CHUNK_CAPACITY,
    )
    count = self._state.live.shape[0]
    self._settings = dataclasses.replace(
      self._settings,
      window_costs=self._everywhere(
        window_costs.for_rows(self._window_costs, count)
      ),
    )

  def insert(self, request: SlotRequest, placement: Placement) -> None:
    """Start a request in a slot that is free."""
    settings = self._settings_of(request)
    slot, num_before = placement.slot, len(request.prompt) - 1
    padded, prefix, rest_width = padded_prompts([request.prompt]), None, 0
    if placement.source is not None:
      prefix = _prefix(placement)
      padded = np.zeros((1, self._size), np.int32)
      padded[0, :num_before] = request.prompt[:-1]
      rest = num_before - placement.reused
      rest_width = next(
        (w for w in self.rest_widths if w >= rest), self.rest_widths[-1]
      )
    one = Request(
      tokens=jnp.asarray(padded),
      length=jnp.array([num_before]),
      last=jnp.array(request.prompt[-1:], jnp.int32),
      remaining=jnp.array([request.limit]),
      settings=settings,
      prefix=prefix,
    )
    self._settings, self._state = insert(
      self._params,
      self._settings,
      self._state,
      self._everywhere(one),
      np.int32(slot),
      plan=self._plan,
      size=self._size,
      rest_width=rest_width,
    )
    self._insert_bias(request, slot, settings.end_ids)

  def free(self, slots: Iterable[int]) -> None:
    """Give slots back; rows that would have gone on are stopped."""
    live = self.live.copy()
    live[list(slots)] = False
    going = self._everywhere(jnp.asarray(live))
    self._state = dataclasses.replace(self._state, live=going)
    self._biased -= set(slots)
    if not self._biased:
      self._bias = None

  def _empty(self, count: int) -> tuple[BatchSettings, DecodeState]:
    never = np.full((count, self._plan.num_exits), np.inf, np.float32)
    settings = BatchSettings(
      end_ids=end_table([()] * count, width=self._num_end_ids),
      thresholds=jnp.asarray(never),
      sampling=row_sampling(GREEDY, seeds=[0] * count),
      wants_top=self._wants_top([False] * count),
      window_costs=window_costs.for_rows(self._window_costs, count),
    )
    segments = empty_segments(
      self._plan,
      batch_size=count,
      size=self._size,
      dtype=self._params.dtype,
      kv_quantization=self._params.kv_quantization,
    )
    zeros = jnp.zeros((count,), jnp.int32)
    state = first_state(
      self._params,
      settings,
      segments,
      plan=self._plan,
      size=self._size,
      prompts=jnp.zeros((count, 0), jnp.int32),
      tokens=zeros,
      live=jnp.zeros((count,), bool),
      remaining=zeros,
    )
    return self._everywhere(settings), place_state(
      state, mesh=self._params.mesh
    )

  def _settings_of(self, request: SlotRequest) -> BatchSettings:
    return BatchSettings(
      end_ids=end_table([request.end_ids], width=self._num_end_ids),
      thresholds=jnp.asarray(request.thresholds)[None],
      sampling=row_sampling(request.sampling, seeds=[request.sampling.seed]),
      wants_top=self._wants_top([request.wants_top]),
      window_costs=window_costs.for_rows(self._window_costs, 1),
    )

  def _wants_top(self, rows: Sequence[bool]) -> jax.Array | None:
    return jnp.array(rows) if self._plan.top_logprobs else None

  def _insert_bias(
    self, request: SlotRequest, slot: int, end_ids: jax.Array
  ) -> None:
    """Give a slot what its request adds to logits, if any request does."""
    if request.sampling.changes_logits:
      self._biased.add(slot)
    if not self._biased:
      return
    vocab_size = self._plan.config.model.vocab_size
    if self._bias is None:
      count = self._state.live.shape[0]
      bias = no_row_bias(
        end_ids=end_table([()] * count, width=self._num_end_ids),
        vocab_size=vocab_size,
      )
      self._bias = self._everywhere(bias)
    new = row_bias(
      request.sampling,
      end_ids=end_ids,
      starts=[len(request.prompt)],
      vocab_size=vocab_size,
    )
    if new is None:
      new = no_row_bias(end_ids=end_ids, vocab_size=vocab_size)
    self._bias = insert_bias(self._bias, self._everywhere(new), np.int32(slot))

  def _everywhere(self, tree: Tree) -> Tree:
    return replicate(tree, mesh=self._params.mesh)


def _prefix(placement: Placement) -> Prefix:
  assert placement.source is not None
  return Prefix(jnp.int32(placement.source), jnp.int32(placement.reused))
