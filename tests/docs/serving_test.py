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
"""Hold docs/serving.md to what the server has."""

import pathlib
import re

from eejax.cli import main, serve
from eejax.serving.metrics import Metrics
from eejax.testing import tiny

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'serving.md'
TEXT = PAGE.read_text(encoding='utf-8')


def test_its_commands_and_flags_are_the_verbs():
  parser = main.build_parser(serve, 'eejax serve')
  commands = re.findall(r'^eejax serve (.*)$', TEXT, re.M)
  assert commands
  for command in commands:
    parser.parse_args(command.split())
  known = set(re.findall(r'--[\w-]+', parser.format_help()))
  assert set(re.findall(r'(?<!generate )`(--[\w-]+)', TEXT)) <= known


def test_its_metrics_are_there_and_all_described():
  metrics = Metrics()
  metrics.watcher('tiny', tiny.tiny_config())
  metrics.watch_engines(lambda: ())
  there = set(re.findall(r'^# TYPE eejax:(\w+)', metrics.text().decode(), re.M))
  there = {name for name in there if not name.endswith('_created')}
  section = TEXT[TEXT.index('## Metrics') : TEXT.index("## EE-LLM's")]
  named = set(re.findall(r'`([a-z][a-z_0-9]+)[`{]', section))
  # Labels and their values besides.
  assert named - {'engine', 'exit', 'prompt_lookup'} == there


def test_its_routes_are_there():
  routes = (PAGE.parents[1] / 'eejax/serving/routes.py').read_text()
  routes += (PAGE.parents[1] / 'eejax/serving/ee_llm.py').read_text()
  named = re.findall(r'`(?:GET|POST|PUT) (/[\w/]*)', TEXT)
  assert len(named) >= 10
  for path in named:
    assert f"'{path.removesuffix('NAME').rstrip('/') or '/'}" in routes
