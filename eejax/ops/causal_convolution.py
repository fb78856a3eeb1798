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
"""Causal convolution of each channel with a kernel of its own."""

import jax
import jax.numpy as jnp

from eejax.ops.recurrent_state import KeptStates
from eejax.types import Array, Float, Int


def causal_convolution(
  x: Float[Array, 'B T C'],
  *,
  kernel: Float[Array, 'taps C'],
  bias: Float[Array, 'C'] | None = None,
  tail: Float[Array, 'B before C'] | None = None,
  segment_ids: Int[Array, 'B T'] | None = None,
) -> Float[Array, 'B T C']:
  """Return y_t = bias + sum over j of kernel_j x_{t - n + 1 + j}.

  Args:
    x: inputs.
    kernel: a weight for each of n tokens, the newest last, and each channel.
    bias: added to every result.
    tail: the n - 1 inputs before `x`, the oldest first; None is zeros.
    segment_ids: inputs of another text than the token's count as zeros.
  """
  width, length = kernel.shape[0], x.shape[1]
  padded = joined(x, tail, width=width)
  y = jnp.zeros_like(x)
  for j in range(width):
    back = width - 1 - j
    taken = padded[:, j : j + length]
    if segment_ids is not None and back:
      taken = jnp.where(_same_text(segment_ids, back)[..., None], taken, 0)
    y = y + taken * kernel[j].astype(x.dtype)[None, None]
  return y if bias is None else y + bias.astype(x.dtype)[None, None]


def joined(
  x: Float[Array, 'B T C'],
  tail: Float[Array, 'B before C'] | None,
  *,
  width: int,
) -> Float[Array, 'B all C']:
  """Return inputs with the n - 1 before them, zeros where there are none."""
  if tail is None:
    tail = jnp.zeros((x.shape[0], width - 1, x.shape[2]), x.dtype)
  return jnp.concatenate([tail.astype(x.dtype), x], axis=1)


def next_tails(
  x: Float[Array, 'B T C'],
  *,
  tail: Float[Array, 'B before C'] | None,
  width: int,
  kept: KeptStates,
  count: Int[Array, 'B'] | None = None,
) -> Float[Array, 'B *T before C']:
  """Return the inputs that what follows needs: n - 1 for each state kept.

  Args:
    x: inputs.
    tail: those before.
    width: n, of the kernel.
    kept: whether tails after every token are returned or the last alone.
    count: how many tokens of each row are no padding; all by default. Read
      where the last tail alone is returned.
  """
  padded, length = joined(x, tail, width=width), x.shape[1]
  if kept is KeptStates.EVERY:
    tails = [padded[:, j + 1 : j + 1 + length] for j in range(width - 1)]
    if not tails:
      return jnp.zeros((*x.shape[:2], 0, x.shape[2]), x.dtype)
    return jnp.stack(tails, axis=2)
  if count is None:
    return padded[:, length:]
  take = lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, width - 1)
  return jax.vmap(take)(padded, count)


def _same_text(segment_ids: Int[Array, 'B T'], back: int) -> Array:
  """Return whether the token `back` places before is of the same text."""
  before = jnp.pad(segment_ids, ((0, 0), (back, 0)), constant_values=-1)
  return before[:, : segment_ids.shape[1]] == segment_ids
