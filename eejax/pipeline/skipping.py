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
"""What a stage does where it has nothing to do.

Stages of one program have their idle ticks, heads that stand elsewhere, and as
many blocks as the longest of them.
"""

import enum
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from eejax.types import Array, Bool, PyTree


class IdleWork(enum.Enum):
  """What becomes of work that a stage has not got in a tick.

  SKIPPED   it is not computed: each stage decides by itself
  COMPUTED  it is computed and dropped, so that every device of the mesh meets
            every message; for backends on which a message between the devices
            of one stage waits for those of other stages, too
  """

  SKIPPED = 'skipped'
  COMPUTED = 'computed'


def choose(
  idle: IdleWork,
  predicate: Bool[Array, ''],
  run: Callable[..., PyTree],
  otherwise: Callable[..., PyTree],
  *operands: PyTree,
) -> PyTree:
  """Return `run(*operands)` where the predicate holds, else `otherwise`."""
  if idle is IdleWork.SKIPPED:
    return lax.cond(predicate, run, otherwise, *operands)
  return jax.tree.map(
    functools.partial(jnp.where, predicate),
    run(*operands),
    otherwise(*operands),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run_or_pass(
  idle: IdleWork,
  run: Callable[..., PyTree],
  otherwise: Callable[..., PyTree],
  predicate: Bool[Array, ''],
  inputs: PyTree,
  given: PyTree,
) -> PyTree:
  """Return `run(inputs, given)`, or `otherwise(inputs)`.

  Only the inputs are kept for the backward, which runs forward once more. The
  derivative of a conditional would keep copies of weights as if they were
  results.

  Args:
    idle: whether what is not wanted is skipped.
    run: what to do; closes over no arrays.
    otherwise: what stands for it.
    predicate: which of them.
    inputs: what is differentiated.
    given: what is not.
  """
  passed = lambda inputs, given: otherwise(inputs)
  return choose(idle, predicate, run, passed, inputs, given)


def _to_keep(idle, run, otherwise, predicate, inputs, given):
  kept = (predicate, inputs, given)
  return run_or_pass(idle, run, otherwise, *kept), kept


def _backward(idle, run, otherwise, kept, cotangent):
  predicate, inputs, given = kept

  def back(inputs, given, cotangent):
    _, pull = jax.vjp(lambda inputs: run(inputs, given), inputs)
    return pull(cotangent)[0]

  def back_otherwise(inputs, given, cotangent):
    _, pull = jax.vjp(otherwise, inputs)
    return pull(cotangent)[0]

  moved = choose(
    idle, predicate, back, back_otherwise, inputs, given, cotangent
  )
  return None, moved, None


run_or_pass.defvjp(_to_keep, _backward)
