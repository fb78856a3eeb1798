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
"""Tests of the configurations and how exits are written."""

import dataclasses
import json

import pytest

from eejax.config import (
  EarlyExitConfig,
  RotaryConfig,
  RotaryScaling,
  parse_exits,
)
from eejax.config.config_json import dumps, from_json
from eejax.errors import ArgumentError
from eejax.testing import tiny

MODEL = tiny.tiny_config().model


def test_json_round_trip_keeps_everything():
  rotary = RotaryConfig(
    theta=5e5,
    scaling=RotaryScaling.LLAMA3,
    factor=8.0,
    original_max_length=16,
  )
  model = dataclasses.replace(
    MODEL, rotary=rotary, eos_ids=(1, 2), sliding_window=8
  )
  exits = parse_exits('1:mlp:untied:gate,2:bottleneck_mlp(4),4:block')
  config = EarlyExitConfig(model, exits)
  assert from_json(json.loads(dumps(config))) == config


@pytest.mark.parametrize('kind', tiny.KINDS_OF_BLOCK)
def test_json_keeps_every_kind_of_block(kind):
  config = tiny.tiny_config(**tiny.KINDS_OF_BLOCK[kind])
  assert from_json(json.loads(dumps(config))) == config


def test_the_json_of_a_llama_is_as_it_always_was():
  # Hashes of it bind policies that were written before.
  written = json.loads(dumps(tiny.tiny_config()))['model']
  assert list(written)[-1] == 'family'
  assert 'fraction' not in written['rotary']


def test_broken_json_is_refused():
  with pytest.raises(ArgumentError, match='model description is broken'):
    from_json({'model': {'rotary': {}}})
