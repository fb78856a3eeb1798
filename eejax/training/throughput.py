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
"""How fast a run is, and how much of its time it spends on steps.

    tokens/s          tokens of the steps / their seconds
    MFU               F steps / (seconds * devices * peak)
    goodput           seconds of steps that are kept / seconds since the run
                      first began

F is what the model's own arithmetic of a step takes, recomputation apart, so
MFU is the model FLOPs utilisation of Chowdhery et al. 2022 (PaLM, arXiv
2204.02311, appendix B). Goodput counts against a run what is compiled,
measured and written, what was lost when a process ended, and the time until
it was started again.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from eejax.hardware import Hardware
from eejax.training import metrics


@dataclasses.dataclass(frozen=True)
class StepCost:
  """The work of a step, and what it is done on.

  Attributes:
    model_flops: operations of a step over all devices; None is not known.
    peak_flops: operations a second of one device at most; None is not known.
    devices: how many there are.
  """

  model_flops: float | None = None
  peak_flops: float | None = None
  devices: int = 1

  @classmethod
  def on(
    cls,
    hardware: Hardware | None,
    *,
    dtype: str,
    devices: int,
    model_flops: float | None,
  ) -> 'StepCost':
    """Return the cost of a step on devices whose maker may state no peak."""
    peak = None if hardware is None else hardware.peak_flops.get(dtype)
    return cls(model_flops, peak, devices)


class Throughput:
  """Counts the seconds of steps over all processes of a run.

  Attributes:
    began: when the run first began, seconds since 1970; None where an earlier
      version of eejax began it.
    trained_s: seconds of its steps that are kept.
  """

  def __init__(
    self,
    cost: StepCost = StepCost(),
    *,
    began: float | None = None,
    trained_s: float = 0.0,
  ):
    """Go on from what an earlier process counted."""
    self.began, self.trained_s = began, trained_s
    self._cost = cost

  @classmethod
  def of_run(
    cls,
    records: Sequence[Mapping[str, Any]],
    cost: StepCost = StepCost(),
    *,
    step: int,
  ) -> 'Throughput':
    """Return that of a run whose metrics say what it did so far.

    Args:
      records: of `metrics.read_records`; none of a run that begins now.
      cost: of a step.
      step: that the run goes on from; what was done beyond it is lost.
    """
    if not records:
      return cls(cost, began=time.time())
    began = [r[metrics.UNIX_TIME] for r in records if metrics.UNIX_TIME in r]
    trained = [
      r['trained_s'] for r in records if 'trained_s' in r and r['step'] <= step
    ]
    return cls(
      cost,
      began=began[0] if began else None,
      trained_s=trained[-1] if trained else 0.0,
    )

  def of_steps(
    self, *, steps: int, tokens: float, seconds: float
  ) -> dict[str, float]:
    """Return the named figures of some steps.

    Args:
      steps: how many.
      tokens: that they read.
      seconds: that they took, one after the other.
    """
    seconds = max(seconds, 1e-9)
    self.trained_s += seconds
    cost = self._cost
    values: dict[str, float] = {}
    values['step_s'] = seconds / steps
    values['tokens_per_s'] = tokens / seconds
    values['tokens_per_s_per_device'] = tokens / seconds / cost.devices
    if cost.model_flops is not None:
      flops = cost.model_flops * steps / seconds / cost.devices
      values['tflops_per_s_per_device'] = flops / 1e12
      if cost.peak_flops is not None:
        values['mfu'] = flops / cost.peak_flops
    values['trained_s'] = self.trained_s
    if self.began is not None:
      elapsed = max(time.time() - self.began, self.trained_s)
      values['goodput'] = self.trained_s / elapsed
    return values
