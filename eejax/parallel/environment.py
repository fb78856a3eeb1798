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
"""Which process of a run this is, as its surroundings say."""

import dataclasses
import os
import re
import urllib.request
from collections.abc import Callable, Mapping

from eejax.errors import EejaxError

COORDINATOR = 'EEJAX_COORDINATOR'
NUM_PROCESSES = 'EEJAX_NUM_PROCESSES'
PROCESS_ID = 'EEJAX_PROCESS_ID'
LOCAL_DEVICES = 'EEJAX_LOCAL_DEVICES'

_TPU_PORT = 8476
# How Google's launchers tell slices of one run apart.
_SLICES, _SLICE = 'MEGASCALE_NUM_SLICES', 'MEGASCALE_SLICE_ID'
_FIRST_HOST = 'MEGASCALE_COORDINATOR_ADDRESS'
_METADATA = 'http://metadata.google.internal/computeMetadata/v1/instance/'
_TPU_DEVICES = ('/dev/accel0', '/dev/vfio/0')


@dataclasses.dataclass(frozen=True)
class Hosts:
  """Say which process this is, and of how many.

  Attributes:
    address: `HOST:PORT` of process 0, for jax's runtime; the port after it is
      taken, too.
    rank: number of this process, 0..count-1.
    count: how many processes there are.
    local_devices: devices of the machine that this process takes; None takes
      all.
  """

  address: str
  rank: int
  count: int
  local_devices: tuple[int, ...] | None = None


def from_environment(
  environ: Mapping[str, str] | None = None,
  *,
  fetch: Callable[[str], str] | None = None,
) -> Hosts | None:
  """Return the processes of this run; None where this is the only one.

  Looked at in this order: `EEJAX_COORDINATOR`, `EEJAX_NUM_PROCESSES` and
  `EEJAX_PROCESS_ID`; a step of Slurm; the hosts of a TPU slice, as its
  environment or its metadata server names them.

  Args:
    environ: by default the environment of this process.
    fetch: reads an attribute of the metadata server; by default it is asked
      on machines that have a TPU.

  Raises:
    EejaxError: what is there is incomplete or makes no sense.
  """
  environ = os.environ if environ is None else environ
  if any(name in environ for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID)):
    hosts = _explicit(environ)
  elif 'SLURM_STEP_NODELIST' in environ and 'SLURM_PROCID' in environ:
    hosts = _slurm(environ)
  elif environ.get('TPU_WORKER_HOSTNAMES'):
    names = environ['TPU_WORKER_HOSTNAMES'].split(',')
    hosts = _tpu(names, _number(environ, 'TPU_WORKER_ID'), environ)
  elif fetch or any(os.path.exists(path) for path in _TPU_DEVICES):
    hosts = _tpu_metadata(fetch or _fetch)
  else:
    return None
  if not 0 <= hosts.rank < hosts.count:
    raise EejaxError(
      f'process {hosts.rank} of {hosts.count} cannot be; processes are '
      'numbered from 0.'
    )
  return hosts if hosts.count > 1 else None


def _explicit(environ: Mapping[str, str]) -> Hosts:
  for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID):
    if name not in environ:
      raise EejaxError(
        f'{name} is missing; several processes need {COORDINATOR}, '
        f'{NUM_PROCESSES} and {PROCESS_ID}.'
      )
  devices = None
  if environ.get(LOCAL_DEVICES):
    devices = tuple(int(d) for d in environ[LOCAL_DEVICES].split(','))
  return Hosts(
    address=environ[COORDINATOR],
    rank=_number(environ, PROCESS_ID),
    count=_number(environ, NUM_PROCESSES),
    local_devices=devices,
  )


def _slurm(environ: Mapping[str, str]) -> Hosts:
  # Two steps of one job come one after the other, so a port a job will do.
  port = 61_000 + 2 * (_number(environ, 'SLURM_JOB_ID') % 2000)
  host = first_node(environ['SLURM_STEP_NODELIST'])
  devices = None
  tasks_here = environ.get('SLURM_STEP_TASKS_PER_NODE', '1')
  if not tasks_here.startswith('1') or tasks_here[1:2].isdigit():
    devices = (_number(environ, 'SLURM_LOCALID'),)
  return Hosts(
    address=f'{host}:{port}',
    rank=_number(environ, 'SLURM_PROCID'),
    count=_number(environ, 'SLURM_STEP_NUM_TASKS'),
    local_devices=devices,
  )


def first_node(nodes: str) -> str:
  """Return the first of Slurm's list of nodes, `gpu[007-010,12],cpu3`."""
  found = re.match(r'([^\[,]+)(?:\[(\d+))?', nodes)
  if found is None:
    raise EejaxError(f'{nodes!r} is no list of nodes of Slurm.')
  return found[1] + (found[2] or '')


def _tpu(names: list[str], rank: int, several: Mapping[str, str]) -> Hosts:
  """Return the processes of a slice, or of all slices of a run.

  Args:
    names: of the hosts of this slice.
    rank: of this host in it.
    several: what Google says of several slices, which all have as many hosts.
  """
  slices = int(several.get(_SLICES) or 1)
  if slices == 1:
    return Hosts(f'{names[0]}:{_TPU_PORT}', rank, len(names))
  first = several.get(_FIRST_HOST, '').split(':')[0]
  if not first:
    raise EejaxError(
      f'{_SLICES} is {slices} and {_FIRST_HOST} is missing; it names the host '
      'at which the slices meet.'
    )
  rank += _number(several, _SLICE) * len(names)
  return Hosts(f'{first}:{_TPU_PORT}', rank, slices * len(names))


def _tpu_metadata(fetch: Callable[[str], str]) -> Hosts:
  try:
    workers = fetch('attributes/worker-network-endpoints').split(',')
    rank = int(fetch('attributes/agent-worker-number'))
  except (OSError, ValueError):
    # A TPU without a metadata server has one host.
    return Hosts('localhost:0', 0, 1)
  # A worker is NAME:ZONE:ADDRESS.
  names = [w.split(':')[2] for w in workers]
  return _tpu(names, rank, _tpu_environment(fetch))


def _tpu_environment(fetch: Callable[[str], str]) -> dict[str, str]:
  """Return the metadata server's own list of variables, as NAME: 'VALUE'."""
  try:
    text = fetch('attributes/tpu-env')
  except (OSError, KeyError):
    return {}
  return dict(re.findall(r"^\s*(\w+)\s*:\s*'?([^'\n]*)'?\s*$", text, re.M))


def _fetch(attribute: str) -> str:
  request = urllib.request.Request(
    _METADATA + attribute, headers={'Metadata-Flavor': 'Google'}
  )
  with urllib.request.urlopen(request, timeout=5) as response:
    return response.read().decode()


def _number(environ: Mapping[str, str], name: str) -> int:
  try:
    return int(environ[name])
  except (KeyError, ValueError):
    raise EejaxError(
      f'{name} must be a number, not {environ.get(name)!r}.'
    ) from None
