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
"""Tests of layouts as a compiler sees them."""

import jax
import pytest

from eejax.config import architectures
from eejax.ops.quant import Quantization
from eejax.parallel import topologies
from eejax.parallel.mesh import parse_mesh
from eejax.planner.compiled import compile_layout
from eejax.planner.memory import predict_memory
from eejax.planner.workload import Arrangement, Learns, Workload
from eejax.testing import tiny


@pytest.mark.parametrize('backbone', Quantization)
def test_what_a_step_holds_is_what_was_predicted(backbone):
  config = tiny.tiny_config('2:norm:untied', embed_dim=64, mlp_dim=128)
  workload = Workload(
    config,
    Learns.TUNE,
    rows=4,
    length=16,
    dtype='float32',
    chunk_size=64,
    backbone=backbone,
  )
  arrangement = Arrangement(parse_mesh('data=1,fsdp=2').resolved(2))
  found = compile_layout(workload, arrangement, devices=jax.devices()[:2])
  predicted = predict_memory(workload, arrangement)
  held = predicted.held - predicted.idle
  assert found.memory.arguments == pytest.approx(held, rel=0.1)
  assert found.memory.temporary > 0 and found.compile_s > 0


@pytest.mark.ahead
def test_what_has_no_room_is_told_in_the_words_of_the_compiler():
  config = architectures.read_early_exit('ee_llm_30b', exits='ee_llm_30b')
  workload = Workload(config, Learns.STANDARD, rows=4, length=16)
  arrangement = Arrangement(parse_mesh('data=4').resolved(4))
  found = compile_layout(
    workload, arrangement, devices=topologies.devices_of('v5e-4')
  )
  assert found.memory is None and 'HBM' in found.refusal
