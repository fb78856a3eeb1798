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
"""Counting work where it is done.

The decode loop counts, for every segment, how often it ran and for how many
tokens of each row; block counts follow from the segment's size. Exit rates are
no measure of speed: an exited token's deeper blocks are caught up later.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np

from eejax.decoding.loop.plan import DecodePlan
from eejax.types import Array, Bool, Int


@flax.struct.dataclass
class Counts:
  """Counts of a running loop; X segments.

  Attributes:
    segment_runs: how often each segment ran, however many tokens it took.
    head_runs: how often each segment's output matrix was read.
    passes: tokens of each row that each segment processed while the row lived.
    catch_up: those of `passes` whose token had been emitted before.
    head_calls: how often each row needed a segment's logits, a verified window
      once for each of its tokens.
    drafted: drafts of each row that were verified, by the segment whose exit
      proposed them; those looked up in the text stand at the last segment.
    accepted: those of `drafted` that were kept.
    accepted_at: verified windows of each row that kept their first, second
      and further drafts, from column 1 on; column 0 counts all that had any.
  """

  segment_runs: Int[Array, 'X']
  head_runs: Int[Array, 'X']
  passes: Int[Array, 'B X']
  catch_up: Int[Array, 'B X']
  head_calls: Int[Array, 'B X']
  drafted: Int[Array, 'B X']
  accepted: Int[Array, 'B X']
  accepted_at: Int[Array, 'B W']


# Fields of `Counts` with a line a row.
ROW_COUNTS = (
  *('passes', 'catch_up', 'head_calls', 'drafted', 'accepted'),
  'accepted_at',
)


def no_counts(*, batch_size: int, num_segments: int, window: int = 0) -> Counts:
  """Return counts at the start; `window` tokens are verified at once."""
  row = lambda: jnp.zeros((num_segments,), jnp.int32)
  table = lambda: jnp.zeros((batch_size, num_segments), jnp.int32)
  return Counts(
    segment_runs=row(),
    head_runs=row(),
    passes=table(),
    catch_up=table(),
    head_calls=table(),
    drafted=table(),
    accepted=table(),
    accepted_at=jnp.zeros((batch_size, window), jnp.int32),
  )


@flax.struct.dataclass
class SegmentEvent:
  """Event of one segment in one step.

  Attributes:
    ran: whether the segment ran.
    width: how many tokens of each row it took if it ran.
    active: rows that asked for it, their token not emitted yet.
    logits_computed: how often each row needed its head's logits.
  """

  ran: Bool[Array, '']
  width: Int[Array, 'B']
  active: Bool[Array, 'B']
  logits_computed: Int[Array, 'B']


def no_event(batch_size: int) -> SegmentEvent:
  """Return the event of a segment that did not run."""
  nobody = jnp.zeros((batch_size,), bool)
  nothing = jnp.zeros((batch_size,), jnp.int32)
  return SegmentEvent(jnp.zeros((), bool), nothing, nobody, nothing)


def count_step(counts: Counts, events: tuple[SegmentEvent, ...]) -> Counts:
  """Return `counts` after one more step.

  A window of n tokens counts n passes: n - 1 catch up, and so does the last
  one in a row that had emitted its token at an earlier exit and rides along.
  """
  ran = jnp.stack([e.ran for e in events])  # [X]
  width = jnp.stack([e.width for e in events], axis=1)  # [B, X]
  active = jnp.stack([e.active for e in events], axis=1)
  logits_computed = jnp.stack([e.logits_computed for e in events], axis=1)
  passes = jnp.where(ran[None], width, 0)
  return dataclasses.replace(
    counts,
    segment_runs=counts.segment_runs + ran,
    head_runs=counts.head_runs + jnp.any(logits_computed > 0, axis=0),
    passes=counts.passes + passes,
    catch_up=counts.catch_up + passes - (ran[None] & active),
    head_calls=counts.head_calls + logits_computed,
  )


@dataclasses.dataclass(frozen=True)
class Accounting:
  """Work of decoding one prompt or several.

  A block-pass is one block run for one token of one row. Prefill counts
  nowhere.

  Attributes:
    blocks_run: block-passes of the backbone's blocks; windows count each of
      their real tokens, rows that have finished count nothing.
    blocks_full: what full decoding would have run for the same tokens.
    catch_up_blocks: those of `blocks_run` spent on tokens emitted earlier.
    exit_blocks_run: passes of the own blocks of `block` exits.
    head_calls: full-vocabulary products that rows needed.
    drafted: tokens that were drafted and that the model verified.
    accepted: those of `drafted` that were kept.
    looked_up: those of `drafted` that came from the text, not from an exit.
    looked_up_accepted: those of `looked_up` that were kept.
    draft_windows: how often drafts were verified, however many at once.
    accepted_at: how often the first draft of those was kept, the second and
      so on.
  """

  blocks_run: int = 0
  blocks_full: int = 0
  catch_up_blocks: int = 0
  exit_blocks_run: int = 0
  head_calls: int = 0
  drafted: int = 0
  accepted: int = 0
  looked_up: int = 0
  looked_up_accepted: int = 0
  draft_windows: int = 0
  accepted_at: tuple[int, ...] = ()

  @property
  def acceptance(self) -> float | None:
    """Return the share of drafts that were kept; None without drafts."""
    return self.accepted / self.drafted if self.drafted else None

  @property
  def acceptance_length(self) -> float | None:
    """Return the tokens that a verification of drafts yields on average.

    Its kept drafts and the token of the whole model behind them; None without
    drafts. It follows vLLM's mean acceptance length.
    """
    if not self.draft_windows:
      return None
    return 1 + self.accepted / self.draft_windows

  def __add__(self, other: 'Accounting') -> 'Accounting':
    sums = {
      field.name: getattr(self, field.name) + getattr(other, field.name)
      for field in dataclasses.fields(self)
      if field.name != 'accepted_at'
    }
    accepted_at = _added(self.accepted_at, other.accepted_at)
    return Accounting(**sums, accepted_at=accepted_at)


@dataclasses.dataclass(frozen=True)
class BatchAccounting:
  """Work of a batch as the machine sees it.

  Attributes:
    block_reads: how often a block's weights were read; what time follows
      where memory bandwidth decides.
    head_reads: how often an output matrix was read.
    segment_runs: how often each segment of the plan ran, shallowest first.
    segment_head_reads: how often each segment's head was read, likewise; they
      sum to `head_reads`.
  """

  block_reads: int = 0
  head_reads: int = 0
  segment_runs: tuple[int, ...] = ()
  segment_head_reads: tuple[int, ...] = ()

  def __add__(self, other: 'BatchAccounting') -> 'BatchAccounting':
    return BatchAccounting(
      self.block_reads + other.block_reads,
      self.head_reads + other.head_reads,
      _added(self.segment_runs, other.segment_runs),
      _added(self.segment_head_reads, other.segment_head_reads),
    )


def _added(ours: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
  """Return sums by place; what has fewer of them counts 0 there."""
  pairs = itertools.zip_longest(ours, theirs, fillvalue=0)
  return tuple(a + b for a, b in pairs)


def row_accounting(
  counts: Counts, *, plan: DecodePlan, row: int, num_tokens: int
) -> Accounting:
  """Return the work done for one row that emitted `num_tokens` tokens."""
  return rows_accounting(counts, plan=plan, rows=[row], num_tokens=num_tokens)


def rows_accounting(
  counts: Counts, *, plan: DecodePlan, rows: Sequence[int], num_tokens: int
) -> Accounting:
  """Return the work done for rows that together emitted `num_tokens` tokens."""
  sizes = np.array([s.last - s.first for s in plan.segments])
  has_block = np.array([s.has_block_head for s in plan.segments])
  passes, catch_up, head_calls, drafted, accepted, accepted_at = (
    np.asarray(getattr(counts, name))[list(rows)].sum(axis=0)
    for name in ROW_COUNTS
  )
  return Accounting(
    blocks_run=int(passes @ sizes),
    blocks_full=num_tokens * plan.config.model.num_layers,
    catch_up_blocks=int(catch_up @ sizes),
    exit_blocks_run=int(passes @ has_block),
    head_calls=int(head_calls.sum()),
    drafted=int(drafted.sum()),
    accepted=int(accepted.sum()),
    looked_up=int(drafted[-1]),
    looked_up_accepted=int(accepted[-1]),
    draft_windows=int(accepted_at[:1].sum()),
    accepted_at=tuple(accepted_at[1:].tolist()),
  )


def drafts_by_source(
  counts: Counts, *, plan: DecodePlan, rows: Sequence[int]
) -> dict[str, tuple[int, int]]:
  """Return how many drafts of rows were verified and kept, by who drafted.

  Args:
    counts: of a loop that speculates.
    plan: what is decoded.
    rows: of which drafts are counted.

  Returns:
    Drafts verified and drafts kept, by `exit_<depth>` of the exit that
    proposed them and by `prompt_lookup`, where they are looked up.
  """
  drafted, accepted = (
    np.asarray(x)[list(rows)].sum(axis=0).tolist()
    for x in (counts.drafted, counts.accepted)
  )
  names = [f'exit_{s.last}' for s in plan.segments[:-1]]
  if plan.prompt_lookup is not None:
    names.append('prompt_lookup')
  return dict(zip(names, zip(drafted, accepted, strict=True), strict=False))


def batch_accounting(counts: Counts, *, plan: DecodePlan) -> BatchAccounting:
  """Return what the whole batch read."""
  sizes = np.array([s.num_caches for s in plan.segments])
  return BatchAccounting(
    block_reads=int(np.asarray(counts.segment_runs) @ sizes),
    head_reads=int(np.asarray(counts.head_runs).sum()),
    segment_runs=tuple(np.asarray(counts.segment_runs).tolist()),
    segment_head_reads=tuple(np.asarray(counts.head_runs).tolist()),
  )
