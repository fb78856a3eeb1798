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
"""Test that the page on GGUF files says what is there."""

import pathlib
import re
import shlex

import pytest

from eejax.checkpoint.gguf_architectures import ARCHITECTURES
from eejax.checkpoint.gguf_pretokenizers import PRE_TOKENIZERS
from eejax.cli import export, generate, import_, main, probe, quickstart

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / 'docs/gguf.md').read_text(encoding='utf-8')
COMMANDS = re.findall(r'^(eejax .*|launch/quickstart.sh .*)$', PAGE, re.M)
VERBS = {
  'export': export,
  'generate': generate,
  'import': import_,
  'probe': probe,
}


def test_the_page_has_commands():
  assert len(COMMANDS) >= 8


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_has_flags_that_there_are(command):
  words = shlex.split(command)
  if words[0] == 'eejax':
    verb, rest = VERBS[words[1]], words[2:]
  else:
    verb, rest = quickstart, words[1:]
  main.build_parser(verb, 'eejax').parse_args(rest)


def test_the_pre_tokenizers_of_the_page_are_those_of_the_table():
  listed = PAGE.split('gguf_pretokenizers.py`:')[1].split('Another name')[0]
  assert set(re.findall(r'`([^`]+)`', listed)) == set(PRE_TOKENIZERS)


def test_the_architectures_of_the_page_are_those_of_the_table():
  (row,) = re.findall(r'^\| architectures \|(.*)\|$', PAGE, re.M)
  assert set(re.findall(r'`(\w+)`', row)) == set(ARCHITECTURES)
