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
"""Measure how fast strategies of decoding are, and what they change."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eejax import serialization, storage
from eejax.analysis.cost_model import decode_cost
from eejax.checkpoint.model import Model
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.policy.check_use import Use, check_use
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.evaluation.bench import Bench, BenchmarkRow
from eejax.evaluation.part_times import PartTimes, part_times
from eejax.evaluation.strategies import Grid, Strategy
from eejax.evaluation.wall_clock import Clock, Ratio, wall_clock
from eejax.parallel.mesh import MeshChoice, describe, devices_of
from eejax.progress import SILENT, Progress
from eejax.recipes import bench_file
from eejax.recipes.bench_file import BenchFile
from eejax.recipes.devices import on_mesh
from eejax.recipes.prompts import PromptsLike, check_has_exits, token_prompts
from eejax.recipes.result import Result, interval_text
from eejax.report import bench_page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

BATCH_SIZES = (1, 4)
NUM_PROMPTS = 4
NEW_TOKENS = 32
REPEATS = 3
WINDOW = 8


@dataclasses.dataclass(frozen=True)
class BenchResult(Result):
  """Measurements of strategies, each against full decoding.

  Attributes:
    measured: a row for each strategy, full decoding first for each batch size.
    values: everything that stands in the file, as plain values: model, run,
      machine, environment, times of the parts of decoding, peers, and rows
      that were measured before.
  """

  measured: tuple[BenchmarkRow, ...]
  values: Mapping[str, Any]

  title = 'Strategies of decoding'

  @property
  def noise(self) -> dict[int, Ratio]:
    """Return how fast full decoding is against itself, by batch size."""
    return {
      row.setting['batch_size']: row.speedup
      for row in self.measured
      if row.setting['mode'] == 'full'
    }

  def summary(self) -> str:
    """Return the fastest strategy of each batch size, beside the noise."""
    return ' '.join(map(self._best, self.noise))

  def _best(self, size: int) -> str:
    rows = [r for r in self.measured if r.setting['batch_size'] == size]
    noise = interval_text(self.noise[size], digits=2)
    others = [r for r in rows if r.setting['mode'] != 'full']
    if not others:
      return f'At batch {size} full decoding is {noise} times itself: noise.'
    best = max(others, key=lambda r: r.speedup.value)
    return (
      f'At batch {size} the fastest is {bench_page.name_of(best.setting)}: '
      f'{interval_text(best.speedup, digits=2)} times full decoding, which is '
      f'{noise} times itself (noise).'
    )

  def table(self) -> list[dict[str, Any]]:
    """Return a line for each strategy."""
    return bench_page.rows(serialization.plain(self.measured))

  def peer_rows(self) -> list[dict[str, Any]]:
    """Return a line for each other decoder, on the same weights."""
    return bench_page.peer_rows(self.values)

  def to_json(self) -> dict[str, Any]:
    """Return everything but rows of other strategies."""
    values = {**self.values, 'lines': self.measured}
    return serialization.plain(values)

  def page(self) -> str:
    """Return a page with speed against agreement, and every row there is."""
    return bench_page.render(self.values)

  def draw(self, axes: 'Axes') -> None:
    """Draw the speed-up against the agreement with full decoding."""
    for size in self.noise:
      rows = [r for r in self.measured if r.setting['batch_size'] == size]
      axes.scatter(
        [100 * r.same_place for r in rows],
        [r.speedup.value for r in rows],
        label=f'batch {size}',
      )
    axes.axhline(1.0, linestyle=':', color='grey')
    axes.set_xlabel('same token at the same place, %')
    axes.set_ylabel('speed-up over full decoding, measured')
    axes.legend()


def bench(
  model: Model,
  policies: Sequence[Policy] | None = None,
  *,
  prompts: PromptsLike = None,
  grid: Grid | None = None,
  batch_sizes: Sequence[int] = BATCH_SIZES,
  max_new_tokens: int = NEW_TOKENS,
  repeats: int = REPEATS,
  window: int = WINDOW,
  out: str | os.PathLike | None = None,
  dtype: str = 'float32',
  mesh: MeshChoice | None = None,
  peers: str | os.PathLike | None = None,
  name: str = 'the model',
  times: Mapping[int, PartTimes] | None = None,
  progress: Progress = SILENT,
  clock: Clock = wall_clock,
) -> BenchResult:
  """Measure strategies of decoding against full decoding of the same prompts.

  Full decoding is measured against itself, too: how far that is from 1 is
  what noise does here.

  Args:
    model: with exits.
    policies: what is measured beside full decoding; None measures `grid`.
    prompts: texts, or token ids of each; None takes 4 beginnings of the
      standard library's validation part.
    grid: combinations that are measured beside `policies`; None with neither
      is the usual one.
    batch_sizes: rows decoded together, each in turn.
    max_new_tokens: tokens generated after each prompt.
    repeats: rounds that are timed; medians are reported.
    window: of the grid's policies.
    out: a JSON file for rows. Each row is measured on its own and written at
      once, and what the file holds is not measured again. Without a file the
      strategies of a batch size take turns.
    dtype: what is computed in, `float32` or `bfloat16`.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    peers: a file in which `benchmarks/peers.py` wrote what other decoders did
      on this model.
    name: of the model, as a page shows it.
    times: of the parts of decoding, by batch size, for predictions; None
      measures them.
    progress: is told of every batch.
    clock: what a decoding took.

  Returns:
    A row for each strategy: speed-up with its range, prediction, agreement,
    depths.

  Raises:
    EejaxError: the model has no exits, a policy or the mesh does not fit it, a
      number is out of range, or `out` holds measurements of something else.

  Example:
    >>> import eejax
    >>> from eejax.testing import tiny
    >>> config = tiny.tiny_config('1:norm,3:mlp')
    >>> model = eejax.Model(config, tiny.tiny_params(config))
    >>> policy = eejax.Policy(eejax.Mode.EARLY_EXIT, thresholds=(0.9,))
    >>> result = eejax.bench(
    ...   model,
    ...   [policy],
    ...   prompts=[[3, 4, 5]],
    ...   batch_sizes=[1],
    ...   max_new_tokens=4,
    ... )
    >>> [row['strategy'] for row in result.table()]
    ['full', 'early exit max_prob 0.9']
  """
  if repeats < 1:
    raise ArgumentError(f'repeats must be at least 1, not {repeats}.')
  strategies = _strategies(
    model,
    [
      _checked(policy, model, Use(dtype=dtype, max_new_tokens=max_new_tokens))
      for policy in policies or ()
    ],
    None if policies is not None and grid is None else grid or Grid(),
    batch_sizes=batch_sizes,
    window=window,
  )
  ids = token_prompts(
    model, prompts, max_new_tokens=max_new_tokens, count=NUM_PROMPTS
  )
  identity = bench_file.identify(
    model,
    prompts=ids.tokens,
    max_new_tokens=max_new_tokens,
    repeats=repeats,
    dtype=dtype,
    **({} if mesh is None else {'mesh': describe(devices_of(mesh))}),
  )
  peer_lines = bench_file.read_peers(
    peers, backbone_hash=identity['model']['backbone_hash']
  )
  record = _open_record(out, identity)
  model = on_mesh(model, mesh)
  record.values['checkpoint'] = name
  record.values['prompts'] = ids.source
  record.values['peers'] = peer_lines or record.values['peers']
  missing = _missing(record, strategies, progress)
  if missing:
    cost = _Cost(model, times)
    bench = Bench(
      model.params,
      config=model.config,
      prompts=ids.tokens,
      max_new_tokens=max_new_tokens,
      repeats=repeats,
      dtype=dtype,
      predict=cost.of,
      clock=clock,
    )
    record.values['part_times'] = serialization.plain(
      cost.measure(bench, strategies, progress=progress)
    )
    _measure(bench, missing, record, progress)
  else:
    record.write()
  settings = [strategy.values() for strategy in strategies]
  return BenchResult(record.rows_of(settings), record.values)


def _checked(policy: Policy, model: Model, use: Use) -> Policy:
  """Return a policy that may be used so, to be decoded without more checks."""
  check_use(policy, model, use)
  return policy.without_certificate()


def _strategies(
  model: Model,
  policies: Sequence[Policy],
  grid: Grid | None,
  *,
  batch_sizes: Sequence[int],
  window: int,
) -> tuple[Strategy, ...]:
  """Return what is measured, full decoding first for each batch size.

  Raises:
    ArgumentError: the model cannot be decoded like that.
  """
  check_has_exits(model)
  if not batch_sizes or min(batch_sizes) < 1:
    raise ArgumentError(
      'batch_sizes must be positive whole numbers, one at least.'
    )
  of_grid: tuple[Strategy, ...] = ()
  if grid is not None:
    of_grid = grid.strategies(
      model.config, batch_sizes=batch_sizes, window=window
    )
  strategies = [
    strategy
    for size in batch_sizes
    for strategy in (
      *(Strategy(p, size) for p in (Policy(), *policies)),
      *(s for s in of_grid if s.batch_size == size),
    )
  ]
  for strategy in strategies:
    strategy.check(model.config)
  return tuple(dict.fromkeys(strategies))


def _open_record(
  out: str | os.PathLike | None, identity: Mapping[str, Any]
) -> BenchFile:
  if out is None:
    return BenchFile(None, identity)
  serialization.check_writable(out)
  return BenchFile(storage.as_path(out), identity)


def _missing(
  record: BenchFile, strategies: Sequence[Strategy], progress: Progress
) -> list[list[Strategy]]:
  """Return what is not in the record yet, in groups that are timed in turns."""
  missing = [s for s in strategies if not record.has(s.values())]
  if len(missing) < len(strategies):
    progress.say(
      f'{len(strategies) - len(missing)} of {len(strategies)} strategies are '
      f'in {record.path} already'
    )
  if record.path is not None:
    return [[strategy] for strategy in missing]
  sizes = dict.fromkeys(strategy.batch_size for strategy in missing)
  return [[s for s in missing if s.batch_size == size] for size in sizes]


def _measure(
  bench: Bench,
  groups: Sequence[Sequence[Strategy]],
  record: BenchFile,
  progress: Progress,
) -> None:
  """Measure strategies; a row is on the disk before the next group begins."""
  total = sum(map(bench.num_runs, groups))
  with progress.bar('measuring', total=total, unit='run') as bar:
    for group in groups:
      for measurement in bench.measure(group, on_run=bar.update):
        record.add(measurement.row)
        bar.update(0, speedup=measurement.row.speedup.value)


class _Cost:
  """Prediction by the times of the parts of decoding, by batch size."""

  def __init__(
    self, model: Model, times: Mapping[int, PartTimes] | None
  ) -> None:
    self._config = model.config
    self._times = dict(times or {})

  def measure(
    self, bench: Bench, strategies: Sequence[Strategy], *, progress: Progress
  ) -> list[PartTimes]:
    """Return the times of the parts, measured where they are not given."""
    sizes = list(dict.fromkeys(s.batch_size for s in strategies))
    windows = [s.policy.window for s in strategies if not s.is_full]
    tracked = progress.track(
      sizes, 'timing the parts of decoding', unit='batch size'
    )
    for size in tracked:
      if size not in self._times:
        self._times[size] = part_times(
          bench.prepared,
          config=self._config,
          window=max(windows, default=WINDOW),
          rows=size,
        )
    return [self._times[size] for size in sizes]

  def of(
    self,
    work: Accounting,
    batch: BatchAccounting,
    *,
    policy: Policy,
    tokens: int,
    rows: int,
  ) -> float:
    """Return the seconds that counted work should take."""
    cost = decode_cost(self._config, policy, times=self._times[rows])
    return cost.of_counts(work, batch)
