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
"""What the launchers written in Python share; launcher.sh is for the others."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

VERBS = ('pretrain', 'tune')
_NAME = re.compile(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?')
_BUCKET = re.compile(r'gs://[a-z0-9][a-z0-9._-]+')


class Launcher:
  """Print or run commands, and end with one sentence where it cannot go on."""

  def __init__(self, name: str, *, dry_run: bool):
    self.name = name
    self.dry_run = dry_run

  def wrong(self, sentence: str) -> NoReturn:
    """End because of a wrong argument."""
    print(f'{self.name}: {sentence}', file=sys.stderr)
    raise SystemExit(2)

  def fail(self, sentence: str) -> NoReturn:
    """End because something is missing or failed."""
    print(f'{self.name}: {sentence}', file=sys.stderr)
    raise SystemExit(1)

  def check_name(self, flag: str, value: str) -> None:
    """Refuse a name that a cloud would refuse."""
    if not _NAME.fullmatch(value):
      self.wrong(
        f"{flag} '{value}' must have 1 to 40 lower-case letters, digits and "
        'dashes, and begin with a letter.'
      )

  def check_bucket(self, value: str) -> None:
    """Refuse what is no name of a bucket."""
    if not _BUCKET.fullmatch(value):
      self.wrong(f"--bucket must be gs://NAME, not '{value}'.")

  def check_tool(self, name: str, source: str) -> None:
    """Refuse a missing program, unless nothing is run."""
    if not self.dry_run and not shutil.which(name):
      self.fail(f'{name} is not installed; {source}.')

  def check(self, sentence: str, command: Sequence[str]) -> None:
    """Run a command that changes nothing; say the sentence if it fails."""
    if self.dry_run:
      print(shlex.join(command))
    elif subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
      self.fail(sentence)

  def run(self, command: Sequence[str], *, text: str | None = None) -> None:
    """Run a command, or print it; `text` is what it reads."""
    if self.dry_run:
      print(shlex.join(command) + (' <<END' if text else ''))
      if text:
        print(f'{text}END')
    elif subprocess.run(command, input=text, text=True).returncode:
      self.fail(f'{command[0]} failed; its message stands above.')

  def eejax_arguments(self, words: Sequence[str]) -> list[str]:
    """Return the words of one run, without its folder."""
    words = list(words)
    if words[:1] == ['--']:
      words = words[1:]
    if words[:1] == ['eejax']:
      words = words[1:]
    if not words:
      self.wrong(
        'nothing to run; end with -- pretrain --gin_file=runs/pretrain.gin '
        '(or tune).'
      )
    if words[0] not in VERBS:
      self.wrong(f"'{words[0]}' is no run; give pretrain or tune.")
    if any(re.match(r'--run(=|$)|--gin\.RUN=', word) for word in words):
      self.wrong("give --run before --, not with eejax's arguments.")
    if not any(re.match(r'--gin_file(=|$)', word) for word in words):
      self.wrong(f'a run needs its gin file: --gin_file=runs/{words[0]}.gin.')
    return words
