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
"""Several processes that work on one run: who they are and what they agree on.

Without them everything here answers as the only host would.
"""

import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from eejax import errors
from eejax.errors import EejaxError
from eejax.parallel import roll_call
from eejax.parallel.environment import Hosts
from eejax.parallel.line import Line
from eejax.types import PyTree

T = TypeVar('T')

JOIN_TIMEOUT = 'EEJAX_JOIN_TIMEOUT'

_DEFAULT_TIMEOUT = 300.0
_MOST_DIFFERENCES = 3
_VERDICT_SECONDS = 1.0

_line: Line | None = None


def initialize(
  hosts: Hosts,
  *,
  identity: Mapping[str, Any],
  on_loss: Callable[[str], None],
) -> None:
  """Join the other processes of the run; call it before any computation.

  Args:
    hosts: from the environment.
    identity: plain values that decide the losses; all hosts must have the
      same, and the same code.
    on_loss: told in a sentence that a host was lost; it should end the
      process.

  Raises:
    EejaxError: a host never joined, or one was started with something else.
  """
  global _line
  timeout = float(os.environ.get(JOIN_TIMEOUT, _DEFAULT_TIMEOUT))
  host, port = roll_call.split_address(hosts.address)
  _line = roll_call.join(
    f'{host}:{port + 1}',
    rank=hosts.rank,
    count=hosts.count,
    introduction={'code': code_hash(), 'identity': dict(identity)},
    check=disagreement,
    on_loss=on_loss,
    timeout_s=timeout,
  )
  jax.distributed.initialize(
    hosts.address,
    num_processes=hosts.count,
    process_id=hosts.rank,
    local_device_ids=hosts.local_devices,
    cluster_detection_method='deactivate',
    initialization_timeout=max(int(timeout), 1),
    shutdown_timeout_seconds=30,
  )


def line() -> Line | None:
  """Return the line to the other processes, None without any."""
  return _line


def shutdown(exit_code: int, sentence: str = '') -> None:
  """End the work with the other processes; what a process does last.

  One that fails ends here: at Python's own end, jax would wait for the
  others, who wait for this one in a collective.

  Args:
    exit_code: of the process.
    sentence: what went wrong, for the others to show.
  """
  own = line()
  if own is None:
    return
  if exit_code == 0:
    own.exchange('end')
    own.close()
    return
  own.fail(sentence)
  sys.stdout.flush()
  sys.stderr.flush()
  if own.rank == 0:
    # jax aborts the others when its service is gone.
    own.wait_for_others(5.0)
  os._exit(exit_code)


def disagreement(introductions: list[dict[str, Any]]) -> str | None:
  """Return what differs between hosts in a sentence, None if nothing does."""
  first = introductions[0]
  for rank, other in enumerate(introductions):
    if other['code'] != first['code']:
      return (
        f'host {rank} runs other code than host 0 ({other["code"]} and '
        f'{first["code"]}); install the same version on all hosts.'
      )
    mine, theirs = first['identity'], other['identity']
    names = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
    if names:
      listed = '; '.join(
        f'{n} is {theirs.get(n)!r} there and {mine.get(n)!r} on host 0'
        for n in names[:_MOST_DIFFERENCES]
      )
      return (
        f'host {rank} was started with another configuration: {listed}; '
        'start all hosts with the same command.'
      )
  return None


def code_hash() -> str:
  """Return a hash of this package's code and of the version of jax."""
  digest = hashlib.sha256(jax.__version__.encode())
  root = pathlib.Path(errors.__file__).parent
  for path in sorted(root.rglob('*.py')):
    digest.update(path.relative_to(root).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


# MARK: Agreement


def is_first() -> bool:
  """Return whether this process writes what there is one of."""
  own = line()
  return own is None or own.rank == 0


def count() -> int:
  """Return how many processes there are."""
  own = line()
  return 1 if own is None else own.count


def gather(value: Any) -> list[Any]:
  """Return every process's plain `value`; all of them must ask."""
  own = line()
  return [value] if own is None else own.exchange(value)


def barrier() -> None:
  """Wait until all processes are here."""
  gather(None)


def from_first(work: Callable[[], T]) -> T:
  """Return what `work` returns on host 0, where alone it is called.

  Args:
    work: returns plain values for JSON. What it raises is raised everywhere.
  """
  own = line()
  if own is None:
    return work()
  if own.rank == 0:
    try:
      result = work()
    except EejaxError as error:
      gather({'error': type(error).__name__, 'words': str(error)})
      raise
    gather({'result': result})
    return result
  told = gather(None)[0]
  if 'error' in told:
    raise getattr(errors, told['error'], EejaxError)(told['words'])
  return told['result']


class StopAgreement:
  """Let all processes stop at the same step when one of them is asked to.

  A process learns two steps later what the others wished, for their answers
  are on the way while it computes; with one process there is no delay.
  """

  DELAY = 2

  def agreed(self, *, requested: bool) -> bool:
    """Return whether to stop now; call it once before every step."""
    own = line()
    if own is None:
      return requested
    own.begin(requested)
    if own.pending() <= self.DELAY:
      return False
    return any(own.finish())

  def settle(self) -> None:
    """Take in what is still on the way, when no step follows."""
    own = line()
    while own is not None and own.pending():
      own.finish()


def lost_host() -> str | None:
  """Return the sentence about a host that was lost, None if none was.

  A collective may fail a moment before the loss is known, so call it then: it
  waits as long as it takes to know.
  """
  own = line()
  return None if own is None else own.verdict(_VERDICT_SECONDS)


def to_host(tree: PyTree) -> PyTree:
  """Return the arrays of a tree whole on every host; all must ask."""
  own = line()
  if own is None:
    return jax.device_get(tree)
  with jax.set_mesh(None):
    return multihost_utils.process_allgather(tree, tiled=True)
