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
  ExitConfig,
  ExitHeadKind,
  GateKind,
  ModelConfig,
  OutputMatrix,
  RotaryConfig,
  RotaryScaling,
  parse_exits,
)
from eejax.config_json import dumps, from_json
from eejax.errors import ArgumentError
from eejax.testing import tiny

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


def test_parse_exits_reads_every_part():
  first, second, third = parse_exits(
    '1, 2:mlp:untied:gate,3:bottleneck_mlp(8):tied_embedding:mlp_gate'
  )
  assert first == ExitConfig(1, ExitHeadKind.NORM, OutputMatrix.SHARED)
  assert second == ExitConfig(
    2, ExitHeadKind.MLP, OutputMatrix.UNTIED, gate=GateKind.LINEAR
  )
  assert third == ExitConfig(
    3,
    ExitHeadKind.BOTTLENECK_MLP,
    OutputMatrix.TIED_EMBEDDING,
    rank=8,
    gate=GateKind.MLP,
  )


@pytest.mark.parametrize(
  'text, message',
  [
    ('x:norm', 'write DEPTH:HEAD'),
    ('', 'write DEPTH:HEAD'),
    ('3:transformer', "'transformer' in '3:transformer' is not one of"),
    ('3:norm:mine', "'mine' in '3:norm:mine' is not one of"),
    ('3:bottleneck_mlp', 'needs a rank'),
    ('3:norm(4)', 'takes no rank'),
    ('3:bottleneck_mlp(x)', 'rank must be a number'),
    ('0:mlp', 'depth 0 has none'),
  ],
)
def test_parse_exits_refuses_clearly(text, message):
  with pytest.raises(ArgumentError) as caught:
    parse_exits(text)
  assert message in str(caught.value)


def test_exits_are_sorted_unique_and_within_the_model():
  config = EarlyExitConfig(MODEL, parse_exits('3:norm,1:norm'))
  assert config.exit_depths == (1, 3)
  assert config.deepest_exit == 3
  with pytest.raises(ArgumentError, match='more than one exit at depth 2'):
    EarlyExitConfig(MODEL, parse_exits('2:norm,2:block'))
  with pytest.raises(ArgumentError, match='depth 5 lies beyond the model'):
    EarlyExitConfig(MODEL, parse_exits('5:norm'))
  with pytest.raises(ArgumentError, match=r'no exit at depth 2 \(exits: 1, 3'):
    config.exit_at(2)


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


def test_scaled_rotary_needs_its_original_length():
  with pytest.raises(ArgumentError, match='needs original_max_length'):
    RotaryConfig(scaling=RotaryScaling.YARN, factor=2.0)


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


def test_sliding_window_spares_the_first_blocks():
  model = dataclasses.replace(MODEL, sliding_window=8, full_attention_blocks=3)
  assert [model.window_of(i) for i in range(4)] == [None, None, None, 8]
