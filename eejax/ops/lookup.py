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
"""Rows of a table by their numbers."""

import jax
import jax.numpy as jnp
from jax import lax

from eejax.types import Array, Int, Num


@jax.custom_jvp
def take_rows(
  table: Num[Array, 'V D'], ids: Int[Array, '*batch']
) -> Num[Array, '*batch D']:
  """Return rows of a table.

  XLA for CPUs (jaxlib 0.10.2) has no gather of bfloat16: it converts the whole
  table to float32, takes rows of that, and converts them back. So there rows
  are taken as integers of 16 bits, which have the same bits.

  Args:
    table: of any dtype.
    ids: which rows, in [-V, V).

  Example:
    take_rows(jnp.eye(3), jnp.array([2, 0]))  # [[0, 0, 1], [1, 0, 0]]
  """
  if table.dtype != jnp.bfloat16:
    return table[ids]
  return lax.platform_dependent(
    table, ids, cpu=_take_bits, default=lambda table, ids: table[ids]
  )


@take_rows.defjvp
def _take_rows_jvp(primals, tangents):
  table, ids = primals
  return take_rows(table, ids), tangents[0][ids]


def _take_bits(
  table: Num[Array, 'V D'], ids: Int[Array, '*batch']
) -> Num[Array, '*batch D']:
  bits = lax.bitcast_convert_type(table, jnp.uint16)
  return lax.bitcast_convert_type(bits[ids], table.dtype)
