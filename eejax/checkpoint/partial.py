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
"""Read a part of a checkpoint: its first blocks, some of its exits."""

import enum
from collections.abc import Iterator, Mapping

from eejax.checkpoint import arrays, shapes
from eejax.checkpoint.arrays import Path
from eejax.checkpoint.manifest import Manifest, check_files
from eejax.config import ExitConfig
from eejax.models.families.tensors import block_key, tensors
from eejax.storage import AnyPath
from eejax.types import Params, PyTree

# The Orbax folder of what a backbone has besides its blocks.
OUTER = 'backbone/outer'


class LoadMethod(enum.Enum):
  """How arrays come from a file.

  LOAD: into memory.
  MAP: as views of their files, of which only what is used is read.
  """

  LOAD = 'load'
  MAP = 'map'


def block_folder(index: int) -> str:
  """Return the Orbax folder of block `index` (0-based)."""
  return f'backbone/blocks/{block_key(index)}'


def exit_folder(exit: ExitConfig) -> str:
  """Return the Orbax folder of an exit."""
  return f'exits/{exit.name}'


def read_outer(
  path: AnyPath, manifest: Manifest, *, how: LoadMethod = LoadMethod.LOAD
) -> Params:
  """Return what the backbone has besides its blocks, on the host.

  Raises:
    CheckpointError: an array of it is missing, cut short or misshapen.
  """
  return _read(path, manifest, OUTER, _expected(manifest)[OUTER], how)


def read_blocks(
  path: AnyPath,
  manifest: Manifest,
  *,
  depth: int,
  how: LoadMethod = LoadMethod.LOAD,
) -> Iterator[PyTree]:
  """Yield the first `depth` blocks, each read when it is asked for.

  Raises:
    CheckpointError: an array of one is missing, cut short or misshapen.
  """
  expected = _expected(manifest)
  for index in range(depth):
    folder = block_folder(index)
    yield _read(path, manifest, folder, expected[folder], how)


def read_exit(
  path: AnyPath,
  manifest: Manifest,
  *,
  exit: ExitConfig,
  how: LoadMethod = LoadMethod.LOAD,
) -> Params:
  """Return the parameters of an exit, on the host.

  Raises:
    CheckpointError: an array of it is missing, cut short or misshapen.
  """
  expected = shapes.exit_shapes(exit, manifest.config.model)
  return _read(path, manifest, exit_folder(exit), expected, how)


def _expected(manifest: Manifest) -> dict[str, dict[Path, tuple[int, ...]]]:
  """Return the shapes there must be in each Orbax folder of the backbone."""
  expected: dict[str, dict[Path, tuple[int, ...]]] = {}
  for tensor in tensors(manifest.config.model):
    folder, at = OUTER, tensor.path
    if at[0] == 'blocks':
      folder, at = f'backbone/blocks/{at[1]}', at[2:]
    expected.setdefault(folder, {})[at] = tensor.shape
  return expected


def _read(
  path: AnyPath,
  manifest: Manifest,
  folder: str,
  expected: Mapping[Path, tuple[int, ...]],
  how: LoadMethod,
) -> PyTree:
  """Return one Orbax folder as nested dicts, checked against `expected`."""
  described = {
    tuple(name.removeprefix(folder + '/').split('/')): info.shape
    for name, info in manifest.arrays.items()
    if name.startswith(folder + '/')
  }
  shapes.compare(f'{path}: {folder}', described, expected)
  if not described:
    return {}
  check_files(path, manifest, folder)
  read = arrays.map_leaves if how is LoadMethod.MAP else arrays.read_leaves
  return arrays.unflatten(read(path / folder, described))
