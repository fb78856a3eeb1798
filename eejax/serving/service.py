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
"""What a server is made of: models by name, limits, metrics, health."""

import enum
import time
from collections.abc import Iterator, Mapping, Sequence

from eejax.decoding.policy.policy import Policy
from eejax.serving.metrics import Metrics
from eejax.serving.scheduler import EngineState, Scheduler
from eejax.serving.served_model import ServedModel
from eejax.serving.server_settings import ServerLimits


class Health(enum.Enum):
  """Whether requests are taken.

  STARTING: programs are compiled. READY: they are taken. DRAINING: those under
  way are finished, and no others begun. FAILED: an engine has failed, or one
  that is there from the start could not be made.
  """

  STARTING = 'starting'
  READY = 'ready'
  DRAINING = 'draining'
  FAILED = 'failed'

  @property
  def is_well(self) -> bool:
    """Return whether requests are taken."""
    return self is Health.READY


class Service:
  """The state that all routes share.

  Attributes:
    models: by name.
    limits: what is taken on.
    metrics: what is counted.
    created: when the server began, in seconds since 1970.
    in_flight: requests that are answered now.
    answered: requests that were answered, errors included.
    is_draining: whether no more requests are taken.
  """

  def __init__(
    self,
    models: Mapping[str, ServedModel],
    *,
    limits: ServerLimits,
    metrics: Metrics,
  ):
    self.models, self.limits, self.metrics = dict(models), limits, metrics
    self.created = int(time.time())
    self.in_flight = 0
    self.answered = 0
    self.is_draining = False
    self._has_started = False
    metrics.watch_engines(self._engines)

  @property
  def health(self) -> Health:
    """Return whether requests are taken."""
    states = {s.state for _, _, s in self._engines()}
    can_start = all(served.can_start for served in self.models.values())
    if EngineState.FAILED in states or not can_start:
      return Health.FAILED
    if self.is_draining:
      return Health.DRAINING
    return Health.READY if self._has_started else Health.STARTING

  async def start(self, policies: Mapping[str, Sequence[Policy]]) -> None:
    """Compile what models begin with; requests are taken afterwards.

    Args:
      policies: of each model by its name.
    """
    for name, served in self.models.items():
      await served.start(policies[name])
    self._has_started = True

  async def close(self) -> None:
    """End all engines."""
    for served in self.models.values():
      await served.close()

  def _engines(self) -> Iterator[tuple[str, str, Scheduler]]:
    for name, served in self.models.items():
      for engine, scheduler in served.engines:
        yield name, engine, scheduler
