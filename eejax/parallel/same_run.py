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
"""Whether the hosts of a run were started with the same code and settings."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from eejax import errors

_MOST_DIFFERENCES = 3


def describe(identity: Mapping[str, Any]) -> dict[str, Any]:
  """Return what the others must have in common with this host, for JSON.

  Args:
    identity: plain values that decide the losses.
  """
  return {'code': _code_hash(), 'identity': dict(identity)}


def difference(descriptions: list[dict[str, Any]]) -> str | None:
  """Return a sentence about what differs between hosts, or None.

  Args:
    descriptions: of every host, in their order; see `describe`.
  """
  first = descriptions[0]
  for rank, other in enumerate(descriptions):
    if other['code'] != first['code']:
      return (
        f'host {rank} runs other code than host 0 ({other["code"]} and '
        f'{first["code"]}); install the same version on all hosts.'
      )
    mine, theirs = first['identity'], other['identity']
    names = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
    if names:
      listed = '; '.join(
        f'{n} is {theirs.get(n)!r} there and {mine.get(n)!r} on host 0'
        for n in names[:_MOST_DIFFERENCES]
      )
      return (
        f'host {rank} was started with another configuration: {listed}; '
        'start all hosts with the same command.'
      )
  return None


def _code_hash() -> str:
  """Return a hash of this package's code and of the version of jax."""
  digest = hashlib.sha256(jax.__version__.encode())
  root = pathlib.Path(errors.__file__).parent
  for path in sorted(root.rglob('*.py')):
    digest.update(path.relative_to(root).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]
