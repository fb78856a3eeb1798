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
"""API keys: where they come from, and who has one."""

import hashlib
import hmac
import os
from collections.abc import Sequence

from eejax import storage
from eejax.errors import ArgumentError
from eejax.serving.api_error import missing_key, wrong_key

VARIABLE = 'EEJAX_API_KEY'


class ApiKeys:
  """The keys that a server accepts; without any, everybody may ask.

  Only their hashes are kept, and compared in a time that tells nothing.
  """

  def __init__(self, keys: Sequence[str] = ()):
    self._hashes = tuple(_hash(key.encode('utf-8')) for key in keys)

  def check(self, authorization: str | None) -> None:
    """Check the header `Authorization` of a request.

    Raises:
      ApiError: it has no key, or a wrong one.
    """
    if not self._hashes:
      return
    scheme, _, key = (authorization or '').partition(' ')
    if scheme.lower() != 'bearer' or not key.strip():
      raise missing_key()
    # Headers are read as Latin-1.
    given = _hash(key.strip().encode('latin-1', errors='replace'))
    # All are compared, whichever it is.
    if not any([hmac.compare_digest(given, known) for known in self._hashes]):
      raise wrong_key()


def read_keys(path: str | None) -> ApiKeys:
  """Return the keys of a file, one a line, and of the environment.

  Raises:
    ArgumentError: the file cannot be read, or has no key.
  """
  keys = []
  if path is not None:
    try:
      text = storage.local_path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
      raise ArgumentError(
        f'the API keys in {path} cannot be read; name a text file with a key '
        'a line.'
      ) from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
      raise ArgumentError(f'{path} has no API key; write one a line into it.')
  from_environment = os.environ.get(VARIABLE, '').strip()
  if from_environment:
    keys.append(from_environment)
  return ApiKeys(keys)


def _hash(key: bytes) -> bytes:
  return hashlib.sha256(key).digest()
