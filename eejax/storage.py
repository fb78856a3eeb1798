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
"""Paths as people write them: on this machine, or in a bucket.

Whatever a person names as a file or a folder becomes a path here and nowhere
else, so that an address such as `gs://bucket/run` is never taken for the name
of a local folder. Addresses become paths of etils' epath, which reads and
writes them through fsspec; TensorFlow, its other way, is not imported for it.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eejax.errors import ArgumentError, StoreError

if TYPE_CHECKING:
  AnyPath = pathlib.Path
else:
  # A path of epath has the methods of `pathlib.Path`, and is only a PurePath.
  AnyPath = pathlib.PurePath

# Stores that Orbax and epath both know: the package that fsspec reads each
# with, and the extra that brings it.
STORES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}

# epath looks once, when it makes its first path of any kind.
if importlib.util.find_spec(STORES['gs'][0]) is not None:
  os.environ.setdefault('EPATH_USE_TF', 'false')

# A path object has one slash left of the two.
_ADDRESS = re.compile(
  r'([A-Za-z][A-Za-z0-9+.-]+)://|(gs|s3|az|hf|http|https|memory):/'
)


def store_of(where: str | os.PathLike) -> str | None:
  """Return the scheme of an address, `gs` of `gs://bucket/run`, or None.

  A `pathlib.Path` that was made of an address counts as one.
  """
  found = _ADDRESS.match(os.fspath(where))
  return (found[1] or found[2]).lower() if found else None


def is_remote(where: str | os.PathLike) -> bool:
  """Return whether a path is an address in a store."""
  return store_of(where) is not None


def local_path(where: str | os.PathLike) -> pathlib.Path:
  """Return the path of something that has to be on this machine.

  Raises:
    ArgumentError: it is an address in a store.
  """
  store = store_of(where)
  if store is not None:
    raise ArgumentError(
      f'{address(where)} is an address of the store {store!r}, and here a '
      'path on this machine is needed; copy it here first, or name a local '
      'file or folder and copy that afterwards.'
    )
  return pathlib.Path(where)


def as_path(where: str | os.PathLike) -> AnyPath:
  """Return the path of something on this machine or in a store.

  Raises:
    ArgumentError: the store is not known, or its package is not installed.
  """
  store = store_of(where)
  if store is None:
    return pathlib.Path(where)
  if store not in STORES:
    known = ' and '.join(f'{name}://' for name in STORES)
    raise ArgumentError(
      f'{address(where)} is in a store that eejax does not know; it knows '
      f'{known} and local folders.'
    )
  package, extra = STORES[store]
  if importlib.util.find_spec(package) is None:
    raise ArgumentError(
      f'{address(where)} needs the package {package}; install it with '
      f"pip install 'eejax[{extra}]'."
    )
  return _epath(where)


def absolute(where: str | os.PathLike) -> AnyPath:
  """Return the path that means the same in every working folder."""
  path = as_path(where)
  return path if is_remote(path) else path.absolute()


def make_folder(path: AnyPath) -> None:
  """Make a local folder with its parents; stores have no folders."""
  if not is_remote(path):
    path.mkdir(parents=True, exist_ok=True)


def address(where: str | os.PathLike) -> str:
  """Return an address with both its slashes, and any other path as it is."""
  text = os.fspath(where)
  return re.sub(r':/+', '://', text, count=1) if is_remote(text) else text


def failures() -> tuple[type[Exception], ...]:
  """Return what is raised when a file or a store cannot be used.

  Clients of stores raise errors of their own beside `OSError`.
  """
  found: list[type[Exception]] = [OSError]
  for module, name in (
    ('gcsfs.retry', 'HttpError'),
    ('aiohttp', 'ClientError'),
    ('google.auth.exceptions', 'GoogleAuthError'),
    ('botocore.exceptions', 'BotoCoreError'),
  ):
    if module in sys.modules:
      found.append(getattr(sys.modules[module], name))
  return tuple(found)


@contextlib.contextmanager
def reported(path: str | os.PathLike, *, what: str) -> Iterator[None]:
  """Turn what a store's client raises into one sentence.

  Args:
    path: that is used; errors of local paths are left as they are.
    what: is being done with it, as in 'read'.

  Raises:
    StoreError: the store refused, is not there, or failed for long.
  """
  try:
    yield
  except failures() as error:
    if not is_remote(path):
      raise
    raise StoreError(
      f'{address(path)} cannot be {what}: {reason(error)}.'
    ) from error


def reason(error: BaseException) -> str:
  """Return in a few words why a store's client raised an error."""
  if isinstance(error, FileNotFoundError):
    return 'there is no such bucket or file'
  text = ' '.join(str(error).split()) or type(error).__name__
  if 'Forbidden' in text or 'ermission' in text or ', 403' in text:
    return 'the store refuses, so check who may use the bucket'
  text = text.rstrip('.')
  return text if len(text) <= 200 else text[:197] + '...'


def _epath(where: str | os.PathLike) -> Any:
  # Listings are kept for ever by default, and other hosts write here, too.
  import fsspec.config

  for names in (('gs', 'gcs'), ('s3',)):
    for name in names:
      settings = fsspec.config.conf.setdefault(name, {})
      settings.setdefault('use_listings_cache', False)
  from etils import epath

  return epath.Path(address(where))
