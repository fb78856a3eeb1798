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
"""What a run folder is for: all that changes the numbers of a run.

An identity is plain values by dotted names, as in `optimizer.b1`, so that the
first thing that differs can be named. Settings that change what is kept and
shown, or which devices compute, are no part of it.
"""

import dataclasses
import enum
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from eejax import storage
from eejax.checkpoint import manifest, partial, tree
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import MODELS, find_tokenizer
from eejax.config import EarlyExitConfig
from eejax.data import batches as data_batches
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError
from eejax.recipes.text import Text
from eejax.storage import AnyPath
from eejax.training.optimizers import Configured
from eejax.types import Params

Values = dict[str, Any]


def described(**parts: Any) -> Values:
  """Return plain values by dotted names.

  Args:
    **parts: numbers, texts, enums, paths, arrays, functions of a module,
      `Configured` functions, and dataclasses, mappings and sequences of
      these.

  Raises:
    ArgumentError: a value is none of these, so two runs could not be told
      apart by it.

  Example:
    >>> described(loop={'steps': 3}, rates=(0.1, 0.2))
    {'loop.steps': 3, 'rates': [0.1, 0.2]}
  """
  values: Values = {}
  for name, part in parts.items():
    _add(values, name, part)
  return values


def _add(values: Values, name: str, part: Any) -> None:
  if isinstance(part, Configured):
    values[f'{name}.function'] = _function_name(name, part.function)
    part = part.arguments
  elif dataclasses.is_dataclass(part) and not isinstance(part, type):
    part = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
  if isinstance(part, Mapping):
    for key, value in part.items():
      _add(values, f'{name}.{key}', value)
  elif isinstance(part, (list, tuple)):
    if all(isinstance(x, (bool, int, float, str)) for x in part):
      values[name] = list(part)
    else:
      _add(values, name, dict(enumerate(part)))
  else:
    values[name] = _plain(name, part)


def _plain(name: str, value: Any) -> Any:
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    digest = tree.BackboneDigest()
    digest.update((name,), {'values': np.asarray(value)})
    return digest.hexdigest()
  if callable(value):
    return _function_name(name, value)
  raise ArgumentError(
    f'{name} is a {type(value).__name__}, by which two runs could not be told '
    'apart; give a number or a text.'
  )


def _function_name(name: str, function: Callable[..., Any]) -> str:
  short = getattr(function, '__name__', '')
  if getattr(optax, short, None) is function:
    return f'optax.{short}'  # wherever this version of optax has it
  full = getattr(function, '__qualname__', '<')
  if '<' in full:
    raise ArgumentError(
      f'{name} is a function without values, by which two runs could not be '
      'told apart; give configured(optax.NAME, ...) of '
      'eejax.training.optimizers, or a function of a module.'
    )
  return f'{function.__module__}.{full}'


def of_model(model: Model) -> Values:
  """Return what identifies a model in memory: all of its numbers."""
  return described(
    backbone=tree.backbone_hash(model.params),
    tokenizer=tokenizer_hash(model.tokenizer_folder),
    **_of_exits(model.config, model.params['exits']),
  )


def of_checkpoint(path: str | os.PathLike) -> Values:
  """Return the same of a checkpoint, whose backbone is not read."""
  path = storage.as_path(path)
  held = manifest.read_manifest(path)
  # Mapped, for Orbax would start jax before the hosts of a run have joined.
  how = partial.LoadMethod.MAP
  exits = {
    e.name: partial.read_exit(path, held, exit=e, how=how)
    for e in held.config.exits
  }
  return described(
    backbone=held.backbone_hash,
    tokenizer=tokenizer_hash(find_tokenizer(path)),
    **_of_exits(held.config, exits),
  )


def _of_exits(config: EarlyExitConfig, exits: Params) -> Values:
  hashes = {}
  for exit in config.exits:
    digest = tree.BackboneDigest()
    digest.update((exit.name,), exits.get(exit.name, {}))
    hashes[exit.name] = digest.hexdigest()
  return {'config': config, 'exits': hashes}


def tokenizer_hash(folder: AnyPath | None) -> str | None:
  """Return a hash of a tokenizer's files, None without any."""
  if folder is None:
    return None
  files = [folder / name for name in MODELS]
  digest = hashlib.sha256()
  for file in files:
    digest.update(file.read_bytes() if file.is_file() else b'')
  return digest.hexdigest()


def of_data(data: DataConfig, *, tokenizer: Tokenizer | None = None) -> Values:
  """Return what identifies the data of a run.

  Args:
    data: of the run.
    tokenizer: whose chat template writes conversations.

  Raises:
    ArgumentError: there are no such files, or no chat template for
      conversations.
  """
  text = Text(data.corpus, unit=data.unit, field=data.field)
  values = described(**{'data': data, FINGERPRINT: text.fingerprint()})
  if data.has_conversations and tokenizer is not None:
    values[CHAT_TEMPLATE] = template_hash(tokenizer)
  return values


def template_hash(tokenizer: Tokenizer) -> str:
  """Return a hash of what conversations are written by.

  Raises:
    ArgumentError: the tokenizer has no chat template.
  """
  source = data_batches.conversation_template(tokenizer).source
  return hashlib.sha256(source.encode()).hexdigest()


# Of the files of a text as one host sees them.
FINGERPRINT = 'data.fingerprint'
CHAT_TEMPLATE = 'data.chat_template'
