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
"""The training loop: batches in, checkpoints and metrics out.

Everything that decides the losses is in the `Task` and the batches; the loop
adds only bookkeeping, so a run that was killed anywhere continues from its
last checkpoint with the same numbers, bit for bit.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from eejax.checkpoint.local_steps import LocalSteps
from eejax.checkpoint.manager import Restored, RunCheckpoints
from eejax.checkpoint.retention import KeptSteps
from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.data.sharded import ResumableBatches
from eejax.errors import StoreError
from eejax.parallel import multihost, sharding
from eejax.storage import AnyPath
from eejax.training import freeze, losses, metrics, run_folder, state, step
from eejax.training.device_placement import DevicePlacement
from eejax.training.interrupt import StopRequest
from eejax.training.loop_config import LoopConfig
from eejax.training.metrics import MetricsRecord
from eejax.training.objective import Objective
from eejax.training.recording import Recorder
from eejax.training.reporting import ProgressReporter, Reporter
from eejax.training.stalls import Activity, StallWatch
from eejax.training.step import StepConfig
from eejax.training.throughput import StepCost, Throughput
from eejax.training.trace import StepTrace
from eejax.types import Params


@dataclasses.dataclass(frozen=True)
class Task:
  """What is learned, from what start and how.

  Attributes:
    config: the model with its exits.
    params: parameters to start from; on a mesh they are taken over, else
      never changed. Of a tuned model the first blocks suffice where nothing
      looks at the final head.
    objective: what is minimised.
    optimizer: of what is trained.
    settings: how a step is computed.
    learning_rate: the optimizer's schedule, to be reported.
    mesh: the devices it runs on; None for the default device alone.
    frozen: patterns of paths that are not trained, as `freeze.train_mask`
      takes them.
  """

  config: EarlyExitConfig
  params: Params
  objective: Objective
  optimizer: optax.GradientTransformation
  settings: StepConfig = StepConfig()
  learning_rate: optax.Schedule | None = None
  mesh: Mesh | None = None
  frozen: tuple[str, ...] = ()


class Ending(enum.Enum):
  """How a run ended: at its last step, or early and saved."""

  FINISHED = 'finished'
  INTERRUPTED = 'interrupted'


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a run leaves.

  Attributes:
    ending: how it ended.
    step: steps taken in all.
    trainable: the trained part of the tree, as `freeze.split` returns it.
    frozen: the other part.
    held_out: the last held-out means.
  """

  ending: Ending
  step: int
  trainable: Params
  frozen: Params
  held_out: Mapping[str, float]


def train(
  task: Task,
  *,
  folder: AnyPath,
  settings: LoopConfig,
  batches: ResumableBatches,
  held_out: Sequence[Batch] = (),
  reporter: Reporter | None = None,
  cost: StepCost | None = None,
) -> TrainResult:
  """Train to the end, or until SIGTERM or the first Ctrl-C.

  The folder should be held by `run_folder.claim`.

  Args:
    task: what is learned.
    folder: the run's folder; a checkpoint in it is continued.
    settings: length and cadence.
    batches: training data at its start; of several hosts, each brings its
      share of the rows (`sharding.row_share`).
    held_out: batches of held-out text, measured at every exit; every host
      brings all.
    reporter: tells how it goes.
    cost: of a step, for what is said of its speed; None is not known.

  Raises:
    EejaxError: the loss is not a number, or a checkpoint cannot be used.
  """
  reporter = reporter or ProgressReporter()
  with contextlib.ExitStack() as stack:
    stack.enter_context(DevicePlacement(task.mesh).active())
    checkpoints = stack.enter_context(
      RunCheckpoints(
        folder / run_folder.CHECKPOINTS,
        keep=KeptSteps(
          newest=settings.keep,
          every_steps=settings.keep_every,
          every_seconds=3600 * settings.keep_hours,
          best=settings.keep_best,
          metric=settings.best_metric,
        ),
        warn=reporter.say,
      )
    )
    stop = stack.enter_context(StopRequest())
    stack.callback(reporter.close)
    run = _Run(task, settings, batches, held_out, checkpoints, reporter)
    run.folder = folder
    if settings.local_every:
      run.local = LocalSteps(
        run_folder.local_folder(folder, settings.local_folder),
        warn=reporter.say,
      )
      stack.callback(run.local.wait)
    run.trace = StepTrace(
      settings.traced_steps, folder=folder, say=reporter.say
    )
    resumed = run.resume()
    earlier = metrics.read_records(folder)
    writer = metrics.open_writer(
      folder,
      resume_step=run.step if resumed else None,
      wandb=settings.wandb,
    )
    stack.enter_context(writer)
    throughput = Throughput.of_run(earlier, cost or StepCost(), step=run.step)
    if not resumed and throughput.began is not None:
      began = {metrics.UNIX_TIME: throughput.began}
      writer.write([MetricsRecord(0, metrics.TIMING, began)])
    run.recorder = Recorder(
      task.config,
      exit_weights=task.objective.exit_weights,
      learning_rate=task.learning_rate,
      writer=writer,
      reporter=reporter,
      throughput=throughput,
    )
    stack.callback(run.trace.close)
    stack.enter_context(run.watch)
    run.last_held_out = metrics.last_held_out(folder)
    return run.until_end(stop)


class _Run:
  """The state of a run between steps; one method a thing that happens."""

  # How far a run goes on is known before anything is recorded.
  recorder: Recorder
  folder: AnyPath
  trace: StepTrace
  local: LocalSteps | None = None

  def __init__(self, task, settings, batches, held_out, checkpoints, reporter):
    self.task = task
    self.settings = settings
    self.batches = batches
    self.placement = DevicePlacement(task.mesh)
    self.shares = 1
    if task.mesh is not None:
      self.shares = sharding.row_share(task.mesh).count
    self.held_out = [self.placement.batch(b) for b in held_out]
    self.checkpoints = checkpoints
    self.reporter = reporter
    self.full_depth = task.objective.full_depth(task.config)
    params = freeze.cut_to_depth(
      task.params, config=task.config, full_depth=self.full_depth
    )
    patterns: Any = {
      'regime': task.objective.regime,
      'frozen': task.frozen,
    }
    trainable, frozen = freeze.split(params, **patterns)
    self.frozen = self.placement.place(frozen)
    self.state = self.placement.create_state(
      trainable, optimizer=task.optimizer
    )
    self.step = 0
    self.saved_step: int | None = None
    self.last_held_out: dict[str, float] = {}
    self.measured_step: int | None = None
    self.stopping = multihost.StopAgreement()
    self.watch = StallWatch(seconds=settings.stall_seconds, say=reporter.say)
    self.train_step = self.placement.compile_step(
      step.make_train_step(
        task.config,
        objective=task.objective,
        optimizer=task.optimizer,
        settings=task.settings,
        mask=freeze.train_mask(params, **patterns) if task.frozen else None,
      ),
      self.state,
    )
    self.evaluate_batch = self.placement.compile_sums(self._evaluation_sums)

  def _evaluation_sums(self, trainable, frozen, batch):
    return losses.evaluation_sums(
      freeze.merge(trainable, frozen),
      batch,
      config=self.task.config,
      forward=self.task.settings.forward,
      full_depth=self.full_depth,
      chunk_size=self.task.objective.chunk_size,
    )

  def resume(self) -> bool:
    """Take up the latest checkpoint; return whether there is one."""
    if self.settings.resume_step is not None:
      self.checkpoints.go_back(self.settings.resume_step)
      if self.local is not None:
        self.local.clear()
    like = state.abstract(self.state)
    local = self._newest_local(like)
    if not self.checkpoints.steps and local is None:
      return False
    if self.task.mesh is not None:
      # There may not be room for two.
      jax.tree.map(lambda leaf: leaf.delete(), self.state)
    wanted = state.to_checkpoint(like)
    where = ''
    if local is not None:
      assert self.local is not None
      restored: Restored | None = self.local.restore(local, like=wanted)
      where = ", from the hosts' own disks"
    else:
      restored = self.checkpoints.restore_latest(wanted)
    assert restored is not None
    self.state = state.from_checkpoint(restored.state, like=like)
    self.step = restored.step
    self.saved_step = max(self.checkpoints.steps, default=None)
    self.batches.restore(restored.metadata['data'])
    self.reporter.say(f'continuing at step {self.step}{where}.')
    return True

  def _newest_local(self, like: state.TrainState) -> int | None:
    """Return the step on the hosts' disks that is newer than the folder's."""
    if self.local is None:
      return None
    step = self.local.newest(like=state.to_checkpoint(like))
    kept = max(self.checkpoints.steps, default=-1)
    return step if step is not None and step > kept else None

  def until_end(self, stop: StopRequest) -> TrainResult:
    """Take steps until there are none left or somebody says stop."""
    steps = self.settings.steps
    self.reporter.start(step=self.step, steps=steps)
    if self.step == 0:
      self.evaluate()
    while self.step < steps:
      if self.stopping.agreed(requested=stop.requested):
        break
      self.take_step()
      # What is written before a checkpoint stays when a run goes on from it,
      # so the order of these three matters.
      if self._due(self.settings.log_every) or not self.recorder.has_looked:
        self.flush()
      if self._due(self.settings.eval_every) and self.step < steps:
        self.evaluate()
      if self._due(self.settings.save_every) and self.step < steps:
        self.save()
      elif self._due(self.settings.local_every) and self.step < steps:
        self.save_local()
    finished = self.step == steps
    if self.saved_step != self.step:
      self.flush()
      if finished:
        self.evaluate()
      self.save()
    self.checkpoints.wait()
    if self.local is not None:
      self.local.clear()
    return TrainResult(
      ending=Ending.FINISHED if finished else Ending.INTERRUPTED,
      step=self.step,
      trainable=self.state.trainable,
      frozen=self.frozen,
      held_out=self.last_held_out,
    )

  def _due(self, every: int) -> bool:
    return bool(every) and self.step % every == 0

  def take_step(self) -> None:
    """Train on the next batch."""
    self.watch.at(self.step, Activity.DATA)
    batch = self.placement.batch(next(self.batches), shares=self.shares)
    self.watch.at(self.step, Activity.STEP)
    self.trace.before(self.step, self.state)
    self.state, measured = self.train_step(self.state, self.frozen, batch)
    self.trace.after(self.step, self.state)
    self.recorder.add(measured)
    self.step += 1

  def evaluate(self) -> None:
    """Measure held-out text at every exit."""
    self.flush()  # records stand in the order of their steps
    if not self.held_out:
      return
    self.watch.at(self.step, Activity.EVALUATION)
    parts = [
      self.evaluate_batch(self.state.trainable, self.frozen, batch)
      for batch in self.held_out
    ]
    self.last_held_out = self.recorder.held_out(self.step, parts)
    self.measured_step = self.step

  def flush(self) -> None:
    """Write down what the steps since the last time measured."""
    self.recorder.flush(self.step, saved_step=self.saved_step)

  def save(self) -> None:
    """Write a checkpoint, in the background."""
    self.flush()
    self.watch.at(self.step, Activity.CHECKPOINT)
    self._send()
    run_folder.check_held(self.folder)
    is_measured = self.measured_step == self.step
    self.checkpoints.save(
      self.step,
      state.to_checkpoint(self.state),
      {'data': self.batches.state()},
      measured=self.last_held_out if is_measured else None,
    )
    self.saved_step = self.step
    self.recorder.restart_clock()

  def save_local(self) -> None:
    """Write a checkpoint to this host's disk, in the background."""
    assert self.local is not None
    self.flush()
    self.watch.at(self.step, Activity.CHECKPOINT)
    self._send()
    self.local.save(
      self.step,
      state.to_checkpoint(self.state),
      {'data': self.batches.state()},
    )
    self.recorder.restart_clock()

  def _send(self) -> None:
    try:
      self.recorder.send()
    except StoreError as error:
      raise StoreError(f'{str(error)[:-1]}; {self._kept()}.') from error

  def _kept(self) -> str:
    if self.saved_step is None:
      return 'no checkpoint was written yet'
    return f'the checkpoint of step {self.saved_step} stays'
