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
"""Check parameter trees against the configuration they are said to have."""

import functools
import types
from collections.abc import Mapping

import jax

from eejax.checkpoint.arrays import Path, flatten
from eejax.config import EarlyExitConfig, ExitConfig, ModelConfig
from eejax.errors import CheckpointError
from eejax.models.exits import init_exit
from eejax.models.families.tensors import tensors
from eejax.types import Params

Shapes = Mapping[Path, tuple[int, ...]]


def check_backbone(found: Shapes, config: ModelConfig) -> None:
  """Check the shapes of a whole backbone, by path with blocks apart.

  Raises:
    CheckpointError: an array is missing, too many or misshapen.
  """
  compare('the backbone', found, {t.path: t.shape for t in tensors(config)})


def check_exits(exits: Params, config: EarlyExitConfig) -> None:
  """Check the parameters of every exit.

  Raises:
    CheckpointError: as above, or an exit is not in the configuration.
  """
  for name in exits.keys() - {e.name for e in config.exits}:
    raise CheckpointError(
      f'there are parameters of {name}, which the configuration lacks.'
    )
  for exit in config.exits:
    leaves = flatten(exits.get(exit.name, {}))
    found = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    compare(exit.name, found, exit_shapes(exit, config.model))


@functools.cache
def exit_shapes(exit: ExitConfig, config: ModelConfig) -> Shapes:
  """Return the shape of every parameter of an exit."""
  key = jax.ShapeDtypeStruct((2,), 'uint32')
  tree = jax.eval_shape(lambda k: init_exit(k, exit=exit, config=config), key)
  shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
  return types.MappingProxyType(shapes)  # for it is kept


def compare(what: str, found: Shapes, expected: Shapes) -> None:
  """Compare the shapes of what is there with those that should be.

  Raises:
    CheckpointError: an array is missing, too many or misshapen; it is named.
  """
  for path in sorted(expected.keys() | found.keys()):
    name = '/'.join(path)
    if path not in found:
      raise CheckpointError(f'{what} lacks the array {name}.')
    if path not in expected:
      raise CheckpointError(f'{what} has an array too many: {name}.')
    if found[path] != expected[path]:
      raise CheckpointError(
        f'{what}: {name} has shape {found[path]}, but the configuration asks '
        f'for {expected[path]}.'
      )
