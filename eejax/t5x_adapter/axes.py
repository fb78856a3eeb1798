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
"""Logical names of parameter dimensions, as t5x's partitioner knows them.

t5x lays arrays out by names: a model names the dimensions of its parameters,
and rules map names to the mesh axes `data` and `model`. eejax's letters
(`eejax.axes`) become these names here, so there is one table of parameters.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import PartitionSpec

from eejax.axes import parameter_axes
from eejax.errors import ArgumentError
from eejax.parallel.sharding import path_names
from eejax.types import PyTree

# Names that t5x's standard rules lack.
KV_HEADS, BOTTLENECK = 'kv_heads', 'bottleneck'

NAMES = {
  'V': 'vocab',
  'D': 'embed',
  'N': 'heads',
  'K': KV_HEADS,
  'H': 'kv',
  'F': 'mlp',
  'R': BOTTLENECK,
  'L': 'layers',
  # Never cut: norm gains, gates, biases of the stream.
  None: None,
}


def additional_rules() -> tuple[tuple[str, str], ...]:
  """Return rules for the names that t5x's standard rules lack.

  They are the `additional_rules` of t5x's `standard_logical_axis_rules`.
  """
  return ((KV_HEADS, 'model'), (BOTTLENECK, 'model'))


def logical_axes(path: Sequence[str], *, ndim: int) -> tuple[str | None, ...]:
  """Return a name for each dimension of a parameter, None for no name.

  Args:
    path: names from the root of the tree down to the leaf.
    ndim: how many dimensions it has.

  Raises:
    ArgumentError: eejax has no such parameter.
  """
  letters = parameter_axes(path, ndim=ndim)
  if letters is None:
    raise ArgumentError(
      f'{"/".join(path)} with {ndim} dimensions is no parameter of eejax; '
      'restore a checkpoint of an eejax model.'
    )
  return tuple(NAMES[letter] for letter in letters)


def parameter_names(params: PyTree) -> PyTree:
  """Return the tree with the names of each leaf's dimensions in its place.

  The names of a leaf are one tuple; pass `is_leaf` to map over them.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: logical_axes(path_names(path), ndim=len(leaf.shape)),
    params,
  )


def divisible(
  spec: PartitionSpec, *, shape: Sequence[int], mesh: Mapping[str, int]
) -> PartitionSpec:
  """Return how an array is cut; a dimension that does not divide stays whole.

  t5x refuses to start where a rule cuts a dimension into parts that are not
  equal, as two key/value heads over four devices.

  Args:
    spec: what the rules ask for.
    shape: of the array.
    mesh: size of each mesh axis.

  Example:
    >>> mesh = {'data': 1, 'model': 4}
    >>> tuple(divisible(PartitionSpec(None, 'model'), shape=(8, 2), mesh=mesh))
    (None, None)
  """
  kept = [
    entry if size % _parts(entry, mesh) == 0 else None
    for entry, size in zip(spec, shape, strict=False)
  ]
  return PartitionSpec(*kept)


def _parts(entry: str | Sequence[str] | None, mesh: Mapping[str, int]) -> int:
  if entry is None:
    return 1
  names = (entry,) if isinstance(entry, str) else entry
  return math.prod(mesh[name] for name in names)
