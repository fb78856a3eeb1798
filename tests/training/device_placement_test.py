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
"""Test where a run's parameters are put."""

import jax
import numpy as np

from eejax.checkpoint.lazy_array import LazyArray
from eejax.parallel.mesh import MeshConfig, make_mesh
from eejax.training.device_placement import DevicePlacement


def test_of_an_array_in_a_store_each_device_reads_its_part():
  mesh = make_mesh(MeshConfig(data=1, fsdp=4), devices=jax.devices()[:4])
  whole = np.arange(8 * 6, dtype=np.float32).reshape(8, 6)
  parts = []

  def read_part(index):
    parts.append(whole[index].shape)
    return whole[index]

  leaf = LazyArray((8, 6), 'float32', lambda: whole, read_part=read_part)
  tree = {'mlp': {'gate': {'kernel': leaf}}}
  placed = DevicePlacement(mesh).place(tree)['mlp']['gate']['kernel']
  np.testing.assert_array_equal(placed, whole)
  assert parts == [(2, 6)] * 4
  assert placed.addressable_shards[0].data.shape == (2, 6)
