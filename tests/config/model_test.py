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

import pytest

from eejax.config import ModelConfig, RotaryConfig, RotaryScaling
from eejax.errors import ArgumentError

MODEL = ModelConfig(
  vocab_size=11,
  num_layers=4,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_dim=24,
  max_length=32,
)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_kv_heads': 3}, 'multiple of num_kv_heads'),
    ({'head_dim': 5}, 'must be an even'),
    ({'vocab_size': 0}, 'vocab_size must be a positive integer'),
    ({'sliding_window': 0}, 'sliding_window must be at least 1'),
  ],
)
def test_impossible_shapes_are_refused(change, message):
  with pytest.raises(ArgumentError, match=message):
    dataclasses.replace(MODEL, **change)


def test_sliding_window_spares_the_first_blocks():
  model = dataclasses.replace(MODEL, sliding_window=8, full_attention_blocks=3)
  assert [model.window_of(i) for i in range(4)] == [None, None, None, 8]


def test_scaled_rotary_needs_its_original_length():
  with pytest.raises(ArgumentError, match='needs original_max_length'):
    RotaryConfig(scaling=RotaryScaling.YARN, factor=2.0)
