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
"""Cost of decoding a model with a policy, in bytes that are read or seconds.

`decode_cost` is behind every forecast of a speed-up; the benchmark of
forecasts (`benchmarks/analysis_calibration.py`) calls it, too. Costs of the
parts are those of `eejax.analysis.part_costs`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from eejax.analysis.part_costs import (
  ALL_FREE,
  ModelCost,
  SharedReads,
  in_seconds,
  model_cost,
)
from eejax.config import EarlyExitConfig
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.policy.criteria import get_criterion
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.replay import DecodeWork, full_work, replay
from eejax.evaluation.part_times import PartTimes
from eejax.hardware import Hardware
from eejax.ops.sampling import SamplingMethod
from eejax.types import Int


@dataclasses.dataclass(frozen=True)
class DecodeCost:
  """Cost of decoding with a policy, by what its plan runs.

  `decode_cost` makes one of a model and a policy. Work is given as counts of
  segments (`of`), as the depths that tokens were emitted at (`of_depths`), or
  as the decode loop counted it in any batch and mode (`of_counts`).

  Attributes:
    model: what the parts of the plan's segments cost.
    reads_logits: whether the criterion reads an exit's logits; else it reads
      the gate, and only the head that is taken is read.
    shared: what windows of tokens cost.
    step: what a step of all rows costs beside blocks and heads, in the same
      unit.
    check: what asking an exit costs beside its head or gate.
    window: every `window`-th token at the latest goes through all segments.
    ends_early: whether the plan's last exit is always taken, so that the last
      segment never runs.
    rows: rows decoded together, for whose step the parts are.
  """

  model: ModelCost
  reads_logits: bool
  shared: SharedReads = ALL_FREE
  step: float = 0.0
  check: float = 0.0
  window: int = 8
  ends_early: bool = False
  rows: int = 1

  def of(self, work: DecodeWork) -> float:
    """Return what work counted by segment costs, in the unit of the parts.

    An exit that was neither asked nor taken is one that the plan leaves out,
    so its own block does not run.
    """
    m = self.model
    used = (work.checks > 0) | (work.taken > 0)
    own_blocks = np.where(used, np.array(m.exit_blocks), 0.0)
    segments = np.array(m.segment_blocks) * m.block + own_blocks
    factors = np.array([self.shared.of(width) for width in work.widths])
    cost = (work.segment_runs @ factors) @ segments
    cost += self.step * work.tokens + self.check * work.checks.sum()
    heads, gates = np.array(m.heads), np.array(m.gates)
    if self.reads_logits:
      # A check reads the head that it may take; where the model ends there is
      # no check.
      reads = np.where(work.checks > 0, work.checks, work.taken)
      return float(cost + reads @ heads)
    return float(cost + work.taken @ heads + work.checks @ gates)

  def of_depths(self, depths: Sequence[Int[np.ndarray, '_']]) -> float:
    """Return the cost of tokens emitted at known depths, a row at a time.

    Args:
      depths: of each generation, of its tokens; each the depth of an exit of
        the plan, or L.
    """
    return self.of(self.work_of_depths(depths))

  def work_of_depths(
    self, depths: Sequence[Int[np.ndarray, '_']]
  ) -> DecodeWork:
    """Return the work behind tokens emitted at known depths."""
    levels = np.cumsum(self.model.segment_blocks)[:-1]
    if not len(levels):
      return full_work(sum(map(len, depths)), num_exits=0)
    longest = max(len(row) for row in depths)
    table = np.full((len(depths), longest), -1)
    for line, row in zip(table, depths, strict=True):
      line[: len(row)] = row
    thresholds = np.full((1, len(levels)), 0.5, np.float32)
    if self.ends_early:
      thresholds[:, -1] = 0.0
    return replay(
      np.stack([table == d for d in levels]).astype(np.float32),
      counted=table >= 0,
      thresholds=thresholds,
      window=self.window,
    ).work[0]

  def of_counts(self, work: Accounting, batch: BatchAccounting) -> float:
    """Return the cost of work as a decode loop counted it.

    Weights that are read for one token serve the others of a batch or a
    window. Reads and passes of all blocks together are known, so each read is
    taken to serve as many tokens as the others:

      reads of blocks f(passes / (reads rows)) + reads of each segment's head
        + step steps + checks of exits

    with f what a window costs over one token of each row.

    Args:
      work: of all rows.
      batch: what they read together, by the segments of this plan.
    """
    m = self.model
    passes = work.blocks_run + work.exit_blocks_run
    each = passes / max(batch.block_reads * self.rows, 1)
    runs, reads = (
      np.array([*counts, *([0] * (len(m.heads) - len(counts)))])
      for counts in (batch.segment_runs, batch.segment_head_reads)
    )
    # Who leaves at the last exit of a model that ends there is not asked.
    asking = len(m.heads) - (2 if self.ends_early else 1)
    asked = (reads if self.reads_logits else runs)[:asking]
    cost = m.block * batch.block_reads * self.shared.of(max(each, 1.0))
    cost += reads @ np.array(m.heads)
    cost += self.step * runs[0] + self.check * asked.sum()
    if not self.reads_logits:
      cost += asked @ np.array(m.gates)[:asking]
    return float(cost)

  @property
  def full_token(self) -> float:
    """Return what full decoding costs a step, exits not compiled in."""
    return self.model.full_token + self.step

  def speedup(self, work: DecodeWork) -> float:
    """Return how many times faster than full decoding some work is."""
    return self.full_token * work.tokens / self.of(work)

  def speedup_of_depths(self, depths: Sequence[Int[np.ndarray, '_']]) -> float:
    """Return how many times faster than full decoding tokens are emitted.

    Args:
      depths: as `of_depths` takes them.
    """
    return self.speedup(self.work_of_depths(depths))

  def speedup_of_counts(
    self, work: Accounting, batch: BatchAccounting, *, tokens: int
  ) -> float:
    """Return how many times faster than full decoding counted work is.

    Args:
      work: of all rows.
      batch: what they read together.
      tokens: emitted by all rows.
    """
    full = self.full_token * tokens / self.rows
    return full / self.of_counts(work, batch)


def decode_cost(
  config: EarlyExitConfig,
  policy: Policy,
  *,
  times: PartTimes | None = None,
  hardware: Hardware | None = None,
  dtype: str = 'float32',
) -> DecodeCost:
  """Return the cost of decoding a model with a policy.

  What is counted is what `make_plan` makes of both, so exits that are never
  taken cost nothing, blocks and MLPs of exits that are asked do, and a model
  that ends at an exit costs what it runs.

  Args:
    config: the model with its exits.
    policy: how it is decoded.
    times: of the parts on this machine; costs are then in seconds of a step
      of `times.rows` rows.
    hardware: a machine's peaks; costs are then seconds by its roofline, in
      which nothing but weights is counted. Without it and `times` costs are
      bytes that are read.
    dtype: of weights and arithmetic, where no times are given.

  Raises:
    ArgumentError: the policy cannot be used with the model.

  Example:
    policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.9, None))
    cost = decode_cost(model.config, policy, times=times)
    cost.speedup_of_depths([np.array(row.exit_depths)])
  """
  plan, _ = make_plan(config, policy=policy, method=SamplingMethod.GREEDY)
  exits = tuple(
    segment.exit for segment in plan.segments if segment.exit is not None
  )
  bytes_per_value = jax.numpy.dtype(dtype).itemsize
  parts = model_cost(config.with_exits(exits), bytes_per_value=bytes_per_value)
  reads_logits = (
    policy.mode is Mode.SPECULATIVE
    or get_criterion(policy.criterion).reads.asks_head
  )
  cost = DecodeCost(
    parts,
    reads_logits=reads_logits,
    window=plan.window,
    ends_early=policy.mode is not Mode.FULL
    and len(exits) == len(plan.segments),
  )
  if times is not None:
    block = times.blocks / config.model.num_layers
    return dataclasses.replace(
      cost,
      model=in_seconds(parts, block=block, matrix=times.head),
      shared=SharedReads(times.widths, times.factors),
      step=times.step,
      check=times.check if reads_logits else times.gate_check,
      rows=times.rows,
    )
  if hardware is not None:
    rate = 1 / hardware.memory_bandwidth
    return dataclasses.replace(
      cost,
      model=in_seconds(
        parts, block=rate * parts.block, matrix=rate * parts.matrix
      ),
      shared=SharedReads.on(
        hardware,
        dtype=dtype,
        bytes_per_value=bytes_per_value,
        most=max(policy.window, plan.window),
      ),
    )
  return cost
