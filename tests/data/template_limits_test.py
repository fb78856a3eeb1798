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
"""Test that programs from anywhere end, and reach nothing."""

import jinja2
import pytest

from eejax.data import template_limits
from eejax.data.template_limits import LimitedEnvironment

# The checks of types that tests switch on make every step slow.
LIMITS = {
  'MOST_STEPS': 3000,
  'MOST_LENGTH': 200_000,
  'MOST_VALUES': 5000,
  'MOST_LOOKS': 5000,
}

MESSAGES = [
  {'role': 'user', 'content': 'a'},
  {'role': 'assistant', 'content': 'b'},
]
_NAMESPACE = "{% set ns = namespace(s='ab', l=[1]) %}"
_SIXTY = '{% for i in range(60) %}'


@pytest.fixture(autouse=True)
def low_limits(monkeypatch):
  for name, value in LIMITS.items():
    monkeypatch.setattr(template_limits, name, value)


def render(source, **values):
  environment = LimitedEnvironment()
  program = environment.from_string(source)
  return environment.render(program, {'messages': MESSAGES, **values})


@pytest.mark.parametrize(
  'source',
  [
    '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}'
    '{% endfor %}',
    '{% set x %}{% for a in range(99999) %}{% for b in range(99999) %}'
    f'{"text" * 20}{{% endfor %}}{{% endfor %}}{{% endset %}}',
    '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}'
    '{% endmacro %}{{ f(60) }}',
    f'{_NAMESPACE}{_SIXTY}{{% set ns.s = ns.s ~ ns.s %}}{{% endfor %}}',
    f'{_NAMESPACE}{_SIXTY}{{% set ns.s = ns.s + ns.s %}}{{% endfor %}}',
    f'{_NAMESPACE}{_SIXTY}{{% set ns.l = [ns.l, ns.l] %}}{{% endfor %}}'
    '{{ ns.l }}',
    "{{ 'a' * 10000000000 }}",
    '{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}',
    "{{ 'a'.ljust(10000000000) }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ '{:>10000000000}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 10000000000) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10000000000, 1) }}",
    "{{ ('a,' * 100000).replace(',', 'x' * 100000) }}",
    "{{ ('a,' * 100000) | replace(',', 'x' * 100000) }}",
    "{{ range(99999) | join('x' * 100000) }}",
  ],
)
def test_what_does_too_much_is_stopped(source):
  with pytest.raises(jinja2.TemplateError, match='too large|too much|an end'):
    render(source)


@pytest.mark.parametrize(
  'source',
  [
    "{{ ''.__class__.__mro__ }}",
    '{{ cycler.__init__.__globals__ }}',
    '{{ messages.append(1) }}',
  ],
)
def test_what_reaches_out_is_refused(source):
  with pytest.raises(jinja2.TemplateError):
    render(source)


@pytest.mark.parametrize(
  ('source', 'expected'),
  [
    ("{{ messages | map(attribute='content') | join('-') | upper }}", 'A-B'),
    ("{{ undefined | default('d') }}{{ undefined }}", 'd'),
    (
      '{% for m in messages %}{{ loop.index }}/{{ loop.length }}'
      '{% if not loop.last %},{% endif %}{% endfor %}',
      '1/2,2/2',
    ),
    ('{% for i in range(3) if i != 1 %}{{ loop.revindex }}{% endfor %}', '21'),
    ("{{ 'a' ~ 1 ~ ['b'] }}{{ 'a' + 'b' }}{{ 2 * 3 }}", "a1['b']ab6"),
    (
      "{% for x in [] %}{% else %}none{% endfor %}{{ 'x'.ljust(3) }}|",
      'nonex  |',
    ),
    ('{% filter upper %}a{{ 1 }}{% endfilter %}', 'A1'),
    (
      '{% for k, v in messages[0].items() %}{{ k }}{{ v }}{% endfor %}',
      'roleusercontenta',
    ),
  ],
)
def test_what_templates_do_is_as_before(source, expected):
  assert render(source) == expected
  plain = jinja2.Environment().from_string(source)
  assert plain.render(messages=MESSAGES) == expected


def test_long_conversations_are_rendered():
  turns = MESSAGES * 100
  source = (
    '{% for m in messages %}{% if loop.index0 < messages | length %}'
    '<{{ m.role }}>{{ m.content | trim }}{% endif %}{% endfor %}'
  )
  assert len(render(source, messages=turns)) == 100 * len('<user>a<assistant>b')
