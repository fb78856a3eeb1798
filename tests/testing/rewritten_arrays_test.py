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
"""Test finding arrays that a compiled program writes anew."""

import jax
import jax.numpy as jnp

from eejax.testing.rewritten_arrays import Rewritten, rewritten_arrays

TEXT = """HloModule jit_f

%fused_read (p: bf16[8,16]) -> f32[8] {
  %c = f32[8,16]{1,0} convert(%p)
  ROOT %r = f32[8]{0} reduce(%c, %zero), dimensions={1}, to_apply=%add
}

%fused_turn (p: bf16[8,16]) -> bf16[16,8] {
  ROOT %t = bf16[16,8]{1,0} transpose(%p), dimensions={1,0}
}

%body (a: (bf16[8,16])) -> (bf16[8,16]) {
  %near = bf16[8,16]{1,0:T(8,128)S(1)} copy(%w)
  %far = bf16[8,16]{0,1:T(8,128)} copy(%w)
  %little = bf16[4]{0} copy(%v)
  %read = f32[8]{0} fusion(%w), kind=kLoop, calls=%fused_read
  ROOT %turned = bf16[16,8]{1,0} fusion(%w), kind=kInput, calls=%fused_turn
}

ENTRY %main (a: bf16[8,16]) -> bf16[8,16] {
  %once = f32[8,16]{1,0} convert(%a)
  ROOT %w = (bf16[8,16]) while(%a), condition=%condition, body=%body
}
"""


def test_what_is_written_counts_and_what_is_read_does_not():
  found = rewritten_arrays(TEXT, at_least=100)
  assert sorted(found, key=lambda r: r.kind) == [
    Rewritten('convert', (8, 16), 512, looped=False),
    Rewritten('copy', (8, 16), 256, looped=True),
    Rewritten('transpose', (16, 8), 256, looped=True),
  ]


def loop_text(matrix_of):
  """Return the program of a loop over products with a matrix."""

  def run(weight, x):
    step = lambda _, x: jnp.tanh(matrix_of(weight, x) @ x)
    return jax.lax.fori_loop(0, 3, step, x)

  compiled = jax.jit(run).lower(jnp.ones((64, 64)), jnp.ones(64)).compile()
  return compiled.as_text()


def test_a_program_that_rewrites_its_weight_in_a_loop():
  def rounded(weight, x):  # By something of the step, so that it stays there.
    small = (weight + x[0]).astype(jnp.bfloat16)
    return jax.lax.optimization_barrier(small).astype(jnp.float32)

  plain = loop_text(lambda weight, x: weight)
  assert not rewritten_arrays(plain, at_least=64 * 64)
  found = rewritten_arrays(loop_text(rounded), at_least=64 * 64)
  assert found and all(r.looped and r.kind == 'convert' for r in found)
