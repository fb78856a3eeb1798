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
"""Whether there is room for a tree, asked before anything is allocated."""

import pathlib
import re

import jax
from jax.sharding import Mesh

from eejax.errors import EejaxError
from eejax.parallel import sharding
from eejax.types import PyTree

_GIB = 2**30


def available_bytes(mesh: Mesh) -> int | None:
  """Return how much each of this host's devices can still hold.

  The least of them; None where nobody knows. CPU devices share what the
  system has left.
  """
  devices = [d for d in mesh.devices.flat if d in set(jax.local_devices())]
  free = []
  for device in devices:
    statistics = device.memory_stats() or {}
    if 'bytes_limit' in statistics:
      free.append(statistics['bytes_limit'] - statistics['bytes_in_use'])
  if free:
    return min(free)
  system = _system_bytes()
  return None if system is None else system // max(len(devices), 1)


def _system_bytes() -> int | None:
  try:
    text = pathlib.Path('/proc/meminfo').read_text()
  except OSError:
    return None
  found = re.search(r'MemAvailable:\s+(\d+) kB', text)
  return int(found[1]) * 1024 if found else None


def check_room(
  tree: PyTree, *, mesh: Mesh, what: str, places: PyTree = None
) -> None:
  """Check that the parts of a tree fit into their devices.

  Args:
    tree: anything with shapes and dtypes; nothing needs to be there yet.
    mesh: where it shall lie.
    what: names it in the message.
    places: a sharding for each leaf; by default what the rules say.

  Raises:
    EejaxError: they do not.
  """
  if places is None:
    places = sharding.shardings(tree, mesh=mesh)
  needed = sharding.bytes_on_device(tree, places=places)
  available = available_bytes(mesh)
  if available is not None and needed > available:
    raise EejaxError(
      f'{what} takes {needed / _GIB:.3g} GiB on each device and '
      f'{available / _GIB:.3g} GiB are free; use a mesh with larger fsdp, '
      'model or stage.'
    )
