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
"""Walk a backbone block by block, whether its blocks are stacked or not."""

import enum
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eejax.checkpoint.arrays import Path, flatten, unflatten
from eejax.checkpoint.lazy_array import LazyArray
from eejax.models.families.tensors import block_key
from eejax.models.stacking import num_blocks
from eejax.parallel import multihost
from eejax.types import Params, PyTree


class Layout(enum.Enum):
  """How the blocks of a tree are held.

  STACKED: one tree whose leaves have a leading L, for training.
  UNSTACKED: a tuple with a tree a block, for decoding.
  """

  STACKED = 'stacked'
  UNSTACKED = 'unstacked'


def layout_of(params: Params) -> Layout:
  """Return how the blocks of `params` are held."""
  blocks = params['backbone']['blocks']
  is_stacked = isinstance(blocks, Mapping)
  return Layout.STACKED if is_stacked else Layout.UNSTACKED


def count_blocks(params: Params) -> int:
  """Return how many blocks `params` holds."""
  blocks = params['backbone']['blocks']
  if layout_of(params) is Layout.STACKED:
    return num_blocks(blocks)
  return len(blocks)


def block(params: Params, index: int) -> PyTree:
  """Return block `index` (0-based) as a tree of its own."""
  blocks = params['backbone']['blocks']
  if layout_of(params) is Layout.UNSTACKED:
    return blocks[index]
  return jax.tree.map(lambda leaf: leaf[index], blocks)


def shapes(params: Params) -> dict[Path, tuple[int, ...]]:
  """Return the shape of every leaf of the backbone, by its path."""
  found = {p: tuple(leaf.shape) for p, leaf in flatten(outer(params)).items()}
  blocks = params['backbone']['blocks']
  for index in range(count_blocks(params)):
    is_stacked = layout_of(params) is Layout.STACKED
    held = flatten(blocks if is_stacked else blocks[index])
    for path, leaf in held.items():
      shape = tuple(leaf.shape[1:] if is_stacked else leaf.shape)
      found['blocks', block_key(index), *path] = shape
  return found


def outer(params: Params) -> PyTree:
  """Return what a backbone has besides its blocks."""
  return {k: v for k, v in params['backbone'].items() if k != 'blocks'}


def leaf(params: Params, path: Path) -> jax.Array | np.ndarray | LazyArray:
  """Return one leaf of the backbone; blocks are at `('blocks', '000', ...)`."""
  node: PyTree = params['backbone']
  if path[0] != 'blocks':
    return _at(node, path)
  if layout_of(params) is Layout.STACKED:
    return _at(node['blocks'], path[2:])[int(path[1])]
  return _at(node['blocks'][int(path[1])], path[2:])


def leaf_dtype(params: Params, path: Path) -> np.dtype:
  """Return the dtype of that leaf without cutting it from a stack."""
  node: PyTree = params['backbone']
  if path[0] == 'blocks':
    is_stacked = layout_of(params) is Layout.STACKED
    node = node['blocks'] if is_stacked else node['blocks'][int(path[1])]
    path = path[2:]
  return np.dtype(_at(node, path).dtype)


class BackboneDigest:
  """Build up the hash of a backbone, a part at a time.

  Parts are the blocks in their order and then the outer part; the result does
  not depend on the layout.
  """

  def __init__(self) -> None:
    self._digest = hashlib.sha256()

  def update(self, prefix: Path, part: PyTree) -> None:
    """Add the leaves of one part, which lies at `prefix`."""
    for path, leaf in sorted(flatten(part).items()):
      array = np.ascontiguousarray(leaf)
      name = '/'.join((*prefix, *path))
      self._digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
      self._digest.update(array.reshape(-1).view(np.uint8).data)

  def hexdigest(self) -> str:
    """Return the hash of what was added."""
    return self._digest.hexdigest()


def parts(params: Params) -> Iterator[tuple[Path, PyTree]]:
  """Yield the blocks in their order, then the outer part, with their paths."""
  for index in range(count_blocks(params)):
    yield ('blocks', block_key(index)), block(params, index)
  yield (), outer(params)


def backbone_hash(params: Params, *, dtype: Any = None) -> str:
  """Return a SHA-256 over every path, dtype, shape and byte of the backbone.

  Equal for stacked and unstacked trees; different for every other dtype.
  Policies keep it, to be used with no other model than their own.

  Args:
    params: the whole tree.
    dtype: what every array is converted to before; by default none is.
  """
  digest = BackboneDigest()
  for prefix, part in parts(params):
    if dtype is not None:
      part = jax.tree.map(lambda leaf: host_copy(leaf, dtype), part)
    digest.update(prefix, part)
  return digest.hexdigest()


def on_device(
  outer: PyTree,
  blocks: Iterable[PyTree],
  exits: Params,
  *,
  layout: Layout,
  dtype: Any = None,
) -> Params:
  """Return host arrays as the JAX arrays of a parameter tree.

  Args:
    outer: what the backbone has besides its blocks.
    blocks: the blocks; each is asked for when the one before is done with,
      so that a reader holds one at a time.
    exits: parameters by exit name.
    layout: whether the blocks are stacked; a stack needs at least one.
    dtype: what every array is converted to; by default each stays as it is.
  """
  place = lambda leaf: jnp.asarray(host_copy(leaf, dtype))
  place_all = lambda values: jax.tree.map(place, values)
  if layout is Layout.STACKED:
    placed = _stack(blocks, dtype)
  else:
    placed = tuple(map(place_all, blocks))
  backbone = {**place_all(outer), 'blocks': placed}
  return {'backbone': backbone, 'exits': place_all(exits)}


def _at(node: PyTree, path: Path) -> PyTree:
  for key in path:
    node = node[key]
  return node


def _stack(blocks: Iterable[PyTree], dtype: Any) -> PyTree:
  held: dict[Path, list[np.ndarray]] = {}
  for values in blocks:
    for path, leaf in flatten(values).items():
      held.setdefault(path, []).append(host_copy(leaf, dtype))
  stacked = {}
  for path in list(held):
    # Taken out, so that what is joined does not stay beside the stack.
    leaves = held.pop(path)
    kind = jnp.result_type(*{leaf.dtype for leaf in leaves})
    stacked[path] = jnp.asarray(np.stack(leaves, dtype=kind, casting='safe'))
  return unflatten(stacked)


def host_copy(
  leaf: jax.Array | np.ndarray | LazyArray, dtype: Any = None
) -> np.ndarray:
  """Return a leaf as a new contiguous NumPy array, converted if asked.

  Of an array that several hosts share all hosts must ask for it.
  """
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    leaf = multihost.to_host(leaf)
  # JAX may keep the memory it is given, which can be a mapped file.
  return np.array(leaf, dtype=dtype or leaf.dtype, order='C')
