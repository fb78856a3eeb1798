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
"""One host of a run on several hosts, for `multihost_test.py`.

Args: the address of host 0, the rank, the count, and what to do.
"""

import json
import os
import signal
import sys
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.errors import ArgumentError, EejaxError
from eejax.parallel import multihost
from eejax.parallel.environment import Hosts


def agree(rank):
  """Return what this host learns from the others."""
  calls = []

  def fail():
    raise ArgumentError('the folder is taken.')

  learnt = {
    'gathered': [multihost.gather({'is': rank}), multihost.gather(rank)],
    'first': multihost.from_first(lambda: calls.append(rank) or {'n': 7}),
    'calls': calls,
    'count': multihost.count(),
    'is_first': multihost.is_first(),
    'lost': multihost.lost_host(ValueError('something else')),
  }
  try:
    multihost.from_first(fail)
  except EejaxError as error:
    learnt['raised'] = [type(error).__name__, str(error)]
  multihost.barrier()
  mesh = Mesh(np.array(jax.devices()), ('data',))
  cut = jax.make_array_from_callback(
    (multihost.count(),),
    NamedSharding(mesh, PartitionSpec('data')),
    lambda index: np.array([10.0 + rank]),
  )
  learnt['whole'] = multihost.to_host(cut).tolist()
  return learnt


def stop(rank):
  """Return after how many steps this host stops, which host 1 asks for."""
  stops = []
  for asked in (3, 0):
    agreement = multihost.StopAgreement()
    steps = 0
    while not agreement.agreed(requested=rank == 1 and steps >= asked):
      steps += 1
      time.sleep(0.01 * rank)  # hosts are not equally fast
      if steps % 5 == 0:
        multihost.gather(steps)  # as a checkpoint does
    stops.append(steps)
  # One that nobody asked for.
  idle = multihost.StopAgreement()
  assert not any(idle.agreed(requested=False) for _ in range(3))
  return stops


def be_told():
  """Wait for what the monitor says, as in a collective that hangs."""
  time.sleep(120)


def work(rank, what):
  """Do what the test wants of this host."""
  if what == 'agree':
    return {**agree(rank), 'stops': stop(rank)}
  victim, how = int(what[-1]), what[:-1]
  multihost.barrier()
  if rank != victim:
    be_told()
  if how == 'kill':
    os.kill(os.getpid(), signal.SIGKILL)
  raise EejaxError('its disk is full.')


def main(address, rank, count, what):
  """Run this host, and end as `eejax.cli.main` does."""
  rank, count = int(rank), int(count)
  identity = {'RATE': 0.2 if what == 'differ' and rank == 2 else 0.1}

  def on_loss(sentence):
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)

  try:
    multihost.initialize(
      Hosts(address, rank, count), identity=identity, on_loss=on_loss
    )
    learnt = work(rank, what)
    multihost.shutdown(0)
    print(json.dumps(learnt))
  except EejaxError as error:
    print(error, file=sys.stderr)
    multihost.shutdown(error.exit_code, str(error))
    sys.exit(error.exit_code)


if __name__ == '__main__':
  main(*sys.argv[1:])
