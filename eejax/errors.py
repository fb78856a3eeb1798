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
"""Errors whose message is for the person at the keyboard.

The command line prints the message of an `EejaxError` as one sentence, without
a traceback, and exits with the error's code. A message says what is wrong and
what to do about it.
"""


class EejaxError(Exception):
  """Report a failure the user can understand and act on; exit code 1."""

  exit_code = 1


class ArgumentError(EejaxError, ValueError):
  """Report an argument that cannot be used as given; exit code 2."""

  exit_code = 2


class CheckpointError(EejaxError):
  """Report a checkpoint that cannot be used as it is; exit code 2."""

  exit_code = 2


class WriteError(CheckpointError):
  """Report a checkpoint that could not be written; exit code 1."""

  exit_code = 1


class StoreError(EejaxError):
  """Report a store that refuses, fails or is not there; exit code 1."""
