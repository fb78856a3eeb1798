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
"""Measure named figures and print them as one JSON object."""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from eejax import environment

# A figure, None where it cannot be measured here, and what it is made of.
Figure = tuple[float | None, dict[str, Any]]
Measure = Callable[[argparse.Namespace], Figure]


def parser(description: str, *, repeats: int) -> argparse.ArgumentParser:
  """Return a parser of the arguments that every benchmark takes."""
  made = argparse.ArgumentParser(description=description)
  made.add_argument('--only', help='figures, separated by commas')
  made.add_argument(
    '--repeats',
    type=int,
    default=repeats,
    help=f'of what is timed (default: {repeats})',
  )
  return made


def run(made: argparse.ArgumentParser, figures: Mapping[str, Measure]) -> None:
  """Measure the figures that the command line asks for and print them.

  A figure that fails is told and left None; the others are measured.
  """
  args = made.parse_args()
  names = args.only.split(',') if args.only else list(figures)
  unknown = set(names) - set(figures)
  if unknown:
    made.error(f'no such figure: {sorted(unknown)[0]}')
  values: dict[str, float | None] = {}
  detail: dict[str, Any] = {}
  for name in names:
    print(f'{name} ...', file=sys.stderr, flush=True)
    try:
      values[name], detail[name] = figures[name](args)
    # Whatever it is, the other figures are still wanted.
    except Exception as error:
      values[name], detail[name] = None, {'failed': repr(error)}
    # A process may map so many regions of memory, and every program has some.
    jax.clear_caches()
    shown = detail[name].get('failed', values[name])
    print(f'{name} = {shown}', file=sys.stderr, flush=True)
  result = {'figures': values, 'detail': detail, 'environment': described()}
  print(json.dumps(result, indent=2))
  if any('failed' in part for part in detail.values()):
    sys.exit(1)


def described() -> dict[str, Any]:
  """Return what a figure depends on: machine, versions, date, commit, load."""
  return {
    **environment.describe(),
    'date': datetime.date.today().isoformat(),
    'commit': _commit(),
    'load': list(os.getloadavg()),
  }


def _commit() -> str | None:
  """Return the commit of this checkout, with + where files were changed."""
  folder = pathlib.Path(__file__).resolve().parent
  git = ['git', '-C', str(folder)]
  run = lambda *words: subprocess.run(
    [*git, *words], capture_output=True, text=True
  )
  head = run('rev-parse', '--short', 'HEAD')
  if head.returncode:
    return None
  changed = run('status', '--porcelain', '--untracked-files=no').stdout
  return head.stdout.strip() + ('+' if changed else '')
