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
"""Soft caps: values squeezed between two bounds."""

import jax.numpy as jnp

from eejax.types import Array, Float


def soft_cap(x: Float[Array, '...'], cap: float | None) -> Float[Array, '...']:
  """Return c tanh(x / c), or `x` where there is no cap.

  Args:
    x: scores or logits.
    cap: c, > 0; None changes nothing.

  Reference:
    Gemma Team (2024), Gemma 2, section 2, logit soft-capping.
  """
  return x if cap is None else cap * jnp.tanh(x / cap)
