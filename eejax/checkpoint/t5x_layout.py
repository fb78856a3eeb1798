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
"""Checkpoints of t5x: read them, and write what t5x reads.

t5x writes `checkpoint_STEP/state`, an Orbax tree `{target, state}`: the
parameters, and the step with the optimizer's state. Of an eejax model
`target` is eejax's own tree, blocks stacked, so that reading and writing
change no bit. Other decoders of t5x have names of their own, see
`eejax.checkpoint.t5x_decoder`.
"""

import os
import pathlib
import re
from typing import Any

import jax
import numpy as np

from eejax import storage
from eejax.checkpoint import arrays, shapes, t5x_decoder, t5x_description, tree
from eejax.checkpoint.arrays import Path
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import find_tokenizer
from eejax.checkpoint.tree import Layout
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.stacking import unstack
from eejax.types import Params

STATE, TARGET = 'state', 'target'
# By which a folder that `save` wrote is recognised.
MARKER = f'{t5x_description.FOLDER}/{t5x_description.NAME}'
_STEP = re.compile(r'checkpoint_(\d+)')
# t5x's own format before Orbax, one file of msgpack.
_LEGACY = 'checkpoint'


def is_checkpoint(path: str | os.PathLike) -> bool:
  """Return whether `path` is a checkpoint of t5x, or a run with some."""
  path = storage.local_path(path)
  is_legacy = _STEP.fullmatch(path.name) and (path / _LEGACY).is_file()
  return bool(is_legacy) or _state_folder(path) is not None


def load(
  source: str | os.PathLike,
  *,
  config: EarlyExitConfig | None = None,
  layout: Layout = Layout.STACKED,
  dtype: Any = None,
) -> Model:
  """Return the model of a t5x checkpoint.

  Args:
    source: `checkpoint_STEP`, its `state`, or the run, of which the newest
      checkpoint is read.
    config: the model; by default what stands beside the checkpoint.
    layout: whether the blocks are stacked.
    dtype: what every array is converted to; by default each stays as stored.

  Raises:
    ArgumentError: it is no checkpoint of t5x, or nothing says what model it
      is.
    CheckpointError: it is broken, or eejax has no such model.
  """
  path = storage.local_path(source)
  folder = _state_folder(path)
  if folder is None:
    raise ArgumentError(_what_is_wrong(path))
  described = t5x_description.read(path)
  if config is None and described is not None:
    config = described.config
  leaves = arrays.read_tree(folder, root=(TARGET,))
  if not leaves:
    raise CheckpointError(
      f'{folder} has no parameters under {TARGET!r}, so t5x did not write it.'
    )
  if not any(at[0] == 'backbone' for at in leaves):
    leaves, config = t5x_decoder.convert(leaves, config, source=path)
  if config is None:
    raise ArgumentError(
      f'nothing says what model {path} holds: copy '
      f'{t5x_description.FOLDER}/ beside it from the run that wrote it, or '
      'name the model with --config.'
    )
  params = _params(leaves, config, layout, dtype, path)
  tokenizer = None if described is None else described.tokenizer_folder
  return Model(
    config=config,
    params=params,
    tokenizer_folder=tokenizer or find_tokenizer(path),
    provenance={
      **({} if described is None else described.provenance),
      't5x': {'source': str(source), 'checkpoint': folder.parent.name},
    },
  )


def save(
  model: Model,
  dest: str | os.PathLike,
  *,
  step: int = 0,
  existing: Existing = Existing.REFUSE,
) -> pathlib.Path:
  """Write a model as a run of t5x with one checkpoint.

  Args:
    model: its backbone must be whole.
    dest: the folder to make; `dest/checkpoint_STEP` is what t5x restores.
    step: that t5x goes on from.
    existing: what to do when something is at `dest`.

  Returns:
    The folder of the checkpoint.

  Raises:
    ArgumentError: `dest` is occupied.
    CheckpointError: the arrays do not fit the configuration, or the disk is
      full.
  """
  params = model.params
  shapes.check_backbone(tree.shapes(params), model.config.model)
  shapes.check_exits(params['exits'], model.config)
  state = {
    TARGET: _target(params),
    STATE: {'step': np.asarray(step, np.int32)},
  }
  name = f'checkpoint_{step}'
  with whole_folder(dest, existing=existing, marker=MARKER) as new:
    (new / name).mkdir()
    arrays.write_ocdbt_tree(new / name / STATE, state)
    t5x_description.write(
      new,
      model.config,
      tokenizer=model.tokenizer_folder,
      provenance=model.provenance,
    )
  return storage.local_path(dest) / name


def _target(params: Params) -> Params:
  """Return the tree as t5x holds it: stacked, without empty nodes."""
  blocks = params['backbone']['blocks']
  if tree.layout_of(params) is Layout.UNSTACKED:
    join = lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves])
    blocks = jax.tree.map(join, *blocks)
  whole = {
    'backbone': {**params['backbone'], 'blocks': blocks},
    'exits': params['exits'],
  }
  return arrays.unflatten(
    {at: tree.host_copy(leaf) for at, leaf in arrays.flatten(whole).items()}
  )


def _params(
  leaves: dict[Path, np.ndarray],
  config: EarlyExitConfig,
  layout: Layout,
  dtype: Any,
  source: pathlib.Path,
) -> Params:
  """Return checked arrays as the parameters of a model."""
  held = arrays.unflatten(leaves)
  unknown = held.keys() - {'backbone', 'exits'}
  if unknown:
    raise CheckpointError(
      f'{source} has parameters under {min(unknown)!r}, which are none of an '
      'eejax model.'
    )
  # An exit that shares its output matrix may have no parameters.
  exits = {e.name: {} for e in config.exits} | held.get('exits', {})
  params = {'backbone': held['backbone'], 'exits': exits}
  blocks = params['backbone'].get('blocks', {})
  if not blocks:
    raise CheckpointError(f'{source} lacks the blocks of the backbone.')
  shapes.check_backbone(tree.shapes(params), config.model)
  shapes.check_exits(exits, config)
  if layout is Layout.UNSTACKED:
    params['backbone']['blocks'] = unstack(blocks)
  place = lambda leaf: jax.numpy.asarray(tree.host_copy(leaf, dtype))
  return jax.tree.map(place, params)


def _state_folder(path: pathlib.Path) -> pathlib.Path | None:
  """Return the Orbax folder that `path` names, None where there is none."""
  if _STEP.fullmatch(path.name) and arrays.is_tree(path / STATE):
    return path / STATE
  is_state = path.name == STATE and _STEP.fullmatch(path.absolute().parent.name)
  if is_state and arrays.is_tree(path):
    return path
  newest = max(_steps(path), default=None)
  return None if newest is None else newest[1] / STATE


def _steps(path: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
  """Return the whole checkpoints of a run with their steps."""
  if not path.is_dir():
    return []
  found = [(_STEP.fullmatch(p.name), p) for p in path.iterdir()]
  return [(int(m[1]), p) for m, p in found if m and arrays.is_tree(p / STATE)]


def _what_is_wrong(path: pathlib.Path) -> str:
  if (path / _LEGACY).is_file():
    return (
      f"{path} is in t5x's format before Orbax; restore it with t5x and save "
      'it with use_orbax=True, which is the default now.'
    )
  return (
    f'{path} is no checkpoint of t5x: there is neither checkpoint_STEP/state '
    'in it nor is it one.'
  )
