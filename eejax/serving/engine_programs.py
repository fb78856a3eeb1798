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
"""Compiling the programs of an engine before anybody waits for them."""

from eejax.decoding.engine import Engine
from eejax.decoding.generate import SMALLEST_PREFILL
from eejax.decoding.loop.plan import bucket


def warm_up(engine: Engine, *, max_length: int) -> None:
  """Run a text of every padded length, one after the other.

  Args:
    engine: its slots are all free, and are so afterwards.
    max_length: tokens of its longest text.
  """
  length = 1
  while True:
    request_id = engine.submit([0] * length, max_new_tokens=1)
    while not engine.is_idle:
      engine.step()
    engine.result(request_id)
    if length == max_length - 1:
      return
    # A prompt is padded without its last token.
    width = bucket(length, smallest=SMALLEST_PREFILL)
    length = min(width + 1, max_length - 1)
