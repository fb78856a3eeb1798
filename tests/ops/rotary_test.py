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
"""Tests of rotary embeddings; scaled ones meet transformers in parity tests."""

import jax.numpy as jnp
import numpy as np

from eejax.config import RotaryConfig, RotaryScaling
from eejax.ops.rotary import rotary_frequencies, rotate, rotation


def test_position_zero_is_left_alone():
  x = jnp.arange(8.0).reshape(1, 1, 1, 8)
  out = rotate(x, positions=jnp.zeros((1, 1), int), config=RotaryConfig())
  np.testing.assert_array_equal(out, x)


def test_scores_depend_on_distance_alone():
  rng = np.random.default_rng(0)
  q, k = (
    jnp.asarray(rng.normal(size=(1, 1, 1, 16)), jnp.float32) for _ in '12'
  )
  at = lambda x, p: rotate(
    x, positions=jnp.full((1, 1), p), config=RotaryConfig(theta=100.0)
  )
  near = jnp.vdot(at(q, 9), at(k, 4))
  far = jnp.vdot(at(q, 109), at(k, 104))
  np.testing.assert_allclose(near, far, atol=1e-4)


def test_halves_rotate_by_hand_computed_angles():
  # H = 4: pair (0, 2) turns by the position, pair (1, 3) by position / 10.
  x = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
  out = rotate(
    x, positions=jnp.full((1, 1), 2), config=RotaryConfig(theta=100.0)
  )
  expected = [np.cos(2), np.cos(0.2), np.sin(2), np.sin(0.2)]
  np.testing.assert_allclose(out.ravel(), expected, rtol=1e-6)


def test_a_rotation_stands_for_its_positions():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 3, 4, 6)), jnp.float32)
  positions = jnp.array([[0, 1, 5], [7, 2, 30]])
  config = RotaryConfig(
    scaling=RotaryScaling.YARN, factor=4.0, original_max_length=16
  )
  once = rotation(positions, config=config, head_dim=6)
  np.testing.assert_array_equal(
    rotate(x, positions=once, config=config),
    rotate(x, positions=positions, config=config),
  )


def test_linear_scaling_divides_positions():
  plain, _ = rotary_frequencies(RotaryConfig(), head_dim=8)
  config = RotaryConfig(scaling=RotaryScaling.LINEAR, factor=4.0)
  scaled, magnitude = rotary_frequencies(config, head_dim=8)
  np.testing.assert_allclose(scaled, plain / 4)
  assert magnitude == 1.0


def test_llama3_keeps_short_wavelengths_and_divides_long_ones():
  config = RotaryConfig(
    theta=500_000.0,
    scaling=RotaryScaling.LLAMA3,
    factor=8.0,
    original_max_length=8192,
  )
  plain, _ = rotary_frequencies(RotaryConfig(theta=500_000.0), head_dim=128)
  scaled, _ = rotary_frequencies(config, head_dim=128)
  np.testing.assert_allclose(scaled[0], plain[0])
  np.testing.assert_allclose(scaled[-1], plain[-1] / 8, rtol=1e-6)
  assert np.all(np.diff(scaled) < 0)


def test_yarn_magnitude_follows_the_paper():
  config = RotaryConfig(
    scaling=RotaryScaling.YARN, factor=4.0, original_max_length=2048
  )
  _, magnitude = rotary_frequencies(config, head_dim=64)
  np.testing.assert_allclose(magnitude, 0.1 * np.log(4) + 1)
