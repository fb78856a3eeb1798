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
"""Running a block of a stage only where the stage has it.

Stages of one program have as many blocks as the longest; shorter ones skip
what they lack.
"""

import functools
from collections.abc import Callable

import jax
from jax import lax

from eejax.types import Array, Bool, PyTree


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run_or_pass(
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
    run: what to do; closes over no arrays.
    otherwise: what stands for it.
    predicate: which of them.
    inputs: what is differentiated.
    given: what is not.
  """
  return lax.cond(
    predicate, run, lambda inputs, given: otherwise(inputs), inputs, given
  )


def _to_keep(run, otherwise, predicate, inputs, given):
  kept = (predicate, inputs, given)
  return run_or_pass(run, otherwise, *kept), kept


def _backward(run, otherwise, kept, cotangent):
  predicate, inputs, given = kept

  def back(inputs, given, cotangent):
    _, pull = jax.vjp(lambda inputs: run(inputs, given), inputs)
    return pull(cotangent)[0]

  def back_otherwise(inputs, given, cotangent):
    _, pull = jax.vjp(otherwise, inputs)
    return pull(cotangent)[0]

  return (
    None,
    lax.cond(predicate, back, back_otherwise, inputs, given, cotangent),
    None,
  )


run_or_pass.defvjp(_to_keep, _backward)
