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
"""The flag --mesh, of verbs that decode or read a text."""

import argparse
import enum
from typing import TYPE_CHECKING

from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from eejax.parallel.environment import Hosts

MEANING = 'devices: axes as in data=2,model=4, or a known name'


def add_argument(parser: argparse._ActionsContainer, *, more: str = '') -> None:
  """Add the flag.

  Args:
    parser: of the verb.
    more: that the verb says of it.
  """
  parser.add_argument('--mesh', metavar='MESH', help=MEANING + more)


class Processes(enum.Enum):
  """How many processes a verb may run in.

  ONE: it writes files, which several would write at once. SEVERAL: each prints
  the whole result.
  """

  ONE = 'one'
  SEVERAL = 'several'


def devices(
  args: argparse.Namespace, *, processes: Processes = Processes.ONE
) -> 'Mesh | None':
  """Return the devices that were asked for; call it before anything computes.

  Where the environment names several processes, they are joined first.

  Args:
    args: of the command line.
    processes: that the verb may run in.

  Raises:
    EejaxError: the mesh does not fit the devices or has stages, hosts are
      missing or differ, or there may be only one.
  """
  if args.mesh is None:
    return None
  from eejax.decoding.loop.device_placement import check_no_stages
  from eejax.parallel import environment
  from eejax.parallel import mesh as mesh_lib

  config = mesh_lib.parse_mesh(args.mesh)
  mesh_lib.simulate(config)
  hosts = environment.from_environment()
  if hosts is not None and hosts.count > 1:
    if processes is Processes.ONE:
      raise ArgumentError(
        f'this verb runs in one process, and the environment names '
        f'{hosts.count}; start it once, without {environment.COORDINATOR}.'
      )
    _join(hosts, args)
  mesh = mesh_lib.devices_of(config)
  check_no_stages(mesh)
  return mesh


def _join(hosts: 'Hosts', args: argparse.Namespace) -> None:
  from eejax.parallel import multihost

  asked = {name: repr(value) for name, value in sorted(vars(args).items())}
  multihost.initialize(hosts, identity=asked, on_loss=multihost.end_at_once)
