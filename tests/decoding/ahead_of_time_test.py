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
"""Tests of decoding as the compiler for TPUs sees it, without one."""

import math

import jax
import jaxtyping
import pytest

from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.decoding import ahead_of_time
from eejax.decoding.policy.policy import Mode, Policy
from eejax.parallel import topologies
from eejax.testing.rewritten_arrays import rewritten_arrays

pytestmark = pytest.mark.ahead

# Wide enough that the compiler has layouts to choose from.
MODEL = ModelConfig(
  vocab_size=4096,
  num_layers=2,
  embed_dim=1024,
  num_heads=8,
  num_kv_heads=4,
  head_dim=128,
  mlp_dim=2816,
  max_length=2048,
)
CONFIG = EarlyExitConfig(MODEL, parse_exits('1:mlp:gate'))
EARLY = {'criterion': 'gate', 'thresholds': (0.9,)}
SLOTS = 1024


@pytest.fixture
def shapes_for_arrays():
  """Let trees be filled with shapes, which are no arrays."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.mark.usefixtures('shapes_for_arrays')
@pytest.mark.parametrize(
  ('policy', 'rows'),
  [
    (Policy(Mode.EARLY_EXIT, **EARLY), 1),
    (Policy(Mode.SPECULATIVE, **EARLY), 2),
  ],
  ids=['early_exit', 'speculative'],
)
def test_a_tpu_reads_weights_and_caches_where_they_lie(policy, rows):
  device = topologies.devices_of('v5e-8')[0]
  compiled = ahead_of_time.compile_ahead(
    CONFIG, policy=policy, device=device, rows=rows, slots=SLOTS
  )
  size = lambda x: math.prod(x.shape) * x.dtype.itemsize
  abstract = ahead_of_time.abstract_weights(compiled)
  weights = sum(map(size, jax.tree.leaves(abstract)))
  assert weights > 50e6
  cache = rows * MODEL.num_kv_heads * SLOTS * MODEL.head_dim
  found = rewritten_arrays(compiled.as_text(), at_least=cache)
  assert not [r for r in found if r.looped]
  assert compiled.memory_analysis().temp_size_in_bytes < 0.1 * weights
