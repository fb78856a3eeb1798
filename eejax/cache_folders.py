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
"""Folders for what is fetched or made once and can be made again."""

import atexit
import functools
import os
import pathlib
import shutil
import tempfile

from eejax import storage


def root() -> pathlib.Path:
  """Return where caches of this user are, by the rules of XDG.

  Raises:
    RuntimeError: the user has no home.
  """
  named = os.environ.get('XDG_CACHE_HOME')
  caches = (
    storage.local_path(named) if named else pathlib.Path.home() / '.cache'
  )
  return caches / 'eejax'


def folder(name: str) -> pathlib.Path:
  """Return a cache that can be written, made if it is not there.

  Where the user's caches cannot be written it is a folder that goes when the
  process ends.

  Args:
    name: of the cache.
  """
  try:
    place = root() / name
    place.mkdir(parents=True, exist_ok=True)
    if os.access(place, os.W_OK):
      return place
  except (OSError, RuntimeError):  # a home that is read-only, or is none
    pass
  place = _temporary() / name
  place.mkdir(exist_ok=True)
  return place


@functools.cache
def _temporary() -> pathlib.Path:
  place = pathlib.Path(tempfile.mkdtemp(prefix='eejax-'))
  atexit.register(shutil.rmtree, place, ignore_errors=True)
  return place
