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
"""A policy that a gin file describes, with a criterion of the user's own.

    import hopeful                        # hopeful.py, beside the gin file

    Policy.criterion = @register()
    register.criterion = @Hopeful()
    Hopeful.scale = 0.5

Where nothing but the criterion is said, flags say the rest.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eejax import storage
from eejax.cli.gin import config as gin_config
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.decoding.policy.policy import Policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the flags of gin, which here describe a policy."""
  gin_config.add_gin_arguments(
    parser,
    title='a criterion of your own',
    help='gin file that imports and registers it: Policy.criterion = '
    '@register(); it may describe the whole policy',
  )


def read(args: argparse.Namespace) -> 'Policy | None':
  """Return the policy that gin files describe, its criterion registered.

  None where nothing describes one; what files import is registered anyway.

  Raises:
    ArgumentError: one cannot be used; it is named.
  """
  if not (args.gin_file or args.gin_bindings):
    return None
  import gin

  from eejax.cli.gin import configurables  # noqa: F401  (what files may name)
  from eejax.decoding.policy.policy import Policy

  with _importable(args.gin_file):
    gin_config.parse(args)
  described = set(gin.get_bindings(Policy, resolve_references=False))
  if not described:
    return None
  if 'mode' not in described and described != {'criterion'}:
    raise ArgumentError(
      'Policy.mode must be given where gin says more of a policy than its '
      'criterion: Policy.mode = %Mode.EARLY_EXIT.'
    )
  with gin_config.missing_values_named():
    return gin.get_configurable(Policy)()


def read_criterion(args: argparse.Namespace) -> str | None:
  """Return the name of the criterion that gin files register, or None.

  For verbs that take nothing else of a policy.

  Raises:
    ArgumentError: gin says more, or cannot be used.
  """
  policy = read(args)
  if policy is None:
    return None
  if not is_criterion_alone(policy):
    raise ArgumentError(
      'of a policy only Policy.criterion is taken from gin here; leave '
      'Policy.mode and the rest to flags.'
    )
  return policy.criterion


def is_criterion_alone(policy: 'Policy') -> bool:
  """Return whether gin left all of a policy but its criterion to flags."""
  from eejax.decoding.policy.policy import Policy

  return policy == Policy(criterion=policy.criterion)


@contextlib.contextmanager
def _importable(files: list[str]) -> Iterator[None]:
  """Let gin files import the modules that lie beside them."""
  before = list(sys.path)
  # At the end, so that no such module hides one that is installed.
  sys.path += [
    str(storage.local_path(file).absolute().parent) for file in files
  ]
  try:
    yield
  finally:
    sys.path[:] = before
