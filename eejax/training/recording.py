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
"""What a run writes down and shows of its steps and evaluations."""

import math
import time
from collections.abc import Sequence

import jax
import numpy as np
import optax

from eejax.config import EarlyExitConfig
from eejax.errors import EejaxError
from eejax.training import metrics, weight_schedules
from eejax.training.loss_sums import LossSums
from eejax.training.metrics import MetricsRecord, MetricWriter, NoWriter
from eejax.training.reporting import Reporter
from eejax.training.step import StepMetrics
from eejax.training.throughput import Throughput
from eejax.training.weight_schedules import ExitWeights


class Recorder:
  """Gather what steps measure, and write and show it when asked to.

  Attributes:
    has_looked: whether any step was fetched yet; the first one, which
      compiles, should be at once.
  """

  def __init__(
    self,
    config: EarlyExitConfig,
    *,
    exit_weights: ExitWeights,
    learning_rate: optax.Schedule | None,
    writer: MetricWriter | NoWriter,
    reporter: Reporter,
    throughput: Throughput,
  ):
    """Begin with nothing gathered.

    Args:
      config: the model with its exits.
      exit_weights: of the objective, to be reported.
      learning_rate: the optimizer's schedule, to be reported.
      writer: of the run's folder.
      reporter: tells a person.
      throughput: counts what steps take.
    """
    self.has_looked = False
    self._config = config
    self._exit_weights = exit_weights
    self._learning_rate = learning_rate
    self._writer = writer
    self._reporter = reporter
    self._throughput = throughput
    self._pending: list[StepMetrics] = []
    self._clock = time.monotonic()

  def add(self, measured: StepMetrics) -> None:
    """Keep what a step measured, on the device."""
    self._pending.append(measured)

  def flush(self, step: int, *, saved_step: int | None) -> None:
    """Fetch what the steps since the last time measured, and write it.

    Fetching waits for the device, so it is not done every step.

    Args:
      step: the last of them.
      saved_step: of the latest checkpoint, or None.

    Raises:
      EejaxError: the loss or its gradient is not a number.
    """
    if not self._pending:
      return
    first = step - len(self._pending) + 1
    records = [
      self._train_record(first + i, jax.device_get(m))
      for i, m in enumerate(self._pending)
    ]
    self._pending = []
    self._writer.write(records)
    _check_finite(records, saved_step)
    shown = {'loss': records[-1].values['loss'], **self._speed(records)}
    self._reporter.advance(len(records), shown)

  def send(self) -> None:
    """Bring what was written to where the folder of the run is."""
    self._writer.send()

  def held_out(self, step: int, parts: Sequence[LossSums]) -> dict[str, float]:
    """Write and show an evaluation, and return its means.

    Args:
      step: steps taken before it.
      parts: sums of each held-out batch.
    """
    values = metrics.means(metrics.add_sums(parts), config=self._config)
    values.pop('loss')  # the objective of no regime
    self._writer.write([MetricsRecord(step, metrics.HELD_OUT, values)])
    self._reporter.evaluated(step, values)
    self.restart_clock()
    return values

  def restart_clock(self) -> None:
    """Count what was done since the last look as no time of a step."""
    self._clock = time.monotonic()

  def _speed(self, records: Sequence[MetricsRecord]) -> dict[str, float]:
    """Return how fast steps were since the last look, but for the first."""
    before, self._clock = self._clock, time.monotonic()
    if not self.has_looked:
      self.has_looked = True
      return {}
    tokens = sum(r.values['tokens'] for r in records)
    speed = self._throughput.of_steps(
      steps=len(records), tokens=tokens, seconds=self._clock - before
    )
    self._writer.write([MetricsRecord(records[-1].step, metrics.TIMING, speed)])
    return speed

  def _train_record(self, number: int, measured: StepMetrics) -> MetricsRecord:
    """Describe the step that made the state of `number` steps."""
    values = metrics.means(measured.sums, config=self._config)
    values['tokens'] = float(measured.sums.tokens)
    values['grad_norm'] = float(measured.grad_norm)
    if self._learning_rate is not None:
      values['learning_rate'] = float(self._learning_rate(number - 1))
    weights = np.asarray(
      weight_schedules.weights_at(
        number - 1,
        schedule=self._exit_weights,
        num_exits=len(self._config.exits),
      )
    )
    for e, weight in zip(self._config.exits, weights, strict=True):
      if f'{e.name}/loss' in values:
        values[f'{e.name}/weight'] = float(weight)
    return MetricsRecord(number, metrics.TRAIN, values)


def _check_finite(
  records: Sequence[MetricsRecord], saved_step: int | None
) -> None:
  for record in records:
    if math.isfinite(record.values['loss'] + record.values['grad_norm']):
      continue
    kept = (
      f'the checkpoint at step {saved_step} is kept'
      if saved_step
      else 'no checkpoint was written yet'
    )
    raise EejaxError(
      f'the loss or its gradient is not a finite number at step '
      f'{record.step}; try a lower learning rate or a longer warm-up in a '
      f'new folder ({kept}).'
    )
