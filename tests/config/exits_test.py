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

import pytest

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  GateKind,
  OutputMatrix,
  parse_exits,
)
from eejax.errors import ArgumentError
from eejax.testing import tiny

MODEL = tiny.tiny_config().model


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
