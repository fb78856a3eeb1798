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
"""Machines by name: peaks, memory and links of `configs/hardware`."""

import dataclasses
import enum
import json

from eejax import resources, storage
from eejax.errors import ArgumentError


class Platform(enum.Enum):
  """Whose compiler makes a machine's programs; what `jax.Device` calls it."""

  CPU = 'cpu'
  GPU = 'gpu'
  TPU = 'tpu'


@dataclasses.dataclass(frozen=True)
class Hardware:
  """Peaks of one device of a machine, as its maker states them.

  Attributes:
    name: of the device.
    peak_flops: floating-point operations a second, by dtype; dense.
    memory_bytes: of a device.
    memory_bandwidth: bytes a second from its memory.
    link_bandwidth: bytes a second between it and others, over all its links
      and in both directions together.
    devices_per_host: devices that one process sees.
    network_bandwidth: bytes a second that a device sends to another slice;
      None is not stated.
    platform: whose compiler makes its programs.
    device_kinds: what jax calls the device.
  """

  name: str
  peak_flops: dict[str, float]
  memory_bytes: float
  memory_bandwidth: float
  link_bandwidth: float
  devices_per_host: int
  network_bandwidth: float | None = None
  platform: Platform = Platform.GPU
  device_kinds: tuple[str, ...] = ()

  def __post_init__(self):
    numbers = [
      *self.peak_flops.values(),
      self.memory_bytes,
      self.memory_bandwidth,
      self.link_bandwidth,
      self.devices_per_host,
      1.0 if self.network_bandwidth is None else self.network_bandwidth,
    ]
    if not self.peak_flops or not all(n > 0 for n in numbers):
      raise ArgumentError(
        f'the figures of the hardware {self.name} must be above 0.'
      )

  def flops(self, dtype: str) -> float:
    """Return the peak in a dtype.

    Raises:
      ArgumentError: the maker states none.
    """
    if dtype not in self.peak_flops:
      raise ArgumentError(
        f'{self.name} has no peak for {dtype}; there are '
        f'{", ".join(sorted(self.peak_flops))}.'
      )
    return self.peak_flops[dtype]


def hardware_names() -> tuple[str, ...]:
  """Return the machines that `read_hardware` knows."""
  folder = resources.folder('configs') / 'hardware'
  return tuple(sorted(path.stem for path in folder.glob('*.json')))


def hardware_of(device_kind: str) -> Hardware | None:
  """Return the machine of `configs/hardware` that jax calls so, if any.

  Example:
    >>> hardware_of('TPU v5 lite').name
    'TPU v5e'
  """
  for name in hardware_names():
    hardware = read_hardware(name)
    if device_kind in hardware.device_kinds:
      return hardware
  return None


def read_hardware(name: str) -> Hardware:
  """Return a machine of `configs/hardware`, or of a file like those.

  Args:
    name: a file's name without `.json`, or the path of a JSON file that has
      fields of `Hardware`.

  Example:
    >>> read_hardware('tpu_v5p').devices_per_host
    4

  Raises:
    ArgumentError: there is no such file, or it is not a machine.
  """
  path = storage.local_path(name)
  if path.suffix != '.json':
    path = resources.folder('configs') / 'hardware' / f'{name}.json'
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise ArgumentError(
      f'there is no hardware {name!r}; known are {", ".join(hardware_names())}.'
    ) from None
  except ValueError as error:
    raise ArgumentError(f'{path} is not JSON: {error}.') from None
  try:
    values.pop('source', None)
    platform = Platform(values.pop('platform', Platform.GPU.value))
    kinds = tuple(values.pop('device_kinds', ()))
    return Hardware(**values, platform=platform, device_kinds=kinds)
  except (TypeError, AttributeError, ValueError) as error:
    raise ArgumentError(
      f'{path} does not describe hardware: {error}.'
    ) from None
