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
"""Plan how a training run is laid over devices."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eejax import formatting, serialization, storage
from eejax.checkpoint import huggingface, manifest
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, architectures, parse_exits
from eejax.errors import ArgumentError
from eejax.hardware import Hardware, Platform, read_hardware
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import parse_mesh
from eejax.parallel.topologies import devices_of, topology_of
from eejax.planner import choose, table
from eejax.planner.choose import LayoutPlan, Layouts, PlanRequest
from eejax.planner.compiled import CompiledLayout, compile_layout
from eejax.planner.time import Machine
from eejax.planner.workload import Learns, Workload
from eejax.progress import SILENT, Progress
from eejax.recipes.result import Result
from eejax.report import page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

NETWORK_GB = 50.0


@dataclasses.dataclass(frozen=True)
class PlanResult(Result):
  """Layouts of a training run over devices, with memory and step time.

  Attributes:
    request: what was asked: workload, machine, devices.
    layouts: those that fit, fastest first, those that do not, and meshes that
      cannot be.
    best: how many layouts tables show.
    compiled: the fastest layouts as the machine's own compiler sees them,
      where that was asked.
  """

  request: PlanRequest
  layouts: Layouts
  best: int = 5
  compiled: tuple[CompiledLayout, ...] = ()

  title = 'Layouts of a training run'

  @property
  def fits(self) -> bool:
    """Return whether any layout fits the devices."""
    return bool(self.layouts.fitting)

  @property
  def fastest(self) -> LayoutPlan | None:
    """Return the fastest layout that fits, or None."""
    return self.layouts.fitting[0] if self.layouts.fitting else None

  def summary(self) -> str:
    """Return what was asked and what was assumed."""
    request, hardware = self.request, self.request.machine.hardware
    return (
      f'{request.devices} x {hardware.name}, {request.workload.rows} sequences '
      f'of {request.workload.length} tokens a step; of its '
      f'{hardware.memory_bytes / table.GIB:.3g} GiB a step may fill '
      f'{request.room / table.GIB:.3g}.\n'
      f'Assumed: products at {request.machine.efficiency:g} of the peak, no '
      'overlap of messages with work.'
    )

  def verdict(self) -> str | None:
    """Return why nothing fits, as a sentence; None where something does."""
    if self.fits:
      return None
    closest = self.layouts.too_large[0]
    mesh = table.mesh_words(closest.arrangement.mesh)
    return (
      f'nothing fits; the closest, {mesh}, {table.why_too_large(closest)}; use '
      'more devices, a smaller batch or fewer exits with matrices of their own.'
    )

  def table(self) -> list[dict[str, Any]]:
    """Return a line for each layout that fits."""
    return [table.row(p) for p in self.layouts.fitting[: self.best]]

  def memory_rows(self) -> list[dict[str, Any]]:
    """Return what each layout that fits needs of a device, in GiB."""
    return table.memory_rows(self.layouts.fitting[: self.best])

  def too_large_rows(self) -> list[dict[str, Any]]:
    """Return a line for each mesh that does not fit, with the reason."""
    return [
      {
        'mesh': table.mesh_words(p.arrangement.mesh),
        'why': table.why_too_large(p),
      }
      for p in self.layouts.too_large[: self.best]
    ]

  def impossible(self) -> list[str]:
    """Return a sentence for each reason why meshes cannot be."""
    sentences = []
    for reason in self.layouts.refused:
      meshes = '; '.join(reason.meshes[:3])
      more = len(reason.meshes) - 3
      tail = f' and {more} more' if more > 0 else ''
      sentences.append(f'out of the question: {meshes}{tail}: {reason.why}.')
    return sentences

  def compiled_rows(self) -> list[dict[str, Any]]:
    """Return what the compiler says of layouts, beside the forecast."""
    plans = zip(self.layouts.fitting, self.compiled, strict=False)
    return [table.compiled_row(plan, found) for plan, found in plans]

  def refusals(self) -> list[str]:
    """Return a sentence for each layout that the compiler refused."""
    return [
      f'{table.mesh_words(found.arrangement.mesh)}: {found.refusal}'
      for found in self.compiled
      if found.refusal
    ]

  def roofline_rows(self) -> list[dict[str, Any]]:
    """Return what the seconds of each layout follow from."""
    plans = self.layouts.fitting[: self.best]
    return [table.roofline_row(plan, self.request) for plan in plans]

  def to_json(self) -> dict[str, Any]:
    """Return the request and the best layouts as plain values."""
    values = table.layout_values(self.layouts, self.request, best=self.best)
    return serialization.plain(
      {
        **values,
        'roofline': self.roofline_rows(),
        'compiled': self.compiled_rows(),
        'refused_by_compiler': self.refusals(),
      }
    )

  def draw(self, axes: 'Axes') -> None:
    """Draw the step time of the layouts that fit, by mesh."""
    plans = self.layouts.fitting[: self.best][::-1]
    names = [table.mesh_words(p.arrangement.mesh) for p in plans]
    axes.barh(range(len(plans)), [p.time.total for p in plans])
    axes.set_yticks(range(len(plans)), names)
    axes.set_xlabel('seconds a step, predicted')

  def _tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
    count = len(self.layouts.too_large)
    return [
      ('GiB of each device, by the compiler', self.compiled_rows()),
      ('GiB of each device', self.memory_rows()),
      ('Roofline of a step on each device', self.roofline_rows()),
      (f'{count} meshes do not fit', self.too_large_rows()),
    ]

  def content(self) -> str:
    """Return what a page shows of the result, as HTML."""
    parts = [super().content()]
    parts += [
      page.section(title, page.table(rows))
      for title, rows in self._tables()
      if rows
    ]
    sentences = [*self.refusals(), *self.impossible()]
    return '\n'.join([*parts, *map(page.paragraph, sentences)])

  def __str__(self) -> str:
    parts = [super().__str__()]
    parts += [
      f'{title}\n{formatting.table(rows)}'
      for title, rows in self._tables()
      if rows
    ]
    return '\n\n'.join([*parts, *self.refusals(), *self.impossible()])


def plan(
  model: Model | EarlyExitConfig | str | os.PathLike,
  *,
  exits: str | None = None,
  regime: str | None = None,
  hardware: str = 'h100_80g',
  devices: int = 8,
  slices: int = 1,
  mesh: str | None = None,
  batch_size: int = 256,
  sequence_length: int = 2048,
  chunk_size: int = 1024,
  dtype: str = 'bfloat16',
  backbone: str = 'compute',
  efficiency: float = 0.5,
  network: float | None = None,
  usable: float = 0.9,
  price: float | None = None,
  best: int = 5,
  check: int = 0,
  progress: Progress = SILENT,
) -> PlanResult:
  """Predict mesh, memory, step time and cost of a training run.

  Nothing is loaded and no device is touched: shapes are enough. Step times
  are a forecast, from the peaks that the maker states.

  Args:
    model: a model, a configuration, a name in `configs/models` (as
      `llama_2_7b`), a JSON file like those, an eejax checkpoint or a Hugging
      Face folder.
    exits: a name in `configs/exits`, or `DEPTH:HEAD,...`; None keeps the
      exits of the model.
    regime: what is trained: `standard` (the backbone), `joint` (backbone and
      exits) or `tune` (exits); None is `joint` with exits, else `standard`.
    hardware: a name in `configs/hardware`, or a JSON file like those.
    devices: how many there are, in all slices.
    slices: of TPUs, joined by the network of the data center; the mesh axis
      `data` lies over them.
    mesh: the only mesh to look at, as `data=2,model=4` or a name in
      `configs/meshes`; None tries all.
    batch_size: sequences of a step, over all devices.
    sequence_length: tokens of a sequence.
    chunk_size: tokens whose logits stand at once.
    dtype: what is computed in.
    backbone: how a frozen backbone is held: `compute` (in `dtype`) or `int8`.
    efficiency: share of the peak, in (0, 1], that products reach; assumed.
    network: gigabytes a second from a device to another host, of TPUs to
      another slice; None is what the maker states, 50 where that is nothing.
    usable: share of the memory, in (0, 1], that a step may fill.
    price: of a device for an hour, in any currency.
    best: how many layouts the result's tables show.
    check: how many of the fastest layouts the machine's own compiler compiles,
      which takes minutes; see `eejax.parallel.topologies`.
    progress: is told of every mesh.

  Returns:
    Layouts, fastest first. `fits` is False where none fits.

  Raises:
    ArgumentError: a name is unknown or a number out of range.
    EejaxError: no mesh can hold the model and the batch as they are, or the
      compiler that is to check is not installed.

  Example:
    >>> import eejax
    >>> result = eejax.plan(
    ...   'llama_2_7b', exits='8:mlp', regime='tune', batch_size=8, devices=1
    ... )
    >>> result.fits
    True
  """
  _check_counts(devices=devices, slices=slices, best=best)
  if check < 0:
    raise ArgumentError(f'check must be at least 0, not {check}.')
  _check_shares(efficiency=efficiency, usable=usable)
  _check_positive(network=network, price=price)
  config = read_config(model, exits)
  if config.model.state_space is not None:
    raise ArgumentError(
      'a plan knows what attention and MLPs keep and compute, and not what '
      'state-space mixers do; measure a step of this model instead.'
    )
  machine = _machine(
    read_hardware(hardware),
    efficiency=efficiency,
    network=network,
    devices=devices,
    slices=slices,
  )
  request = PlanRequest(
    workload=Workload(
      config,
      _regime(regime or ('joint' if config.exits else 'standard')),
      rows=batch_size,
      length=sequence_length,
      dtype=dtype,
      chunk_size=chunk_size,
      backbone=_quantization(backbone),
    ),
    machine=machine,
    devices=devices,
    usable=usable,
    price=price,
    slices=slices,
  )
  known = ''
  if check:
    known = topology_of(hardware, devices=devices, slices=slices)
  layouts = _layouts(request, mesh, progress)
  return PlanResult(
    request,
    layouts,
    best=best,
    compiled=_compiled(request, layouts.fitting[:check], known, progress),
  )


def _machine(
  device: Hardware,
  *,
  efficiency: float,
  network: float | None,
  devices: int,
  slices: int,
) -> Machine:
  """Return a device with the network that joins it to others.

  Within a slice TPUs need none.
  """
  is_tpu = device.platform is Platform.TPU
  if slices > 1 and (not is_tpu or devices % slices):
    raise ArgumentError(
      f'slices are of TPUs and divide the devices: {devices} x {device.name} '
      f'are not {slices} slices.'
    )
  speed = 1e9 * (NETWORK_GB if network is None else network)
  if network is None and device.network_bandwidth is not None:
    speed = device.network_bandwidth
  needs_network = network is not None or slices > 1 or not is_tpu
  return Machine(
    device,
    efficiency=efficiency,
    network=speed if needs_network else None,
    slice_devices=devices // slices if slices > 1 else None,
  )


def _compiled(
  request: PlanRequest,
  plans: Sequence[LayoutPlan],
  topology: str,
  progress: Progress,
) -> tuple[CompiledLayout, ...]:
  if not plans:
    return ()
  devices = devices_of(topology)
  return tuple(
    compile_layout(request.workload, plan.arrangement, devices=devices)
    for plan in progress.track(plans, 'compiling layouts', unit='layout')
  )


def read_config(
  model: Model | EarlyExitConfig | str | os.PathLike, exits: str | None = None
) -> EarlyExitConfig:
  """Return the configuration of a model, loaded or named, with exits.

  Args:
    model: as `plan` takes it; of a folder the configuration alone is read.
    exits: a name in `configs/exits`, or `DEPTH:HEAD,...`; None keeps the
      exits of the model.

  Raises:
    EejaxError: there is no such model, or no such exits.
  """
  config = _config_of(model)
  if exits is None:
    return config
  as_written = ':' in exits or exits.isdigit()
  read = parse_exits if as_written else architectures.read_exits
  return EarlyExitConfig(config.model, read(exits))


def _config_of(
  model: Model | EarlyExitConfig | str | os.PathLike,
) -> EarlyExitConfig:
  if isinstance(model, Model):
    return model.config
  if isinstance(model, EarlyExitConfig):
    return model
  folder = storage.as_path(model)
  if not folder.is_dir():
    return EarlyExitConfig(architectures.read_model(str(model)))
  if (folder / manifest.NAME).is_file():
    return manifest.read_config(folder)
  return huggingface.map_folder(folder).config


def _layouts(
  request: PlanRequest, mesh: str | None, progress: Progress
) -> Layouts:
  if mesh is not None:
    only = parse_mesh(mesh).resolved(request.devices)
    return choose.choose(request, among=[only])
  meshes = tuple(choose.meshes(request.devices))
  tracked = progress.track(meshes, 'trying meshes', unit='arrangement')
  return choose.choose(request, among=tracked)


def _quantization(backbone: str) -> Quantization:
  if backbone not in ('compute', 'int8'):
    raise ArgumentError(f'backbone must be compute or int8, not {backbone!r}.')
  return Quantization.INT8 if backbone == 'int8' else Quantization.NONE


def _regime(name: str) -> Learns:
  known = [regime.value for regime in Learns]
  if name not in known:
    raise ArgumentError(
      f'regime must be one of {", ".join(known)}, not {name!r}.'
    )
  return Learns(name)


def _check_counts(**values: int) -> None:
  for name, value in values.items():
    if value < 1:
      raise ArgumentError(f'{name} must be at least 1, not {value}.')


def _check_shares(**values: float) -> None:
  for name, value in values.items():
    if not 0 < value <= 1:
      raise ArgumentError(f'{name} is a share in (0, 1], not {value}.')


def _check_positive(**values: float | None) -> None:
  for name, value in values.items():
    if value is not None and value <= 0:
      raise ArgumentError(f'{name} must be above 0, not {value}.')
