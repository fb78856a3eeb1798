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
"""What a server takes on, and how long it waits."""

import dataclasses

from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class ServerLimits:
  """How much a server takes on, and how long it waits.

  Attributes:
    slots: texts that an engine decodes together.
    max_length: tokens of the longest text, its prompt included; None is the
      model's context.
    max_waiting: texts that may wait for a slot of an engine; more are refused
      with status 429.
    max_in_flight: requests that are answered at the same time.
    max_engines: programs of different shape that a model is decoded with at
      the same time.
    max_body_bytes: of a request.
    header_timeout_s: for the first request's headers of a connection.
    body_timeout_s: for a request's body.
    request_timeout_s: for a whole answer.
    write_timeout_s: for a client to read on.
    drain_timeout_s: for answers under way once the server is asked to stop.
    ticks_per_step: decode steps between two looks at new requests; fewer show
      tokens sooner, more run faster.
  """

  slots: int = 8
  max_length: int | None = None
  max_waiting: int = 64
  max_in_flight: int = 256
  max_engines: int = 4
  max_body_bytes: int = 1 << 20
  header_timeout_s: float = 10.0
  body_timeout_s: float = 30.0
  request_timeout_s: float = 600.0
  write_timeout_s: float = 60.0
  drain_timeout_s: float = 30.0
  ticks_per_step: int = 8

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and value <= 0:
        raise ArgumentError(
          f'{field.name.replace("_", " ")} must be above 0, not {value:g}.'
        )
