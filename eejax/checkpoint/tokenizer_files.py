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
"""Carry a tokenizer along with a model, and check that the two fit."""

import atexit
import pathlib
import shutil
import tempfile

import tokenizers

from eejax import storage, store_folder
from eejax.errors import CheckpointError
from eejax.storage import AnyPath

MODELS = ('tokenizer.json', 'tokenizer.model')
_FILES = (
  *MODELS,
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'vocab.json',
  'merges.txt',
)


def find_tokenizer(folder: AnyPath) -> pathlib.Path | None:
  """Return the folder of the tokenizer in `folder`, None without one.

  Of a folder in a store its files are fetched, and stay until the process
  ends: whoever reads tokenizers reads local files.
  """
  if storage.is_remote(folder):
    return _fetched(folder)
  return folder if any((folder / n).is_file() for n in MODELS) else None


def _fetched(folder: AnyPath) -> pathlib.Path | None:
  with storage.reported(folder, what='read'):
    found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    if found.isdisjoint(MODELS):
      return None
    place = pathlib.Path(tempfile.mkdtemp(prefix='eejax-'))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for name in found.intersection(_FILES):
      store_folder.copy_file(folder / name, place / name)
  return place


def copy_tokenizer(source: pathlib.Path | None, dest: pathlib.Path) -> None:
  """Copy the files of the tokenizer at `source`, if there is one."""
  for file in list_tokenizer(source):
    shutil.copyfile(file, dest / file.name)


def list_tokenizer(source: pathlib.Path | None) -> list[pathlib.Path]:
  """Return the files of the tokenizer at `source`, none without one."""
  if source is None:
    return []
  return [source / name for name in _FILES if (source / name).is_file()]


def check_vocabulary(folder: pathlib.Path, *, vocab_size: int) -> None:
  """Check that every token of the tokenizer in `folder` has an embedding.

  Raises:
    CheckpointError: the tokenizer cannot be read, or has a token beyond the
      table.
  """
  path = folder / 'tokenizer.json'
  if not path.is_file():
    return
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises bare Exception
    raise CheckpointError(f'{path} is not a tokenizer: {error}.') from error
  vocabulary = tokenizer.get_vocab(with_added_tokens=True)
  token, last = max(vocabulary.items(), key=lambda item: item[1])
  if last >= vocab_size:
    raise CheckpointError(
      f'the tokenizer does not fit the model: token {token!r} has id {last}, '
      f'but there are {vocab_size} embeddings; use the tokenizer that the '
      'model was trained with.'
    )
