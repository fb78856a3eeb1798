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
"""What an engine has done so far, as numbers to be shown."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from eejax.decoding.loop.accounting import (
  Accounting,
  Counts,
  drafts_by_source,
  rows_accounting,
)
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.policy.policy import Mode
from eejax.decoding.results import FinishReason, GeneratedRow, TokenUpdate


@dataclasses.dataclass(frozen=True)
class DrafterStats:
  """Drafts of one source.

  Attributes:
    name: `exit_<depth>`, or `prompt_lookup` for those found in the text.
    drafted: drafts that the whole model verified.
    accepted: those of them that were kept.
  """

  name: str
  drafted: int
  accepted: int


@dataclasses.dataclass(frozen=True)
class EngineStats:
  """State of an engine, and its work since it was made.

  Work counts requests that run and those that have ended, prefill nowhere; see
  `eejax.decoding.loop.accounting.Accounting`.

  Attributes:
    running: requests in a slot.
    waiting: requests that wait for one.
    slots: how many there are.
    kv_usage: share of all slots' tokens that running texts have filled.
    ended: requests that have ended, by why.
    prompt_tokens: tokens of prompts that were given a slot.
    reused_tokens: those of `prompt_tokens` whose keys and values were there.
    tokens: tokens emitted and kept.
    exit_depths: those of `tokens` by the depth they were emitted at.
    work: blocks run, blocks of full decoding, head calls, drafts.
    drafters: drafts by who proposed them; none where nothing is drafted.
  """

  running: int
  waiting: int
  slots: int
  kv_usage: float
  ended: Mapping[FinishReason, int]
  prompt_tokens: int
  reused_tokens: int
  tokens: int
  exit_depths: Mapping[int, int]
  work: Accounting
  drafters: tuple[DrafterStats, ...]


class EngineTotals:
  """Sums over the requests of an engine.

  The loop counts a request's work in its slot, anew for each request; what
  was counted is added up when a request ends.
  """

  def __init__(self, plan: DecodePlan):
    self._plan = plan
    self._ended: collections.Counter[FinishReason] = collections.Counter()
    self._depths: collections.Counter[int] = collections.Counter()
    self._drafts: dict[str, tuple[int, int]] = {}
    self._work = Accounting()
    self._prompt_tokens = self._reused_tokens = 0

  def add_prompt(self, num_tokens: int, *, reused: int) -> None:
    """Count a prompt that was given a slot."""
    self._prompt_tokens += num_tokens
    self._reused_tokens += reused

  def add_tokens(self, update: TokenUpdate) -> None:
    """Count what a request emitted."""
    self._depths.update(update.exit_depths)

  def add_ended(
    self, row: GeneratedRow, counts: Counts, slot: int | None
  ) -> None:
    """Count a request that has ended; `slot` is where it ran, if it did."""
    self._ended[row.finish_reason] += 1
    self._work += row.accounting
    if slot is not None:
      self._drafts = self._with_drafts(counts, [slot])

  def stats(
    self,
    counts: Counts,
    *,
    emitted: Mapping[int, int],
    waiting: int,
    slots: int,
    kv_usage: float,
  ) -> EngineStats:
    """Return everything, the requests that run included.

    Args:
      counts: of the loop.
      emitted: tokens emitted so far, by the slot of each request that runs.
      waiting: requests that wait.
      slots: how many there are.
      kv_usage: see `EngineStats`.
    """
    rows = list(emitted)
    running = rows_accounting(
      counts, plan=self._plan, rows=rows, num_tokens=sum(emitted.values())
    )
    return EngineStats(
      running=len(rows),
      waiting=waiting,
      slots=slots,
      kv_usage=kv_usage,
      ended=dict(self._ended),
      prompt_tokens=self._prompt_tokens,
      reused_tokens=self._reused_tokens,
      tokens=self._depths.total(),
      exit_depths=dict(sorted(self._depths.items())),
      work=self._work + running,
      drafters=tuple(
        DrafterStats(name, drafted, accepted)
        for name, (drafted, accepted) in self._with_drafts(counts, rows).items()
      ),
    )

  def _with_drafts(
    self, counts: Counts, rows: Sequence[int]
  ) -> dict[str, tuple[int, int]]:
    """Return drafts so far with those of rows that have not been added."""
    if self._plan.mode is not Mode.SPECULATIVE:
      return {}
    sums = {}
    here = drafts_by_source(counts, plan=self._plan, rows=rows)
    for name, (drafted, accepted) in here.items():
      before = self._drafts.get(name, (0, 0))
      sums[name] = (before[0] + drafted, before[1] + accepted)
    return sums
