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
"""Tests of the scheduler with an engine that only counts."""

import asyncio
import threading

from eejax.decoding.engine import Engine, EngineLimits
from eejax.ops.sampling import SamplingConfig
from eejax.serving import scheduler as scheduler_module
from eejax.serving.scheduler import Scheduler
from eejax.serving.ticket import Events, TextJob, Ticket

JOB = TextJob((1,), 4, SamplingConfig(), (), None)


class CountingEngine(Engine):
  """Holds texts for ever; remembers how many there were at its first step."""

  def __init__(self):
    self.num_texts = 0
    self.at_first_step = None
    self.has_stepped = threading.Event()

  @property
  def is_idle(self):
    # It has nothing more to do after one step.
    return not self.num_texts or self.has_stepped.is_set()

  def submit(self, prompt, **settings):
    del prompt, settings
    self.num_texts += 1
    return self.num_texts

  def step(self):
    self.at_first_step = self.num_texts
    self.has_stepped.set()
    return []


class Nobody:
  def grew(self, ticket, update, *, seconds): ...

  def ended(self, ticket, update): ...


def test_texts_that_come_together_share_the_first_step(monkeypatch):
  # It ends when all slots have a text.
  monkeypatch.setattr(scheduler_module, '_GATHERING_S', 60.0)

  async def submit() -> int:
    engine, events = CountingEngine(), Events()
    scheduler = Scheduler(
      lambda: engine, limits=EngineLimits(slots=3), watcher=Nobody()
    )
    scheduler.start()
    await scheduler.settled()
    for index in range(3):
      scheduler.submit(Ticket(JOB, events, index=index))
      # The thread runs between them.
      await asyncio.sleep(0.02)
    await asyncio.to_thread(engine.has_stepped.wait, 30)
    await scheduler.close()
    return engine.at_first_step

  assert asyncio.run(submit()) == 3
