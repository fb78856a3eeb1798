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
"""Tests of RMS normalisation."""

import jax.numpy as jnp
import numpy as np

from eejax.ops.norm import rms_norm


def test_equals_the_formula():
  x = jnp.array([[3.0, 4.0]])
  got = rms_norm(x, scale=jnp.array([1.0, 2.0]), epsilon=0.0)
  rms = np.sqrt((9 + 16) / 2)
  np.testing.assert_allclose(got, [[3 / rms, 8 / rms]], rtol=1e-6)


def test_bfloat16_is_normalised_in_float32():
  # 1000 values of 1 + 2^-7: a bfloat16 sum of squares would stall at 256.
  x = jnp.full((1, 1000), 1 + 2.0**-7, jnp.bfloat16)
  got = rms_norm(x, scale=jnp.ones(1000, jnp.bfloat16), epsilon=0.0)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got.astype(jnp.float32), 1.0)
