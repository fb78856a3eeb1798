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
"""The mesh: how many devices work on each axis, and which."""

import dataclasses
import json
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from eejax import resources, storage
from eejax.axes import BATCH_AXES, DATA, EXPERT, MESH_AXES, STAGE
from eejax.config.field_types import check_fields
from eejax.errors import EejaxError

REST = -1


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Say how the devices are arranged.

  Attributes:
    data: copies of the model, each with rows of its own.
    fsdp: parts that parameters and optimizer state of a copy are cut into;
      every part has rows of its own, too.
    stage: pipeline stages, which share the blocks.
    model: parts that heads, MLPs and vocabularies are cut into; sequences
      are, too, between those.
    expert: parts that the experts of a block are shared out to; every part has
      rows of its own, too, and without experts it is one more copy.
    simulated_devices: CPU devices to pretend this process has; 0 takes what
      is there. They share its cores: to try a mesh out.

  One axis may be -1: all devices that the others leave.
  """

  data: int = REST
  fsdp: int = 1
  stage: int = 1
  model: int = 1
  expert: int = 1
  simulated_devices: int = 0

  def __post_init__(self):
    check_fields(self)
    sizes = self.sizes()
    for name, size in sizes.items():
      if size < 1 and size != REST:
        raise EejaxError(
          f'the mesh axis {name} must be at least 1, or {REST} for the rest '
          f'of the devices, not {size}.'
        )
    if list(sizes.values()).count(REST) > 1:
      raise EejaxError(
        f'one axis of a mesh may be {REST}, not several: {self.describe()}.'
      )
    if self.simulated_devices < 0:
      raise EejaxError(
        f'simulated_devices must be >= 0, not {self.simulated_devices}.'
      )

  def sizes(self) -> dict[str, int]:
    """Return the size of each axis, in the order of the mesh."""
    return {name: getattr(self, name) for name in MESH_AXES}

  @property
  def row_shares(self) -> int:
    """Return how many shares the rows of a batch are cut into."""
    return math.prod(self.sizes()[name] for name in BATCH_AXES)

  def describe(self) -> str:
    """Return the mesh in the words that `parse_mesh` reads."""
    return ','.join(f'{name}={size}' for name, size in self.sizes().items())

  def resolved(self, num_devices: int) -> 'MeshConfig':
    """Return the mesh with its -1 replaced.

    Raises:
      EejaxError: the axes do not multiply to the devices.
    """
    sizes = self.sizes()
    known = math.prod(size for size in sizes.values() if size != REST)
    has_rest = REST in sizes.values()
    if num_devices % known or (not has_rest and num_devices != known):
      needed = f'a multiple of {known}' if has_rest else str(known)
      raise EejaxError(
        f'the mesh {self.describe()} needs {needed} devices and there are '
        f'{num_devices}; change an axis, or make one {REST} to take the rest.'
      )
    whole = {
      name: num_devices // known if size == REST else size
      for name, size in sizes.items()
    }
    return dataclasses.replace(self, **whole)


# What verbs take as a mesh, see `devices_of`.
MeshChoice = str | MeshConfig | Mesh


def parse_mesh(text: str) -> MeshConfig:
  """Return the mesh of `data=2,model=4`, or of a name in `configs/meshes`.

  Axes that are not named are 1; `data` takes the rest of the devices where
  nothing else does.

  Raises:
    EejaxError: the text is neither.
  """
  if '=' not in text:
    return named_mesh(text)
  sizes: dict[str, int] = {}
  for part in text.split(','):
    name, _, size = part.partition('=')
    try:
      number = int(size)
    except ValueError:
      number = 0
    if name.strip() not in MESH_AXES or not number:
      raise EejaxError(
        f'{part!r} is no axis of a mesh; write some of '
        f'{", ".join(f"{a}=N" for a in MESH_AXES)}.'
      )
    sizes[name.strip()] = number
  if REST in sizes.values():
    sizes.setdefault('data', 1)
  return MeshConfig(**sizes)


def mesh_names() -> tuple[str, ...]:
  """Return the meshes that `named_mesh` knows."""
  folder = resources.folder('configs') / 'meshes'
  return tuple(sorted(path.stem for path in folder.glob('*.json')))


def named_mesh(name: str) -> MeshConfig:
  """Return a mesh of `configs/meshes`, or of a JSON file like those.

  Raises:
    EejaxError: there is none, or it cannot be understood.
  """
  path = storage.local_path(name)
  if path.suffix != '.json':
    path = resources.folder('configs') / 'meshes' / f'{name}.json'
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
    return MeshConfig(**values['mesh'])
  except FileNotFoundError:
    raise EejaxError(
      f'there is no mesh {name!r}; write axes, as in data=2,model=4, or one '
      f'of {", ".join(mesh_names())}.'
    ) from None
  except (ValueError, KeyError, TypeError) as error:
    raise EejaxError(f'{path} does not describe a mesh: {error}.') from None


def simulate(config: MeshConfig) -> None:
  """Let this process have as many CPU devices as the mesh asks for.

  Call it before anything is computed.

  Raises:
    EejaxError: too late: jax has its devices already.
  """
  count = config.simulated_devices
  if not count:
    return
  try:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:
    if len(jax.local_devices()) < count:
      raise EejaxError(
        f'{count} devices cannot be simulated any more; start with '
        f'JAX_NUM_CPU_DEVICES={count} in the environment.'
      ) from None


def make_mesh(
  config: MeshConfig, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Return the devices arranged as `config` says.

  Neighbours on `model` are neighbours on the machine. Slices of TPUs, which
  the network of the data center joins, lie along `data`.

  Args:
    config: sizes of the axes.
    devices: which devices, all of every host by default.

  Raises:
    EejaxError: the axes do not multiply to the devices, or `data` does not
      divide by the slices.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = tuple(config.resolved(len(devices)).sizes().values())
  if devices[0].platform == 'cpu':
    grid = np.array(devices).reshape(shape)
  else:
    grid = _grid(shape, devices)
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _grid(shape: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
  """Return accelerators in an order that suits their links."""
  # A torus has better ways round than the order of its devices.
  slices = 1
  if devices[0].platform == 'tpu':
    slices = len({getattr(d, 'slice_index', 0) for d in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  place = MESH_AXES.index(DATA)
  if shape[place] % slices:
    raise EejaxError(
      f'{slices} slices are joined along data, and data={shape[place]} does '
      f'not divide by them; make data a multiple of {slices}.'
    )
  between = [1] * len(shape)
  between[place] = slices
  within = [n // m for n, m in zip(shape, between, strict=True)]
  return mesh_utils.create_hybrid_device_mesh(
    within, between, devices, allow_split_physical_axes=True
  )


def devices_of(choice: MeshChoice) -> Mesh:
  """Return the devices that a mesh asks for, with every axis.

  Args:
    choice: axes as in `data=2,model=4` or a name, a `MeshConfig`, or devices
      that jax has arranged, whose axes have some of these names.

  Raises:
    EejaxError: the text is no mesh, the axes do not multiply to the devices,
      or one has another name.
  """
  if isinstance(choice, Mesh):
    return _with_every_axis(choice)
  config = parse_mesh(choice) if isinstance(choice, str) else choice
  simulate(config)
  return make_mesh(config)


def describe(mesh: Mesh) -> str:
  """Return the axes of several devices, as `parse_mesh` reads them."""
  several = {name: size for name, size in mesh.shape.items() if size > 1}
  words = [f'{name}={size}' for name, size in several.items()]
  return ','.join(words) or 'data=1'


def has_stages(choice: MeshChoice) -> bool:
  """Return whether a mesh asks for pipeline stages; see `devices_of`."""
  if isinstance(choice, Mesh):
    return choice.shape.get(STAGE, 1) > 1
  config = parse_mesh(choice) if isinstance(choice, str) else choice
  return config.stage != 1


def _with_every_axis(mesh: Mesh) -> Mesh:
  others = [name for name in mesh.axis_names if name not in MESH_AXES]
  if others:
    raise EejaxError(
      f'a mesh has the axes {", ".join(MESH_AXES)}, and this one has '
      f'{others[0]!r}; name it as one of these.'
    )
  order = [n for n in MESH_AXES if n in mesh.axis_names]
  turned = mesh.devices.transpose([mesh.axis_names.index(n) for n in order])
  shape = [mesh.shape.get(name, 1) for name in MESH_AXES]
  types = (AxisType.Auto,) * len(MESH_AXES)
  return Mesh(turned.reshape(shape), MESH_AXES, axis_types=types)


def check_batch(mesh: Mesh, *, rows: int, microbatches: int = 1) -> None:
  """Check that the rows of a batch can be shared out.

  Raises:
    EejaxError: they cannot.
  """
  shards = math.prod(mesh.shape[a] for a in BATCH_AXES)
  if rows % (shards * microbatches):
    each = ''
    axes = [a for a in BATCH_AXES if a != EXPERT or mesh.shape[a] > 1]
    names = ' x '.join(axes)
    if microbatches > 1:
      each = f' in each of {microbatches} microbatches'
    raise EejaxError(
      f'a batch of {rows} rows does not divide among the {names} = '
      f'{shards} shares of the mesh{each}; make it a multiple of '
      f'{shards * microbatches}.'
    )


def check_stages(mesh: Mesh, *, blocks: int) -> None:
  """Check that every pipeline stage has a block.

  Raises:
    EejaxError: there are more stages than blocks.
  """
  stages = mesh.shape['stage']
  if stages > blocks:
    raise EejaxError(
      f'{stages} stages cannot share {blocks} blocks; make the mesh axis '
      f'stage at most {blocks}.'
    )
