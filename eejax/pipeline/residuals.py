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
"""What a backward pass keeps, apart from the weights that it reads.

`jax.vjp` returns a pull-back that holds the residuals of one forward pass and
the arguments that its backward reads, weights among them. A pipeline keeps
residuals of many microbatches, and the weights once. This is the only module
that knows how a pull-back holds them (jax 0.10 to 0.12: `args_res`); its test
fails where another version holds them otherwise.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from eejax.pipeline.stage import StageParams
from eejax.types import PyTree

_CONTAINERS = (tuple, list, dict, StageParams)


class Residuals(NamedTuple):
  """What a backward pass of `function(weights, x)` reads, but for weights.

  Attributes:
    kept: arrays that the forward pass made.
    own_input: `x`, where the backward reads it; else empty.
  """

  kept: list[Any]
  own_input: list[Any]


def residuals_of(pull: Any) -> Residuals:
  """Return what to keep of a pull-back of `jax.vjp(function, weights, x)`."""
  own_input = _flat_arguments(pull)[0][-1:]
  return Residuals(
    jax.tree.leaves(_without_arguments(pull)),
    [x for x in own_input if hasattr(x, 'shape')],
  )


def pull_back_of(residuals: Residuals, *, weights: PyTree, like: Any) -> Any:
  """Return the pull-back that residuals were taken of.

  Args:
    residuals: from `residuals_of`.
    weights: the first argument of the function.
    like: its pull-back for any inputs of the same shapes, as `jax.eval_shape`
      returns it.
  """
  wanted, structure = _flat_arguments(like)
  given = [*jax.tree.leaves(weights), *(residuals.own_input or wanted[-1:])]
  inputs = [
    new if hasattr(old, 'shape') else old
    for old, new in zip(wanted, given, strict=True)
  ]
  pull = jax.tree.unflatten(
    jax.tree.structure(_without_arguments(like)), residuals.kept
  )
  pull.args_res = jax.tree.unflatten(structure, inputs)
  return pull


def _without_arguments(pull: Any) -> Any:
  return dataclasses.replace(pull, args_res=None)


def _flat_arguments(pull: Any) -> tuple[list[Any], Any]:
  """Return what a backward reads of its function's arguments, in order.

  Where it reads one not at all stands a mark of JAX's, which has no leaves.
  """
  return jax.tree.flatten(
    pull.args_res, is_leaf=lambda x: not isinstance(x, _CONTAINERS)
  )
