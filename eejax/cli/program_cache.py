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
"""Keep compiled programs between commands.

Compiling is most of what a short command does: `generate` on the embedded
model takes 13 s the first time and 6 s from then on. jax keeps programs in a
folder that an environment variable names; this names one where the user does
not. Programs are keyed by what they compute, so none is ever out of date, and
those that were not read for longest go first when there is no room.

On a CPU a program is made for the instructions of its processor and jax does
not look at them again, so every kind of processor has a folder of its own: a
home may be shared by many machines.
"""

import hashlib
import os
import pathlib
import platform

from eejax import cache_folders

FOLDER = 'JAX_COMPILATION_CACHE_DIR'
ROOM = 'JAX_COMPILATION_CACHE_MAX_SIZE'
_MOST_BYTES = 2 * 2**30


def keep_programs() -> None:
  """Name a folder for compiled programs, unless the user has, or there is none.

  It has to be called before jax is imported. `JAX_ENABLE_COMPILATION_CACHE=0`
  switches the keeping off, as everywhere with jax.
  """
  if FOLDER in os.environ:
    return
  try:
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # a home that is read-only, or is none
    return
  if os.access(place, os.W_OK):
    os.environ[FOLDER] = str(place)
    os.environ.setdefault(ROOM, str(_MOST_BYTES))


def folder() -> pathlib.Path:
  """Return where programs for this kind of processor are kept.

  Raises:
    RuntimeError: the user has no home.
  """
  return cache_folders.root() / 'programs' / _processor()


def _processor() -> str:
  """Return a short name of what instructions this processor has."""
  return hashlib.sha256(_instructions().encode()).hexdigest()[:12]


def _instructions() -> str:
  """Return what tells kinds of processors apart, flags where Linux has them."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  flags = [x for x in lines if x.startswith(('flags', 'Features'))]
  known = (platform.machine(), platform.processor(), *flags[:1])
  return ' '.join(known)
