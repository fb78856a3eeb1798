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
"""What is trained, and how it is laid over devices."""

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from eejax.axes import Rule, active_rules, entry_names, parameter_spec
from eejax.config import EarlyExitConfig, ExitConfig, ExitHeadKind
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.decoder import Rematerialization
from eejax.models.quantized import quantize_backbone
from eejax.models.stacking import truncate
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import MeshConfig
from eejax.parallel.sharding import path_names
from eejax.pipeline.balance import PlacedExit, StagePlacement, even_ends, place
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import Schedule, ScheduleKind
from eejax.types import Params, PyTree


class Learns(enum.Enum):
  """What a run trains: a regime of training, of which analyses know nothing.

  STANDARD  the backbone
  JOINT     the backbone and the exits
  TUNE      the exits
  """

  STANDARD = 'standard'
  JOINT = 'joint'
  TUNE = 'tune'


@dataclasses.dataclass(frozen=True)
class Workload:
  """What a step computes.

  Gates, and exits that imitate the final head, which need the whole depth, are
  not counted.

  Attributes:
    config: the model with its exits.
    learns: what is trained.
    rows: sequences of a batch, over all devices.
    length: tokens of a sequence.
    dtype: compute dtype; a frozen backbone is held in it.
    chunk_size: tokens of a microbatch whose logits stand at once.
    moments: arrays the optimizer keeps a trained parameter, in float32: 2
      for Adam.
    backbone: how a frozen backbone's kernels are held.
  """

  config: EarlyExitConfig
  learns: Learns
  rows: int
  length: int
  dtype: str = 'bfloat16'
  chunk_size: int = 1024
  moments: int = 2
  backbone: Quantization = Quantization.NONE

  def __post_init__(self):
    for name in ('rows', 'length', 'chunk_size'):
      if getattr(self, name) < 1:
        raise ArgumentError(
          f'{name} must be at least 1, not {getattr(self, name)}.'
        )
    int8 = self.backbone is not Quantization.NONE
    if int8 and self.learns is not Learns.TUNE:
      raise ArgumentError(
        'a backbone in int8 cannot learn; use the regime tune.'
      )
    needs_exits = self.learns is not Learns.STANDARD
    if needs_exits and not self.config.exits:
      raise ArgumentError(
        f'the regime {self.learns.value} trains exits, and this model has '
        'none; name some, as in 8:norm,16:norm.'
      )

  @property
  def value_bytes(self) -> int:
    """Return the bytes of a number that is computed with."""
    return jnp.dtype(self.dtype).itemsize

  @property
  def depth(self) -> int:
    """Return how many blocks a step runs."""
    if self.learns is Learns.TUNE:
      return self.config.deepest_exit
    return self.config.model.num_layers

  @property
  def has_final_head(self) -> bool:
    """Return whether a step computes the final head's loss."""
    return self.learns is not Learns.TUNE

  @property
  def exits(self) -> tuple[ExitConfig, ...]:
    """Return the exits that take part."""
    return () if self.learns is Learns.STANDARD else self.config.exits


@dataclasses.dataclass(frozen=True)
class Arrangement:
  """How a workload is laid over devices.

  Attributes:
    mesh: devices along each axis, all of them given.
    microbatches: parts of a batch, one after the other.
    rematerialization: what a backward pass recomputes.
    schedule: of the pipeline; not looked at with one stage.
    rounds: pieces of depth a stage holds.
    keep: what a stage of `one_f_one_b` keeps of a microbatch.
  """

  mesh: MeshConfig
  microbatches: int = 1
  rematerialization: Rematerialization = Rematerialization.BLOCK
  schedule: ScheduleKind = ScheduleKind.ONE_F_ONE_B
  rounds: int = 1
  keep: Keep = Keep.RESIDUALS

  @property
  def row_shares(self) -> int:
    """Return into how many shares the rows of a microbatch are cut."""
    return self.mesh.row_shares

  @property
  def devices(self) -> int:
    """Return how many devices there are."""
    return math.prod(self.mesh.sizes().values())

  @property
  def is_pipeline(self) -> bool:
    """Return whether blocks are shared out over stages."""
    return self.mesh.stage > 1

  def pipeline(self) -> Schedule:
    """Return the schedule of the pipeline."""
    return Schedule(
      self.schedule, self.mesh.stage, self.microbatches, self.rounds
    )

  def device_rows(self, workload: Workload) -> int:
    """Return the sequences of a microbatch on one device."""
    return workload.rows // (self.row_shares * self.microbatches)

  def placement(self, workload: Workload) -> StagePlacement:
    """Return which stage has which blocks and exits.

    Blocks are shared out evenly; an exit between two stages goes to the
    later one, as `eejax.pipeline.balance` has it.
    """
    places = self.mesh.stage * self.rounds
    exits = [
      PlacedExit(e.depth, movable=e.head is not ExitHeadKind.MLP)
      for e in workload.exits
    ]
    return place(exits, ends=even_ends(workload.depth, places=places))


# MARK: Parameters


@functools.cache
def shapes(workload: Workload) -> tuple[Params, Params]:
  """Return the trained and the frozen parameters, as shapes."""

  def make(key):
    params = decoder.init(workload.config, key)
    return truncate(params, depth=workload.depth)

  params = jax.eval_shape(make, jax.random.key(0))
  names = {
    Learns.STANDARD: ('backbone',),
    Learns.JOINT: ('backbone', 'exits'),
    Learns.TUNE: ('exits',),
  }[workload.learns]
  trained = {k: v for k, v in params.items() if k in names}
  frozen = {k: v for k, v in params.items() if k not in names}
  if workload.learns is Learns.TUNE:
    frozen = _cast(frozen, workload.dtype)
  if workload.backbone is Quantization.INT8:
    frozen = jax.eval_shape(quantize_backbone, frozen)
  return trained, frozen


def _cast(tree: PyTree, dtype: str) -> PyTree:
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), tree
  )


def device_values(tree: PyTree, sizes: Mapping[str, int]) -> int:
  """Return how many numbers of a tree each device holds.

  Args:
    tree: shapes of parameters.
    sizes: of the axes of the mesh.
  """
  mesh = tuple(sizes.items())
  return sum(
    _part_size(path_names(path), leaf.shape, mesh, active_rules())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  )


def device_bytes(tree: PyTree, sizes: Mapping[str, int]) -> int:
  """Return how many bytes of a tree each device holds."""
  mesh = tuple(sizes.items())
  return sum(
    leaf.dtype.itemsize
    * _part_size(path_names(path), leaf.shape, mesh, active_rules())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  )


@functools.cache
def _part_size(
  path: tuple[str, ...],
  shape: tuple[int, ...],
  mesh: tuple[tuple[str, int], ...],
  rules: tuple[Rule, ...],
) -> int:
  """Return the numbers in a device's part of a leaf.

  The rules are those in effect, which results are kept by.
  """
  del rules
  sizes = dict(mesh)
  spec = parameter_spec(path, shape=shape, mesh=sizes)
  if spec is None:
    return math.prod(shape)
  part = 1
  for size, names in zip(shape, spec, strict=True):
    part *= size // math.prod(sizes[n] for n in entry_names(names))
  return part
