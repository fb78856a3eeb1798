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
"""Exits by themselves, in a folder or a repository of the Hugging Face hub.

They are the two files that `eejax export` puts beside a backbone, and a model
card. They go with one backbone, which `exits.json` names by its hash.
"""

import dataclasses
import math
import os
import pathlib
import tempfile

from eejax import storage
from eejax.checkpoint import arrays, hub, huggingface, huggingface_export, tree
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.checkpoint.model import Model
from eejax.config import ExitConfig
from eejax.errors import ArgumentError
from eejax.types import Params
from eejax.version import __version__

CARD = 'README.md'


def save_exits(
  model: Model,
  dest: str | os.PathLike,
  *,
  existing: Existing = Existing.REFUSE,
) -> None:
  """Write the exits of a model, without its backbone, and their card.

  Args:
    model: with exits; its backbone must be whole, for its hash is taken.
    dest: the folder to make.
    existing: what to do when something is at `dest`.

  Raises:
    ArgumentError: the model has no exits, or `dest` is occupied.
  """
  _need_exits(model)
  marker = huggingface_export.EXITS_CONFIG
  with whole_folder(dest, existing=existing, marker=marker) as new:
    _write(new, model)


def push_exits(
  model: Model,
  repository: str,
  *,
  private: bool = False,
  message: str = 'Exits made with eejax',
) -> str:
  """Put the exits of a model into a repository of the hub.

  Args:
    model: with exits; its backbone must be whole, for its hash is taken.
    repository: `organisation/name`; made if it is not there.
    private: whether a new repository is private.
    message: of the commit.

  Returns:
    The address of the commit.

  Raises:
    ArgumentError: the model has no exits, or `repository` is no such name.
    CheckpointError: the hub cannot be reached, or refuses.
  """
  _need_exits(model)
  if not hub.is_hub_name(repository):
    raise ArgumentError(
      f'a repository of the hub is ORGANISATION/NAME, not {repository!r}.'
    )
  with tempfile.TemporaryDirectory() as place:
    _write(storage.local_path(place), model)
    return hub.upload(place, repository, private=private, message=message)


def pull_exits(model: Model, source: str | os.PathLike) -> Model:
  """Return a model with the exits of a folder or repository of the hub.

  Args:
    model: the backbone that the exits were made for; exits that it has are
      replaced.
    source: the folder, or `organisation/name` where no such folder is.

  Raises:
    ArgumentError: there are no exits at `source`.
    CheckpointError: they are broken or for another backbone, or the hub
      cannot be reached.
  """
  folder = storage.local_path(source)
  if not folder.exists() and hub.is_hub_name(str(source)):
    folder = hub.download(str(source))
  if not (folder / huggingface_export.EXITS_CONFIG).is_file():
    raise ArgumentError(
      f'there are no exits at {source}: it has no '
      f'{huggingface_export.EXITS_CONFIG}.'
    )
  config, held = huggingface.read_exits(
    folder, model.config.model, model.params['backbone']
  )
  kind = tree.Layout.UNSTACKED
  placed = tree.on_device({}, (), held, layout=kind)['exits']
  return dataclasses.replace(
    model, config=config, params={**model.params, 'exits': placed}
  )


def _need_exits(model: Model) -> None:
  if not model.config.exits:
    raise ArgumentError('the model has no exits; add some first.')


def _write(folder: pathlib.Path, model: Model) -> None:
  huggingface_export.write_exits(folder, model.params, model.config)
  digest = tree.backbone_hash(model.params)
  (folder / CARD).write_text(model_card(model, backbone_hash=digest))


# MARK: The card


def model_card(model: Model, *, backbone_hash: str) -> str:
  """Return the card of a model's exits, in the hub's Markdown.

  It says what the configuration and the provenance say, and names no file of
  this machine.
  """
  base = _base_model(model)
  lines = ['---', 'library_name: eejax', 'tags:', '- early-exit']
  if base:
    lines.append(f'base_model: {base}')
  shape = model.config.model
  name = base or f'a {shape.family} of {shape.num_layers} blocks'
  rows = [_row(exit, model.params['exits']) for exit in model.config.exits]
  steps = model.provenance.get('tune', {})
  made = f'Tuned for {steps["steps"]} steps. ' if 'steps' in steps else ''
  lines += [
    '---',
    '',
    f'# Early exits for {name}',
    '',
    f'{made}The backbone is not here and was not changed: '
    f'{shape.num_layers} blocks, {shape.embed_dim} wide, {shape.vocab_size} '
    f'tokens, hash `{backbone_hash}`.',
    '',
    '| depth | head | output matrix | gate | parameters |',
    '|---|---|---|---|---|',
    *rows,
    '',
    '```python',
    'import eejax',
    '',
    f"model = eejax.load('{base or 'BACKBONE'}')",
    "model = eejax.pull_exits(model, 'THIS_REPOSITORY')",
    '```',
    '',
    'eejax refuses them for a backbone with another hash. How often an exit '
    'agrees with the whole model depends on the text: measure it on yours, '
    'with `eejax eval` and `eejax calibrate`.',
    '',
    f'Written by eejax {__version__}.',
    '',
  ]
  return '\n'.join(lines)


def _base_model(model: Model) -> str | None:
  """Return the name of the backbone on the hub, if that is where it is from."""
  source = str(model.provenance.get('source', ''))
  is_name = hub.is_hub_name(source) and not storage.local_path(source).exists()
  return source if is_name and 'huggingface' in model.provenance else None


def _row(exit: ExitConfig, exits: Params) -> str:
  leaves = arrays.flatten(exits.get(exit.name, {})).values()
  count = sum(math.prod(leaf.shape) for leaf in leaves)
  head = exit.head.value + (f'({exit.rank})' if exit.rank else '')
  return (
    f'| {exit.depth} | {head} | {exit.output.value} | {exit.gate.value} | '
    f'{count:,} |'
  )
