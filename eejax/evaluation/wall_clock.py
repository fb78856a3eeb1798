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
"""Wall-clock times that can be compared: interleaved, medians, no compiling."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from eejax.decoding.results import DecodeResult, Timing
from eejax.errors import ArgumentError

# Returns the times of a decoding; a test counts work instead.
Clock = Callable[[DecodeResult], Timing]


def wall_clock(result: DecodeResult) -> Timing:
  """Return the times that a decoding took."""
  return result.timing


@dataclasses.dataclass(frozen=True)
class Ratio:
  """How many times faster than another something is.

  Attributes:
    value: over all cases together.
    low: in the case where it is least.
    high: in the case where it is most.
  """

  value: float
  low: float
  high: float


def interleaved(
  runs: Mapping[str, Callable[[], float]],
  *,
  repeats: int,
  warm_up: int = 1,
) -> dict[str, list[float]]:
  """Return `repeats` results of each run, taken in turns.

  Each round begins with another one, so that a machine that slows down or a
  cache that is left warm favours nobody.

  Args:
    runs: each returns the seconds of what it did.
    repeats: rounds that count.
    warm_up: rounds before, which compile and fill caches.

  Raises:
    ArgumentError: there is nothing to repeat.
  """
  if repeats < 1 or not runs:
    raise ArgumentError('there must be something to run and a round at least.')
  names = list(runs)
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for number in range(warm_up + repeats):
    first = number % len(names)
    for name in names[first:] + names[:first]:
      taken = runs[name]()
      if number >= warm_up:
        seconds[name].append(taken)
  return seconds


def speed_ratio(
  seconds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]
) -> Ratio:
  """Return how many times faster than a baseline something is.

  Args:
    seconds: of each case, several times.
    baseline: of the same cases.
  """
  ours = [statistics.median(s) for s in seconds]
  theirs = [statistics.median(s) for s in baseline]
  by_case = [b / a for a, b in zip(ours, theirs, strict=True)]
  return Ratio(sum(theirs) / sum(ours), min(by_case), max(by_case))
