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
"""Speed of a policy by the clock, in turns with full decoding."""

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from eejax.analysis.certify import Prompt
from eejax.config import EarlyExitConfig
from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.policy import Policy
from eejax.evaluation.bench import Clock, wall_clock
from eejax.evaluation.wall_clock import interleaved
from eejax.progress import SILENT, Progress
from eejax.stats.bootstrap import Interval, ratio_interval


@dataclasses.dataclass(frozen=True)
class MeasuredSpeed:
  """Speed of a policy, one prompt at a time, over prompts.

  Attributes:
    speedup: how many times faster than full decoding it is.
    noise: how many times faster than itself full decoding is, measured in the
      same turns.
    prompts: how many were decoded.
    new_tokens: generated after each.
    repeats: times each was decoded; the median counts.
  """

  speedup: Interval
  noise: Interval
  prompts: int
  new_tokens: int
  repeats: int

  @property
  def is_faster(self) -> bool:
    """Return whether the speed-up is certainly above the noise."""
    return self.speedup.low > max(self.noise.high, 1.0)

  @property
  def is_slower(self) -> bool:
    """Return whether the speed-up is certainly no gain over the noise."""
    return self.speedup.high < max(self.noise.high, 1.0)

  def sentence(self) -> str:
    """Return in words how fast it is."""
    return (
      f'decoding one prompt at a time is {_text(self.speedup)} times as fast '
      f'as without exits on {self.prompts} held-out prompts, where full '
      f'decoding against itself is {_text(self.noise)}'
    )


def measure_speed(
  prepared: Prepared,
  policy: Policy,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Prompt],
  new_tokens: int,
  repeats: int = 3,
  clock: Clock = wall_clock,
  progress: Progress = SILENT,
) -> MeasuredSpeed:
  """Return the speed of a policy on prompts that it was not fitted on.

  Intervals are of the ratio of total times, by bootstrap over prompts.

  Args:
    prepared: the model.
    policy: to be measured.
    config: of the model.
    prompts: decoded one at a time, all to the same length.
    new_tokens: generated after each.
    repeats: times each is decoded in turns, after a first to warm up.
    clock: returns the times of a decoding; prefill does not count.
    progress: is told of every prompt.
  """
  policies = {'full': FULL_DEPTH, 'policy': policy, 'again': FULL_DEPTH}
  seconds: dict[str, list[float]] = {name: [] for name in policies}
  for prompt in progress.track(prompts, 'measuring speed', unit='prompt'):
    runs = {
      name: functools.partial(
        _seconds, prepared, config, prompt, p, new_tokens, clock
      )
      for name, p in policies.items()
    }
    for name, times in interleaved(runs, repeats=repeats).items():
      seconds[name].append(statistics.median(times))
  return MeasuredSpeed(
    speedup=_speedup(seconds, 'policy'),
    noise=_speedup(seconds, 'again'),
    prompts=len(prompts),
    new_tokens=new_tokens,
    repeats=repeats,
  )


def _seconds(
  prepared: Prepared,
  config: EarlyExitConfig,
  prompt: Prompt,
  policy: Policy,
  new_tokens: int,
  clock: Clock,
) -> float:
  result = generate(
    prepared,
    config=config,
    prompts=[prompt],
    policy=policy,
    max_new_tokens=new_tokens,
    # No token is -1, so all texts are of one length, and the program is the
    # one that decodes with the model's own ends.
    eos_ids=(-1,) * len(config.model.eos_ids),
  )
  return clock(result).decode_s


def _speedup(seconds: Mapping[str, Sequence[float]], name: str) -> Interval:
  full, ours = np.array(seconds['full']), np.array(seconds[name])
  return ratio_interval(full, ours)


def _text(interval: Interval) -> str:
  return f'{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})'
