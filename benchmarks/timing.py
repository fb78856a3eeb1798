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
"""Time things that are compared: in one process, in turn, medians."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved(
  runs: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, list[float]]:
  """Return the seconds of every repeat of every run, taken in turn.

  Each is run once before, uncounted. Taking them in turn lets a machine whose
  speed drifts slow all of them alike.
  """
  for run in runs.values():
    jax.block_until_ready(run())
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(run())
      seconds[name].append(time.perf_counter() - start)
  return seconds


def median_ratio(
  seconds: Mapping[str, list[float]], above: str, below: str
) -> float:
  """Return the median over repeats of one run's time over another's."""
  pairs = zip(seconds[above], seconds[below], strict=True)
  return statistics.median(a / b for a, b in pairs)


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
  """Return each run's median, in seconds."""
  return {name: statistics.median(times) for name, times in seconds.items()}
