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
"""Devices that are not here, as their own compilers know them, by name.

Programs can be compiled for them, with no array and no device: the compiler
says what memory a program needs and what it copies. Nothing can be run.
"""

import contextlib
import dataclasses
import glob
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from eejax.errors import ArgumentError, EejaxError

_SQUARE = {
  4: '2x2',
  8: '2x4',
  16: '4x4',
  32: '4x8',
  64: '8x8',
  128: '8x16',
  256: '16x16',
}
# Chips of a slice and how they are laid out, by generation; the names of v5p
# count cores, of which a chip has two.
_TPU_SLICES = {
  'v5e': _SQUARE,
  'v5p': {
    4: '2x2x1',
    8: '2x2x2',
    16: '2x2x4',
    32: '2x4x4',
    64: '4x4x4',
    128: '4x4x8',
    256: '4x8x8',
  },
  'v6e': _SQUARE,
}
_CORES_OF_NAME = {'v5e': 1, 'v5p': 2, 'v6e': 1}

# What the makers state of a device, in the words of XLA's description.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""
_AMPERE = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 167936
  shared_memory_per_block_optin: 166912
  threads_per_core_limit: 2048
  core_count: 108
  fpus_per_core: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 2039000000000
  l2_cache_size: 41943040
  clock_rate_ghz: 1.41
  device_memory_size: 84978434048
  cuda_compute_capability { major: 8 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA A100-SXM4-80GB"
"""
_GPUS = {
  'A100': _AMPERE,
  'H100': _HOPPER.format(
    bandwidth=3_352_320_000_000,
    memory=84_978_434_048,
    name='NVIDIA H100 80GB HBM3',
  ),
  'H200': _HOPPER.format(
    bandwidth=4_800_000_000_000, memory=150_754_820_096, name='NVIDIA H200'
  ),
}


# What libtpu is told where there is no TPU. Otherwise it asks a server of
# Google's which machine this is, complains that nobody knows, and lets one
# process at a time describe devices that nobody has.
_NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}

# Files of `configs/hardware` whose compilers are known.
_OF_HARDWARE = {
  'tpu_v5e': 'v5e',
  'tpu_v5p': 'v5p',
  'tpu_v6e': 'v6e',
  'a100_80g': 'A100',
  'h100_80g': 'H100',
  'h200_141g': 'H200',
}


@dataclasses.dataclass(frozen=True)
class Machines:
  """What the name of a topology stands for.

  Attributes:
    hardware: a name in `configs/hardware`.
    devices: how many there are, chips of TPUs.
    slices: of TPUs, in which they lie.
  """

  hardware: str
  devices: int
  slices: int = 1


def machines_of(name: str) -> Machines:
  """Return what the name of a topology stands for; no compiler is asked.

  Args:
    name: as `devices_of` takes it.

  Raises:
    ArgumentError: no machine of that name is known.

  Example:
    >>> machines_of('2xv5p-64')
    Machines(hardware='tpu_v5p', devices=64, slices=2)
  """
  count, one = _parse(name)
  names = {kind: hardware for hardware, kind in _OF_HARDWARE.items()}
  if one in _GPUS:
    return Machines(names[one], count)
  kind, _, size = one.partition('-')
  chips = int(size) // _CORES_OF_NAME[kind]
  return Machines(names[kind], count * chips, count)


def topology_of(hardware: str, *, devices: int, slices: int = 1) -> str:
  """Return the name of so many devices of a machine of `configs/hardware`.

  Args:
    hardware: such as tpu_v5e.
    devices: how many; chips of a TPU.
    slices: of a TPU, joined by the network of the data center.

  Raises:
    ArgumentError: its compiler knows no such machine.

  Example:
    >>> topology_of('tpu_v5p', devices=32)
    'v5p-64'
  """
  kind = _OF_HARDWARE.get(hardware)
  if kind in _GPUS:
    return f'{devices}x{kind}'
  chips, rest = divmod(devices, slices)
  if kind is None or rest or chips not in _TPU_SLICES[kind]:
    each = f' in {slices} slices' if slices > 1 else ''
    raise ArgumentError(
      f'no compiler is known that describes {devices} devices{each} of '
      f'{hardware}; there are {", ".join(topology_names())}.'
    )
  several = f'{slices}x' if slices > 1 else ''
  return f'{several}{kind}-{chips * _CORES_OF_NAME[kind]}'


def topology_names() -> tuple[str, ...]:
  """Return the names that `devices_of` knows, of one slice or one host."""
  slices = [
    f'{kind}-{chips * _CORES_OF_NAME[kind]}'
    for kind, layouts in _TPU_SLICES.items()
    for chips in layouts
  ]
  return (*slices, *_GPUS, *(f'8x{name}' for name in _GPUS))


def devices_of(name: str) -> list[jax.Device]:
  """Return the devices of a machine; they describe it and run nothing.

  Args:
    name: of a TPU slice as Google names it, such as v5e-8 or v5p-64, of
      several of them, such as 2xv5e-256, or of GPUs, such as H100 or 8xH200;
      a host has up to eight of these.

  Raises:
    ArgumentError: no machine of that name is known.
    EejaxError: its compiler is not installed.
  """
  count, one = _parse(name)
  if one in _GPUS:
    hosts = f'{count // 8}x8' if count % 8 == 0 else f'1x{count}'
    return _describe(
      'cuda', '', target_config=_GPUS[one], topology=f'1x{hosts}'
    )
  kind, _, size = one.partition('-')
  layout = _TPU_SLICES[kind][int(size) // _CORES_OF_NAME[kind]]
  several = {'num_slices': count} if count > 1 else {}
  return _describe('tpu', f'{kind}:{layout}', **several)


def _parse(name: str) -> tuple[int, str]:
  """Return how many of what a topology is."""
  number, separator, one = name.rpartition('x')
  count = 0 if separator else 1
  if number.isdigit():
    count = int(number)
  if count < 1 or one not in topology_names():
    raise ArgumentError(
      f'no topology is named {name!r}; there are '
      f'{", ".join(topology_names())}, and several as in 2xv5e-8.'
    )
  return count, one


@contextlib.contextmanager
def compiling_for(device: jax.Device) -> Iterator[None]:
  """Keep no program that is compiled for a device that is not here.

  jax would write it to its folder of compiled programs and could not read it
  back.

  Args:
    device: any device of the machine; nothing changes for one that is here.
  """
  if device.platform == jax.default_backend():
    yield
    return
  config: Any = jax.config
  kept = config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  # jax asks once whether programs are kept, and remembers the answer.
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', kept)
    compilation_cache.reset_cache()


def _describe(platform: str, layout: str, **options: Any) -> list[jax.Device]:
  package, extra = {
    'tpu': ('libtpu', "pip install 'eejax[ahead]'"),
    'cuda': ('jax_plugins.xla_cuda13', 'launch/gpu_compiler.sh'),
  }[platform]
  if not _is_installed(package):
    raise EejaxError(
      f'{package} is not installed, and it has the compiler; get it with '
      f'`{extra}`.'
    )
  if platform == 'tpu' and not _has_tpu():
    for name, value in _NO_TPU.items():
      os.environ.setdefault(name, value)
  return list(
    topologies.get_topology_desc(
      platform=platform, topology_name=layout, **options
    ).devices
  )


def _has_tpu() -> bool:
  return bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except ModuleNotFoundError:
    return False
