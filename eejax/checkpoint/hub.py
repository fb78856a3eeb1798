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
"""Fetch a model from the Hugging Face hub."""

import os
import pathlib
import re

from eejax.errors import CheckpointError

# Nothing that could be a pickle is asked for, nor what lies in subfolders.
_PATTERNS = ('*.safetensors', '*.json', '*.jinja', 'tokenizer.model')
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[\w.-]+')


def is_hub_name(source: str) -> bool:
  """Return whether `source` looks like `organisation/model`."""
  return _NAME.fullmatch(source) is not None


def download(name: str) -> pathlib.Path:
  """Return the folder where the hub's model `name` lies, fetching it first.

  Raises:
    CheckpointError: the hub cannot be reached, or has no such model for us.
  """
  import huggingface_hub
  from huggingface_hub import errors

  try:
    folder = huggingface_hub.snapshot_download(
      name, allow_patterns=list(_PATTERNS), ignore_patterns=['*/*']
    )
  except errors.GatedRepoError as error:
    raise CheckpointError(
      f'the model {name!r} is gated: ask for access on its page on the hub, '
      'then log in with `hf auth login`.'
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise CheckpointError(
      f'there is neither a folder nor a model on the hub named {name!r} (a '
      'private one needs `hf auth login`).'
    ) from error
  except Exception as error:  # of its HTTP library too, which may change
    raise CheckpointError(
      f'there is no folder {name!r}, and the Hugging Face hub cannot be '
      f'reached to look for it ({type(error).__name__}); download the model '
      'elsewhere and name its folder.'
    ) from error
  return pathlib.Path(folder)


def upload(
  folder: str | os.PathLike, name: str, *, private: bool, message: str
) -> str:
  """Put the files of a folder into a repository, made if it is not there.

  Returns:
    The address of the commit.

  Raises:
    CheckpointError: the hub cannot be reached, or refuses.
  """
  import huggingface_hub

  api = huggingface_hub.HfApi()
  try:
    api.create_repo(name, private=private, exist_ok=True)
    commit = api.upload_folder(
      repo_id=name, folder_path=str(folder), commit_message=message
    )
  except Exception as error:  # of its HTTP library too, which may change
    raise CheckpointError(
      f'nothing was put into {name} on the Hugging Face hub '
      f'({type(error).__name__}); log in with `hf auth login` to an account '
      'that may write there.'
    ) from error
  return str(commit.commit_url)
