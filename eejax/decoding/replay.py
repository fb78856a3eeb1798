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
"""Replay decoding on logged scores: what would it have done, at what work?

Given the score of every exit at every token of a text, this walks through the
text as `eejax.decoding.loop.step` walks through a generation of one row, for
many settings of the thresholds at once, in NumPy. Keys and values are exact in
deferred catch-up, so scores logged in one full pass are those that decoding
would have seen along the same tokens, and the replay is no approximation.
"""

import dataclasses

import numpy as np

from eejax.decoding.loop.plan import window_widths
from eejax.decoding.policy.policy import KVStrategy, Policy
from eejax.errors import ArgumentError
from eejax.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class DecodeWork:
  """Count what decoding some text took; X segments, the last ends the model.

  Attributes:
    tokens: tokens emitted.
    segment_runs: how often each segment ran, by the compiled width of its
      window.
    widths: these widths, rising; the first is one token.
    checks: how often each exit was asked whether to stop, the last segment
      never.
    taken: how often a token was emitted at each segment.
  """

  tokens: int
  segment_runs: Int[np.ndarray, 'X widths']
  widths: tuple[int, ...]
  checks: Int[np.ndarray, 'X']
  taken: Int[np.ndarray, 'X']


@dataclasses.dataclass(frozen=True)
class Replay:
  """Work and exits of decoding with each setting, replayed.

  Attributes:
    taken: segment at which each token was emitted, E at full depth; -1 where
      no token counts.
    work: of each setting.
  """

  taken: Int[np.ndarray, 'settings rows T']
  work: tuple[DecodeWork, ...]


def full_work(num_tokens: int, *, num_exits: int) -> DecodeWork:
  """Return the work of full decoding, in the segments of a model with exits."""
  segments = num_exits + 1
  runs = np.full((segments, 1), num_tokens)
  taken = np.zeros(segments, int)
  taken[-1] = num_tokens
  return DecodeWork(num_tokens, runs, (1,), np.zeros(segments, int), taken)


def check_replayable(policy: Policy) -> None:
  """Check that exits follow from scores and constant thresholds alone.

  Raises:
    ArgumentError: they do not, under this policy.
  """
  wanted = {
    'kv strategy': (policy.kv_strategy.value, KVStrategy.DEFERRED.value),
    'threshold rule': (policy.threshold_rule, 'constant'),
    'scored vocabulary': (policy.scored_vocabulary, 'whole'),
  }
  for name, (given, known) in wanted.items():
    if given != known:
      raise ArgumentError(
        f'exit depths along a text are known for the {name} {known} alone, '
        f'not for {given}.'
      )


def replay(
  scores: Float[np.ndarray, 'E rows T'],
  *,
  counted: Bool[np.ndarray, 'rows T'],
  thresholds: Float[np.ndarray, 'settings E'],
  window: int,
) -> Replay:
  """Walk through rows of text with each setting of the thresholds.

  Args:
    scores: of each exit at each token.
    counted: tokens that are there; they stand at the start of their row.
    thresholds: one an exit, see `threshold_values` of
      `eejax.decoding.policy.threshold_values`; infinity is never, 0 ends the
      model.
    window: every `window`-th token at the latest goes to the end.

  Raises:
    ArgumentError: `window` is not positive.
  """
  if window < 1:
    raise ArgumentError(f'window must be at least 1, not {window}.')
  walk = _Walk(scores, thresholds, window)
  taken = np.full((len(thresholds), *counted.shape), -1, np.int8)
  for t in range(counted.shape[1]):
    if not counted[:, t].any():
      break
    taken[:, :, t] = walk.step(t, counted[:, t])
  return Replay(taken=taken, work=walk.work())


class _Walk:
  """Carry what decoding remembers between tokens; see `SegmentState`."""

  def __init__(self, scores, thresholds, window: int):
    exits, rows, _ = scores.shape
    settings = len(thresholds)
    self.scores = scores
    self.thresholds = thresholds
    self.window = window
    self.widths = window_widths(window)
    # Exits that are never taken are left out unless all are; see `make_plan`.
    asked = np.isfinite(thresholds)
    self.asked = asked | ~asked.any(axis=1, keepdims=True)
    # The first exit with threshold 0 is where the model ends.
    ends = thresholds == 0
    self.last = np.where(ends.any(axis=1), ends.argmax(axis=1), exits)
    self.cache_length = np.zeros((exits + 1, settings, rows), np.int32)
    self.since_full = np.zeros((settings, rows), np.int32)
    shape = (settings, exits + 1)
    self.runs = np.zeros((*shape, len(self.widths)), np.int64)
    self.checks = np.zeros(shape, np.int64)
    self.taken = np.zeros(shape, np.int64)

  def step(self, t: int, present) -> np.ndarray:
    """Emit token `t` of every row; return the segments it was emitted at."""
    exits = len(self.scores)
    active = np.broadcast_to(present, self.since_full.shape).copy()
    segment_of = np.where(active, self.last[:, None], -1)
    may_exit = self.since_full + 1 < self.window
    for segment in range(exits + 1):
      active &= (segment <= self.last)[:, None]
      self._run(segment, t, active)
      ends = (segment == self.last)[:, None]
      if segment < exits:
        asked = active & may_exit & ~ends & self.asked[:, segment, None]
        sure = self.scores[segment, :, t] >= self.thresholds[:, segment, None]
        leave = asked & sure
        self.checks[:, segment] += asked.sum(axis=1)
        segment_of[leave] = segment
      else:
        leave = np.zeros_like(active)
      self.taken[:, segment] += (leave | (active & ends)).sum(axis=1)
      active &= ~leave
    full = segment_of == self.last[:, None]
    self.since_full = np.where(full, 0, self.since_full + 1)
    return segment_of

  def _run(self, segment: int, t: int, active) -> None:
    """Run a segment for the rows that are there and all that waits for it."""
    waiting = t + 1 - self.cache_length[segment]
    for i, width in enumerate(self.widths):
      narrower = self.widths[i - 1] if i else 0
      fits = (waiting > narrower) & (waiting <= width)
      self.runs[:, segment, i] += (active & fits).sum(axis=1)
    self.cache_length[segment] = np.where(
      active, t + 1, self.cache_length[segment]
    )

  def work(self) -> tuple[DecodeWork, ...]:
    return tuple(
      DecodeWork(int(taken.sum()), runs, self.widths, checks, taken)
      for runs, checks, taken in zip(
        self.runs, self.checks, self.taken, strict=True
      )
    )
