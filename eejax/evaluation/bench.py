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
"""Time strategies of decoding against full decoding on the same prompts.

Strategies of one batch size are timed in turns with full decoding of the same
batch, so that a machine whose speed drifts favours none of them. Full decoding
among them is timed against itself, which shows what noise does. Texts are
generated freely, all of one length, and times are of decoding without prefill.
"""

import dataclasses
import functools
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import DecodeResult, GeneratedRow
from eejax.errors import ArgumentError
from eejax.evaluation.lossless import first_difference
from eejax.evaluation.strategies import Strategy
from eejax.evaluation.wall_clock import (
  Clock,
  Ratio,
  interleaved,
  speed_ratio,
  wall_clock,
)
from eejax.types import DTypeLike, Params


@runtime_checkable
class Predict(Protocol):
  """Predict the seconds, or any other unit, of the work that was counted."""

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


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
  """What was measured of a strategy; per token is per emitted token.

  Attributes:
    setting: the strategy, as `Strategy.values` returns it.
    tokens_per_s: of all rows, by the median time of each batch.
    tokens_per_s_with_prefill: the same, prompts included.
    full_tokens_per_s: of full decoding, in turns with it.
    speedup: over full decoding; its range is that of the batches. Of full
      decoding it is the noise: how much faster than itself it seems.
    predicted_speedup: by a cost model, of the work that was counted.
    same_place: share of places with full decoding's token. After a different
      token texts go their own ways, so it falls with their length.
    same_start: share of the text before its first difference.
    texts: rows that were decoded.
    same_texts: rows whose text is full decoding's.
    blocks_per_token: block-passes.
    catch_up_per_token: those of them for tokens emitted before.
    head_calls_per_token: products with an output matrix.
    drafted: drafts that were verified.
    accepted: drafts that were kept.
    looked_up: drafts that came from the text so far.
    acceptance: share of verified drafts that were kept; None without drafts.
    mean_depth: blocks a token had gone through when it was emitted.
    exit_shares: share of tokens emitted at each exit and, last, at full depth.
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
  texts: int = 0
  same_texts: int = 0
  drafted: int = 0
  accepted: int = 0
  looked_up: int = 0
  exit_shares: tuple[float, ...] = ()

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> 'BenchmarkRow':
    """Rebuild a row that was written as plain values."""
    fields = dict(values)
    fields['speedup'] = Ratio(**fields['speedup'])
    fields['exit_shares'] = tuple(fields.get('exit_shares', ()))
    return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Measurement:
  """A row of the benchmark with the texts it stands for.

  Attributes:
    row: what was measured.
    generated: the continuations of the last round, batch after batch.
  """

  row: BenchmarkRow
  generated: tuple[GeneratedRow, ...]


@dataclasses.dataclass
class _StrategyRun:
  """What one strategy did; a list holds one entry a batch."""

  policy: Policy
  seconds: list[list[float]] = dataclasses.field(default_factory=list)
  with_prefill: list[float] = dataclasses.field(default_factory=list)
  last: list[DecodeResult] = dataclasses.field(default_factory=list)

  @property
  def rows(self) -> tuple[GeneratedRow, ...]:
    return tuple(row for result in self.last for row in result.rows)

  @property
  def tokens(self) -> int:
    return sum(len(row.tokens) for row in self.rows)

  @property
  def accounting(self) -> Accounting:
    return sum((r.accounting for r in self.last), start=Accounting())

  @property
  def reads(self) -> BatchAccounting:
    return sum((r.batch for r in self.last), start=BatchAccounting())

  def tokens_per_s(self) -> float:
    return self.tokens / sum(map(statistics.median, self.seconds))

  def add(self, results: Sequence[DecodeResult], clock: Clock) -> None:
    """Take the rounds of one batch, of which the first warmed up."""
    timed = [clock(result) for result in results[1:]]
    self.seconds.append([t.decode_s for t in timed])
    whole = [t.decode_s + t.prefill_s for t in timed]
    self.with_prefill.append(statistics.median(whole))
    self.last.append(results[-1])


class Bench:
  """A prepared model and prompts on which strategies are measured."""

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
    clock: Clock = wall_clock,
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
      clock: what a decoding took.

    Raises:
      ArgumentError: there is nothing to measure.
    """
    if repeats < 1 or not prompts:
      raise ArgumentError('there must be a prompt and a round at least.')
    self._config, self._prompts = config, prompts
    self._max_new_tokens, self._repeats = max_new_tokens, repeats
    self._predict, self._clock = predict, clock
    self.prepared: Prepared = prepare(params, config=config, dtype=dtype)

  def num_runs(self, strategies: Sequence[Strategy]) -> int:
    """Return how many batches are decoded to measure strategies together."""
    batches = len(self._batches(_shared_batch_size(strategies)))
    return (len(strategies) + 1) * (self._repeats + 1) * batches

  def measure(
    self,
    strategies: Sequence[Strategy],
    *,
    on_run: Callable[[], None] = lambda: None,
  ) -> tuple[Measurement, ...]:
    """Return what is measured of strategies that take turns.

    Args:
      strategies: of one batch size; full decoding, against which each is
        timed, need not be among them.
      on_run: called after every batch.

    Raises:
      ArgumentError: there is none, or batch sizes differ.
    """
    size = _shared_batch_size(strategies)
    runs = [
      _StrategyRun(Policy()),
      *(_StrategyRun(s.policy) for s in strategies),
    ]
    for prompts in self._batches(size):
      results: list[list[DecodeResult]] = [[] for _ in runs]
      interleaved(
        {
          str(number): functools.partial(
            self._time, prompts, run.policy, results[number], on_run
          )
          for number, run in enumerate(runs)
        },
        repeats=self._repeats,
      )
      for run, batches in zip(runs, results, strict=True):
        run.add(batches, self._clock)
    full, *others = runs
    return tuple(
      Measurement(self._row(strategy, full, run), run.rows)
      for strategy, run in zip(strategies, others, strict=True)
    )

  def _time(
    self,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    results: list[DecodeResult],
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
    return self._clock(result).decode_s

  def _batches(self, size: int) -> list[list[Sequence[int]]]:
    count = len(self._prompts)
    return [
      [self._prompts[row % count] for row in range(first, first + size)]
      for first in range(0, count, size)
    ]

  def _row(
    self, strategy: Strategy, full: _StrategyRun, ours: _StrategyRun
  ) -> BenchmarkRow:
    tokens = max(ours.tokens, 1)
    work = ours.accounting
    depths = [d for row in ours.rows for d in row.exit_depths]
    levels = (*self._config.exit_depths, self._config.model.num_layers)
    starts, places = _agreement(full.rows, ours.rows)
    cost = lambda run: (
      self._predict(
        run.accounting,
        run.reads,
        policy=run.policy,
        tokens=run.tokens,
        rows=strategy.batch_size,
      )
      / max(run.tokens, 1)
    )
    pairs = zip(full.rows, ours.rows, strict=True)
    return BenchmarkRow(
      setting=strategy.values(),
      tokens_per_s=ours.tokens_per_s(),
      tokens_per_s_with_prefill=tokens / sum(ours.with_prefill),
      full_tokens_per_s=full.tokens_per_s(),
      speedup=speed_ratio(ours.seconds, full.seconds),
      predicted_speedup=cost(full) / cost(ours),
      same_place=places,
      same_start=starts,
      blocks_per_token=work.blocks_run / tokens,
      catch_up_per_token=work.catch_up_blocks / tokens,
      head_calls_per_token=work.head_calls / tokens,
      acceptance=work.acceptance,
      mean_depth=sum(depths) / max(len(depths), 1),
      tokens=ours.tokens,
      load=os.getloadavg()[0],
      texts=len(ours.rows),
      same_texts=sum(a.tokens == b.tokens for a, b in pairs),
      drafted=work.drafted,
      accepted=work.accepted,
      looked_up=work.looked_up,
      exit_shares=tuple(depths.count(d) / tokens for d in levels),
    )


def continuations(rows: Sequence[GeneratedRow]) -> Batch:
  """Return prompts and what followed them as a text that can be scored.

  Scores along full decoding's own continuations, from the last token of each
  prompt on (`ExitScores.after`), tell what exits would have done there.

  Args:
    rows: all of one length, prompts and continuations together.

  Raises:
    ArgumentError: there are none, or lengths differ.
  """
  texts = [[*row.prompt_tokens, *row.tokens] for row in rows]
  if len({len(text) for text in texts}) != 1:
    raise ArgumentError('continuations are scored together if equally long.')
  ids = np.array(texts, np.int32)
  shape = ids[:, :-1].shape
  return Batch(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    weights=np.ones(shape, np.float32),
    positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    segment_ids=np.ones(shape, np.int32),
  )


def _shared_batch_size(strategies: Sequence[Strategy]) -> int:
  sizes = {strategy.batch_size for strategy in strategies}
  if len(sizes) != 1:
    raise ArgumentError(
      'strategies that take turns need one batch size, and there are '
      f'{sorted(sizes) or "no strategies"}.'
    )
  return sizes.pop()


def _agreement(
  full: Sequence[GeneratedRow], ours: Sequence[GeneratedRow]
) -> tuple[float, float]:
  """Return shares of full decoding's tokens: before a difference, in place."""
  starts = places = total = 0
  for a, b in zip(full, ours, strict=True):
    length = len(a.tokens)
    place = first_difference(a.tokens, b.tokens)
    starts += length if place is None else min(place, length)
    places += sum(x == y for x, y in zip(a.tokens, b.tokens, strict=False))
    total += length
  return starts / max(total, 1), places / max(total, 1)
