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
"""What a run reports: means from sums, JSON lines and TensorBoard."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eejax import serialization, storage, store_folder
from eejax.config import EarlyExitConfig, GateKind
from eejax.errors import StoreError
from eejax.parallel import multihost
from eejax.training.loss_sums import HeadSums, LossSums
from eejax.training.wandb_board import WandbBoard

TRAIN = 'train'
HELD_OUT = 'held_out'
TIMING = 'timing'
# When a run first began, seconds since 1970: of the record of step 0.
UNIX_TIME = 'unix_time'

FILE = 'metrics.jsonl'
BOARD = 'tensorboard'
# Between two times that files are sent to a store.
SEND_SECONDS = 30.0


def means(sums: LossSums, *, config: EarlyExitConfig) -> dict[str, float]:
  """Return named means of a step's or an evaluation's sums.

  Heads that took no part are left out. Names are `loss` (the objective),
  `balance_loss` (of experts), `final/...` and `exit_6/...` with `loss`
  (nats), `accuracy`, `confidence`, and where they are known `agreement` (with
  the final head), `divergence`, `gate_loss` and `gate_accuracy`.

  Args:
    sums: arrays or numbers.
    config: the model with its exits.
  """
  values = {'loss': _ratio(sums.objective, sums.tokens)}
  if sums.balance is not None:
    values['balance_loss'] = _ratio(sums.balance, sums.tokens)
  final_known = bool(sums.final.tokens)
  if final_known:
    head = _head_at(sums.final, ())
    values |= _head_means('final', head, gated=False, final_known=False)
  for i, e in enumerate(config.exits):
    head = _head_at(sums.exits, i)
    if head['tokens']:
      gated = e.gate is not GateKind.NONE
      values |= _head_means(e.name, head, gated=gated, final_known=final_known)
  return values


def _head_at(sums: HeadSums, index: Any) -> dict[str, float]:
  names = [f.name for f in dataclasses.fields(HeadSums)]
  return {n: float(np.asarray(getattr(sums, n))[index]) for n in names}


def _head_means(
  name: str, head: Mapping[str, float], *, gated: bool, final_known: bool
) -> dict[str, float]:
  values = {
    'loss': head['loss'],
    'accuracy': head['correct'],
    'confidence': head['confidence'],
  }
  if final_known:
    values['agreement'] = head['agree']
  if head['divergence']:
    values['divergence'] = head['divergence']
  if gated and final_known:
    values['gate_loss'] = head['gate_loss']
    values['gate_accuracy'] = head['gate_correct']
  return {f'{name}/{k}': _ratio(v, head['tokens']) for k, v in values.items()}


def _ratio(total: Any, tokens: Any) -> float:
  return float(total) / max(float(tokens), 1.0)


def add_sums(parts: Sequence[LossSums]) -> LossSums:
  """Add up the sums of several batches, in float64 on the host."""

  def add(*leaves):
    return np.sum([np.asarray(x, np.float64) for x in leaves], axis=0)[...]

  return jax.tree.map(add, *parts)


@dataclasses.dataclass(frozen=True)
class MetricsRecord:
  """One line of the metrics file.

  Attributes:
    step: optimizer steps taken when it was measured.
    kind: `train`, `held_out` or `timing`.
    values: named numbers.
  """

  step: int
  kind: str
  values: Mapping[str, float]

  def line(self) -> str:
    """Return the record as a line of JSON; not-a-number becomes null."""
    plain = {k: v if math.isfinite(v) else None for k, v in self.values.items()}
    return json.dumps({'step': self.step, 'kind': self.kind, **plain})


def read_records(folder: str | os.PathLike) -> list[dict[str, Any]]:
  """Return the metrics of a run folder; a line cut short is left out."""
  path = storage.as_path(folder) / FILE
  records = []
  if path.exists():
    for line in path.read_text(encoding='utf-8').splitlines():
      try:
        records.append(json.loads(line))
      except json.JSONDecodeError:
        continue
  return records


def last_held_out(folder: str | os.PathLike) -> dict[str, float]:
  """Return the newest held-out means of a run folder; none without any."""
  found = [r for r in read_records(folder) if r['kind'] == HELD_OUT]
  newest = found[-1] if found else {}
  return {k: v for k, v in newest.items() if k not in ('step', 'kind')}


class NoWriter:
  """Write nothing: what every host but the first has."""

  def write(self, records: Sequence[MetricsRecord]) -> None:
    """Do nothing."""

  def send(self) -> None:
    """Do nothing."""

  def __enter__(self) -> 'NoWriter':
    return self

  def __exit__(self, *_: object) -> None:
    pass


def open_writer(
  folder: str | os.PathLike, *, resume_step: int | None, wandb: str = ''
) -> 'MetricWriter | NoWriter':
  """Return the writer of a run's metrics; one host writes them."""
  if not multihost.is_first():
    return NoWriter()
  return MetricWriter(folder, resume_step=resume_step, wandb=wandb)


class MetricWriter:
  """Append records to `metrics.jsonl`, TensorBoard and Weights & Biases.

  What an earlier process wrote beyond the step that this one resumes from is
  removed first, so that every step stands in the file once.

  Files in a store cannot be appended to. For a folder there, the files lie on
  this machine, and are sent whole: now and then, and before each checkpoint.

  Args of the constructor: the run's folder, the step it resumes from, None if
  it starts anew, and a project of Weights & Biases, '' for none.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    resume_step: int | None,
    wandb: str = '',
  ):
    from tensorboardX import SummaryWriter

    self._folder = storage.as_path(folder)
    self._place = self._folder
    if storage.is_remote(self._folder):
      self._place = pathlib.Path(tempfile.mkdtemp(prefix='eejax-'))
    self._place.mkdir(parents=True, exist_ok=True)
    self._sent: dict[str, int] = {}
    self._sent_at = time.monotonic()
    with storage.reported(self._folder, what='read'):
      self._cut_after(-1 if resume_step is None else resume_step)
    self._wandb = None
    if wandb:
      self._wandb = WandbBoard(wandb, folder=self._folder, local=self._place)
    self._file = (self._place / FILE).open('a', encoding='utf-8')
    self._board = SummaryWriter(
      str(self._place / BOARD),
      purge_step=0 if resume_step is None else resume_step + 1,
    )
    self.send()

  def _cut_after(self, step: int) -> None:
    if not (self._folder / FILE).exists():
      return
    kept = [r for r in read_records(self._folder) if r['step'] <= step]
    text = ''.join(json.dumps(r) + '\n' for r in kept)
    serialization.write_text(self._place / FILE, text)

  def write(self, records: Sequence[MetricsRecord]) -> None:
    """Append `records` and flush them."""
    for record in records:
      self._file.write(record.line() + '\n')
      drawn = {k: v for k, v in record.values.items() if k != UNIX_TIME}
      for name, value in drawn.items():
        self._board.add_scalar(f'{record.kind}/{name}', value, record.step)
      if self._wandb is not None:
        named = {f'{record.kind}/{k}': v for k, v in drawn.items()}
        self._wandb.write(record.step, named)
    self._file.flush()
    self._board.flush()
    if time.monotonic() - self._sent_at > SEND_SECONDS:
      # A checkpoint is not begun before they have arrived.
      with contextlib.suppress(StoreError):
        self.send()

  def send(self) -> None:
    """Bring the files to a folder in a store; a local one has them.

    Raises:
      StoreError: the store refuses, or fails.
    """
    if self._place == self._folder:
      return
    self._sent_at = time.monotonic()
    for name, size in store_folder.list_files(self._place).items():
      if self._sent.get(name) != size:
        with storage.reported(self._folder / name, what='written'):
          store_folder.copy_file(self._place / name, self._folder / name)
        self._sent[name] = size

  def close(self) -> None:
    """Close both files.

    Raises:
      StoreError: they cannot be brought to the store.
    """
    self._file.close()
    self._board.close()
    if self._wandb is not None:
      self._wandb.close()
    try:
      self.send()
    finally:
      if self._place != self._folder:
        shutil.rmtree(self._place, ignore_errors=True)

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    # What ends a run is told, not what follows from it.
    ignored = (StoreError,) if kind is not None else ()
    with contextlib.suppress(*ignored):
      self.close()
