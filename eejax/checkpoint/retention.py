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
"""Which steps of a training run are kept."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from orbax.checkpoint import checkpoint_managers as policies

LOSS = '/loss'


@dataclasses.dataclass(frozen=True)
class KeptSteps:
  """Say which steps stay; one that any of these asks for does.

  Attributes:
    newest: so many of the newest steps, at least 1.
    every_steps: those whose number is a multiple of it; 0 is none.
    every_seconds: one a stretch of time; 0 is none.
    best: so many of those with the smallest `metric`; 0 is none.
    metric: a held-out mean by its name, as `exit_6/loss`; '' is the mean of
      the losses of all heads. A step that was not measured is not compared.
  """

  newest: int = 2
  every_steps: int = 0
  every_seconds: float = 0.0
  best: int = 0
  metric: str = ''

  def policy(self) -> policies.AnyPreservationPolicy:
    """Return it in Orbax's words."""
    found: list[policies.PreservationPolicy] = [policies.LatestN(self.newest)]
    if self.every_steps:
      found.append(policies.EveryNSteps(self.every_steps))
    if self.every_seconds:
      found.append(policies.EveryNSeconds(int(self.every_seconds)))
    if self.best:
      found.append(
        policies.BestN(
          get_metric_fn=self.score,
          reverse=True,  # the best are the last ones, and small losses good
          n=self.best,
          keep_checkpoints_without_metrics=False,
        )
      )
    return policies.AnyPreservationPolicy(found)

  def score(self, measured: Mapping[str, float]) -> float:
    """Return what steps are compared by; smaller is better."""
    if self.metric:
      return float(measured[self.metric])
    losses = [v for name, v in measured.items() if name.endswith(LOSS)]
    return float(np.mean(losses))
