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
"""Time ways to decode against full decoding, in turns, on the same prompts.

Every setting is timed in turns with full decoding of the same batch, so that a
machine whose speed drifts favours neither, and a setting can be measured on
its own: a run that was stopped goes on where it was. Texts are generated
freely, all of one length, and times are of decoding without prefill.
"""

import dataclasses
import functools
import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from eejax.config import EarlyExitConfig
from eejax.decoding.generate import generate
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import (
  KVStrategy,
  Mode,
  Policy,
  Threshold,
  to_json,
)
from eejax.decoding.results import GenerateResult
from eejax.errors import ArgumentError
from eejax.evaluation.lossless import first_difference
from eejax.evaluation.wall_clock import Ratio, interleaved, speed_ratio
from eejax.types import DTypeLike, Params


@runtime_checkable
class Predict(Protocol):
  """Return the seconds, or any other unit, of the work that was counted."""

  def __call__(
    self,
    work: Accounting,
    batch: BatchAccounting,
    *,
    policy: Policy,
    tokens: int,
    rows: int,
  ) -> float:
    """Return them for so many tokens of so many rows, under a policy."""
    ...


# What cannot be combined with speculation is left out of a grid.
_SPECULATIVE_BATCHINGS = (Batching.RIDE_ALONG, Batching.DEPTH_QUEUE)


@dataclasses.dataclass(frozen=True)
class Strategy:
  """Say how a batch is decoded.

  Attributes:
    policy: when exits are used.
    batch_size: rows decoded together.
  """

  policy: Policy
  batch_size: int

  def values(self) -> dict[str, Any]:
    """Return it as plain values, by which a measurement is found again."""
    policy = to_json(self.policy)
    del policy['backbone_hash']
    return {**policy, 'batch_size': self.batch_size}


@dataclasses.dataclass(frozen=True)
class Grid:
  """Say which settings are measured: all combinations that make sense.

  Attributes:
    criteria: scores.
    thresholds: of early exit, each for all exits.
    draft_thresholds: of speculation, each for all exits.
    kv_strategies: of early exit.
    batchings: where there is more than one row.
    batch_sizes: rows decoded together.
    draft_lookups: of speculation, see `Policy.draft_lookup`.
    modes: besides full decoding, which is always measured.
    window: of the decoder.
  """

  criteria: tuple[str, ...]
  thresholds: tuple[Threshold, ...] = (0.5, 0.8, 0.95)
  draft_thresholds: tuple[Threshold, ...] = (0.4,)
  kv_strategies: tuple[KVStrategy, ...] = (KVStrategy.DEFERRED,)
  batchings: tuple[Batching, ...] = (Batching.RIDE_ALONG,)
  batch_sizes: tuple[int, ...] = (1, 4)
  draft_lookups: tuple[int | None, ...] = (None,)
  modes: tuple[Mode, ...] = (Mode.EARLY_EXIT, Mode.SPECULATIVE)
  window: int = 8

  def settings(self) -> tuple[Strategy, ...]:
    """Return the settings, full decoding first for each batch size.

    Raises:
      ArgumentError: a value cannot be used, or values not with one another.
    """
    found = []
    for size in self.batch_sizes:
      found.append(Strategy(Policy(), size))
      # Alone, a row waits for nobody.
      batchings = self.batchings if size > 1 else self.batchings[:1]
      for mode in self.modes:
        found += [
          Strategy(policy, size) for policy in self._policies(mode, batchings)
        ]
    return tuple(dict.fromkeys(found))

  def _policies(
    self, mode: Mode, batchings: tuple[Batching, ...]
  ) -> list[Policy]:
    if mode is Mode.FULL:
      return []
    strategies, thresholds = self.kv_strategies, self.thresholds
    lookups: tuple[int | None, ...] = (None,)
    if mode is Mode.SPECULATIVE:
      strategies, thresholds = (KVStrategy.DEFERRED,), self.draft_thresholds
      lookups = self.draft_lookups
      batchings = tuple(b for b in batchings if b in _SPECULATIVE_BATCHINGS)
    return [
      Policy(
        mode,
        criterion,
        (threshold,),
        window=self.window,
        kv_strategy=strategy,
        batching=batching,
        draft_lookup=lookup,
      )
      for criterion, strategy, batching, lookup, threshold in itertools.product(
        self.criteria, strategies, batchings, lookups, thresholds
      )
    ]


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
  """Hold what was measured of a setting; per token is per emitted token.

  Attributes:
    setting: as `Strategy.values` returns it.
    tokens_per_s: of all rows, by the median time of each batch.
    tokens_per_s_with_prefill: the same, prompts included.
    full_tokens_per_s: of full decoding, in turns with it.
    speedup: over full decoding; its range is that of the batches.
    predicted_speedup: by a cost model, of the work that was counted.
    same_place: share of places with full decoding's token. After a different
      token texts go their own ways, so it falls with their length.
    same_start: share of the text before its first difference.
    blocks_per_token: block-passes.
    catch_up_per_token: those of them for tokens emitted before.
    head_calls_per_token: products with an output matrix.
    acceptance: share of verified drafts that were kept; None without drafts.
    mean_depth: blocks a token had gone through when it was emitted.
    tokens: tokens emitted in one round.
    load: of the machine, over the last minute.
  """

  setting: dict[str, Any]
  tokens_per_s: float
  tokens_per_s_with_prefill: float
  full_tokens_per_s: float
  speedup: Ratio
  predicted_speedup: float
  same_place: float
  same_start: float
  blocks_per_token: float
  catch_up_per_token: float
  head_calls_per_token: float
  acceptance: float | None
  mean_depth: float
  tokens: int
  load: float


@dataclasses.dataclass
class _Run:
  """Gather what one way to decode did; a list holds one entry a batch."""

  seconds: list[list[float]] = dataclasses.field(default_factory=list)
  with_prefill: list[float] = dataclasses.field(default_factory=list)
  last: list[GenerateResult] = dataclasses.field(default_factory=list)

  @property
  def tokens(self) -> int:
    return sum(len(row.tokens) for r in self.last for row in r.rows)

  @property
  def accounting(self) -> Accounting:
    return sum((r.accounting for r in self.last), start=Accounting())

  @property
  def reads(self) -> BatchAccounting:
    return sum((r.batch for r in self.last), start=BatchAccounting())

  def tokens_per_s(self) -> float:
    return self.tokens / sum(map(statistics.median, self.seconds))


class Bench:
  """Measure settings, one at a time."""

  def __init__(
    self,
    params: Params,
    *,
    config: EarlyExitConfig,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    repeats: int,
    dtype: DTypeLike,
    predict: Predict,
  ):
    """Prepare the model.

    Args:
      params: the model.
      config: with its exits.
      prompts: token ids; batches that they do not fill begin anew with them.
      max_new_tokens: generated for each row.
      repeats: rounds that are timed.
      dtype: compute type.
      predict: what counted work should take.

    Raises:
      ArgumentError: there is nothing to measure.
    """
    if repeats < 1 or not prompts:
      raise ArgumentError('there must be a prompt and a round at least.')
    self._config, self._prompts = config, prompts
    self._max_new_tokens, self._repeats = max_new_tokens, repeats
    self._predict = predict
    self.prepared: Prepared = prepare(params, config=config, dtype=dtype)

  def num_runs(self, setting: Strategy) -> int:
    """Return how many batches are decoded to measure a setting."""
    return 2 * (self._repeats + 1) * len(self._batches(setting.batch_size))

  def measure(
    self, setting: Strategy, *, on_run: Callable[[], None] = lambda: None
  ) -> BenchmarkRow:
    """Return what is measured of a setting.

    Args:
      setting: how batches are decoded.
      on_run: called after every batch.
    """
    full, ours = _Run(), _Run()
    contestants = {'full': (full, Policy()), 'ours': (ours, setting.policy)}
    for prompts in self._batches(setting.batch_size):
      for one, _ in contestants.values():
        one.seconds.append([])
      results: dict[str, list[GenerateResult]] = {n: [] for n in contestants}
      interleaved(
        {
          name: functools.partial(
            self._time, prompts, policy, results[name], on_run
          )
          for name, (_, policy) in contestants.items()
        },
        repeats=self._repeats,
      )
      for name, (one, _) in contestants.items():
        # The first one warmed up.
        timed = [r.timing for r in results[name][1:]]
        one.seconds[-1] = [t.decode_s for t in timed]
        whole = [t.decode_s + t.prefill_s for t in timed]
        one.with_prefill.append(statistics.median(whole))
        one.last.append(results[name][-1])
    return self._line(setting, full, ours)

  def _time(
    self,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    results: list[GenerateResult],
    on_run: Callable[[], None],
  ) -> float:
    result = generate(
      self.prepared,
      config=self._config,
      prompts=prompts,
      policy=policy,
      max_new_tokens=self._max_new_tokens,
      # Texts have to be of one length to be compared.
      eos_ids=(),
    )
    results.append(result)
    on_run()
    return result.timing.decode_s

  def _batches(self, size: int) -> list[list[Sequence[int]]]:
    count = len(self._prompts)
    return [
      [self._prompts[row % count] for row in range(first, first + size)]
      for first in range(0, count, size)
    ]

  def _line(self, setting: Strategy, full: _Run, ours: _Run) -> BenchmarkRow:
    tokens = max(ours.tokens, 1)
    work = ours.accounting
    depths = [d for r in ours.last for row in r.rows for d in row.exit_depths]
    starts, places = _agreement(full.last, ours.last)
    cost = lambda one, policy: (
      self._predict(
        one.accounting,
        one.reads,
        policy=policy,
        tokens=one.tokens,
        rows=setting.batch_size,
      )
      / max(one.tokens, 1)
    )
    return BenchmarkRow(
      setting=setting.values(),
      tokens_per_s=ours.tokens_per_s(),
      tokens_per_s_with_prefill=tokens / sum(ours.with_prefill),
      full_tokens_per_s=full.tokens_per_s(),
      speedup=speed_ratio(ours.seconds, full.seconds),
      predicted_speedup=cost(full, Policy()) / cost(ours, setting.policy),
      same_place=places,
      same_start=starts,
      blocks_per_token=work.blocks_run / tokens,
      catch_up_per_token=work.catch_up_blocks / tokens,
      head_calls_per_token=work.head_calls / tokens,
      acceptance=work.acceptance,
      mean_depth=sum(depths) / max(len(depths), 1),
      tokens=ours.tokens,
      load=os.getloadavg()[0],
    )


def _agreement(
  full: Sequence[GenerateResult], ours: Sequence[GenerateResult]
) -> tuple[float, float]:
  """Return shares of full decoding's tokens: before a difference, in place."""
  starts = places = total = 0
  for theirs, mine in zip(full, ours, strict=True):
    for a, b in zip(theirs.rows, mine.rows, strict=True):
      length = len(a.tokens)
      place = first_difference(a.tokens, b.tokens)
      starts += length if place is None else min(place, length)
      places += sum(x == y for x, y in zip(a.tokens, b.tokens, strict=False))
      total += length
  return starts / max(total, 1), places / max(total, 1)
