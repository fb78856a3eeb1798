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
import dataclasses

import numpy as np
import pytest

from eejax.analysis import judging
from eejax.analysis.cost_model import DecodeCost
from eejax.analysis.part_costs import model_cost
from eejax.analysis.verdict import Answer
from eejax.capture.capture import capture
from eejax.capture.settings import CaptureConfig
from eejax.checkpoint.model import Model
from eejax.cli import probe_timing
from eejax.data.batch import Batch
from eejax.stats.bootstrap import Interval
from eejax.testing import tiny
from eejax.testing.planted import idle_from

LENGTH = 30
CONFIG = tiny.tiny_config('2:norm', num_layers=6, max_length=96)


@pytest.fixture(scope='module')
def subject():
  """Return a model with idle upper blocks, a text read, and its verdict."""
  params = idle_from(tiny.tiny_params(CONFIG), 1)
  params['exits']['exit_2'] = {'norm': params['backbone']['final_norm']}
  model = Model(CONFIG, params)
  tokens = np.random.default_rng(0).integers(
    2, CONFIG.model.vocab_size, (4, LENGTH + 1), dtype=np.int32
  )
  shape = (4, LENGTH)
  batch = Batch(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    weights=np.ones(shape, np.float32),
    positions=np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape),
    segment_ids=np.ones(shape, np.int32),
  )
  captured = capture(
    model.params,
    [batch],
    config=CONFIG,
    settings=CaptureConfig(
      fields=judging.FIELDS, num_candidates=judging.NUM_CANDIDATES
    ),
  )
  found = judging.judge(
    captured,
    config=CONFIG,
    cost_for=lambda config, criterion: DecodeCost(
      model_cost(config), reads_logits=True
    ),
    machine='paper',
    window=4,
  )
  return model, captured, found


def test_ways_that_should_pay_are_timed(subject):
  model, captured, found = subject
  assert found.lossy.answer is found.lossless.answer is Answer.YES
  timed = probe_timing.with_times(
    found, model, captured, window=4, dtype='float32'
  )
  for way in (timed.lossy, timed.lossless):
    assert 0 < way.measured.low <= way.measured.value <= way.measured.high


def test_what_should_not_pay_is_not_timed(subject):
  model, captured, found = subject
  none = Interval(1.0, 1.0, 1.0)
  poor = dataclasses.replace(
    found,
    lossy=dataclasses.replace(found.lossy, speedup=none, depths=()),
    lossless=dataclasses.replace(found.lossless, speedup=none),
  )
  same = probe_timing.with_times(
    poor, model, captured, window=4, dtype='float32'
  )
  assert same == poor


def test_the_exits_of_the_model_can_be_timed(subject):
  model, captured, found = subject
  own = dataclasses.replace(
    found,
    lossy=dataclasses.replace(
      found.lossy,
      source='the exits of the model',
      depths=(2,),
      criterion='max_prob',
      thresholds=(0.001,),
    ),
    lossless=dataclasses.replace(
      found.lossless, speedup=Interval(1.0, 1.0, 1.0)
    ),
  )
  timed = probe_timing.with_times(
    own, model, captured, window=4, dtype='float32'
  )
  assert timed.lossy.measured.value > 0 and timed.lossless.measured is None


def test_a_short_context_has_no_room_to_time(subject):
  model, captured, found = subject
  short = dataclasses.replace(
    model,
    config=dataclasses.replace(
      CONFIG, model=dataclasses.replace(CONFIG.model, max_length=64)
    ),
  )
  same = probe_timing.with_times(
    found, short, captured, window=4, dtype='float32'
  )
  assert same is found
