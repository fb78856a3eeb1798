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
"""jax's coordination service, as far as jax has no public name for it.

The service runs on host 0 beside `jax.distributed`. It has a key-value store,
barriers, and heartbeats, from which it knows the hosts that are alive.
"""

import json
from typing import Any

import jax

from eejax.errors import EejaxError
from eejax.parallel.environment import Hosts

_NEEDED = (
  'blocking_key_value_get',
  'get_live_nodes',
  'key_value_delete',
  'key_value_dir_get',
  'key_value_set',
  'wait_at_barrier',
)
# All hosts are there when it starts; a machine may be busy.
_CONNECT_SECONDS = 60
_SHUTDOWN_SECONDS = 30
_PREFIX = 'eejax'

# What a call raises when the service is gone, refuses or runs out of time.
CoordinationError = jax.errors.JaxRuntimeError


class CoordinationClient:
  """A host's connection to the coordination service.

  Keys are paths, values plain values for JSON.
  """

  def __init__(self, client: Any):
    """Take over the client object of `jax.distributed`.

    Raises:
      EejaxError: this version of jax has another one.
    """
    missing = [name for name in _NEEDED if not hasattr(client, name)]
    if missing:
      raise EejaxError(
        f'jax {jax.__version__} has a coordination client without '
        f'{", ".join(missing)}; runs on several hosts need jax 0.10 to 0.12.'
      )
    self._client = client

  def put(self, key: str, value: Any) -> None:
    """Set a key, which may have a value already."""
    self._client.key_value_set(
      f'{_PREFIX}/{key}', json.dumps(value), allow_overwrite=True
    )

  def get(self, key: str, *, timeout_s: float) -> Any:
    """Return the value of a key, once it has one.

    Raises:
      TimeoutError: it has none in time.
      CoordinationError: the service is gone.
    """
    try:
      text = self._client.blocking_key_value_get(
        f'{_PREFIX}/{key}', int(timeout_s * 1000)
      )
    except CoordinationError as error:
      if 'DEADLINE_EXCEEDED' in str(error):
        raise TimeoutError(f'{key} has no value.') from error
      raise
    return json.loads(text)

  def values(self, folder: str) -> dict[str, Any]:
    """Return the values of all keys in a folder, by the rest of the key."""
    start = f'{_PREFIX}/{folder}/'
    pairs = self._client.key_value_dir_get(start)
    return {key.removeprefix(start): json.loads(text) for key, text in pairs}

  def delete(self, folder: str) -> None:
    """Delete all keys in a folder."""
    self._client.key_value_delete(f'{_PREFIX}/{folder}')

  def barrier(self, name: str, *, timeout_s: float) -> None:
    """Wait until all hosts are here; a name serves once.

    Raises:
      CoordinationError: they were not in time, or one was lost.
    """
    self._client.wait_at_barrier(f'{_PREFIX}/{name}', int(timeout_s * 1000))

  def live(self, count: int) -> set[int]:
    """Return which of `count` hosts are alive, once all of those ask."""
    return set(self._client.get_live_nodes(list(range(count))))


def connect(hosts: Hosts, *, heartbeat_timeout_s: int) -> CoordinationClient:
  """Start jax's runtime of several hosts, which must all be there.

  Args:
    hosts: from the environment.
    heartbeat_timeout_s: seconds without a heartbeat after which a host counts
      as lost.

  Raises:
    EejaxError: the runtime cannot start, or is not as eejax knows it.
  """
  try:
    from jax._src import distributed

    # A lost host is then reported; otherwise the service ends all others.
    jax.config.update('jax_enable_recoverability', True)
  except (ImportError, AttributeError) as error:
    raise EejaxError(
      f'jax {jax.__version__} does not report hosts that are lost ({error}); '
      'runs on several hosts need jax 0.10 to 0.12.'
    ) from error
  try:
    jax.distributed.initialize(
      hosts.address,
      num_processes=hosts.count,
      process_id=hosts.rank,
      local_device_ids=hosts.local_devices,
      cluster_detection_method='deactivate',
      initialization_timeout=_CONNECT_SECONDS,
      heartbeat_timeout_seconds=heartbeat_timeout_s,
      shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise EejaxError(
      f"jax's coordination service does not start at {hosts.address} "
      f'({reason}); see what host 0 says, or name another port.'
    ) from error
  return CoordinationClient(distributed.global_state.client)
