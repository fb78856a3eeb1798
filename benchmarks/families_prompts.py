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
"""Prompts on which drafts from the text are judged, and others for choices.

What a setting was chosen by must not judge it. Questions are put through the
model's chat template, the others are continued as they are.
"""

import bisect
import calendar
import colorsys
import contextlib
import csv
import fractions
import glob
import graphlib
import heapq
import inspect
import keyword
import linecache
import sched
import shelve
import statistics
import string
import textwrap
import timeit
import types
from collections.abc import Callable

# Characters of a file that a prompt shows.
_SHOWN = 900

_QUESTIONS = (
  'What is the capital of France, and what is it known for?',
  'Explain in simple words how rain forms.',
  'Write a short poem about a lighthouse in winter.',
  'Give me five tips for sleeping better.',
  'What is the difference between a list and a tuple in Python?',
  'Translate to French: Good morning, where is the railway station?',
  'A shop sells pencils at 3 for 1 dollar. How much do 24 pencils cost? '
  'Show the steps.',
  'Summarise this: The meeting began at nine. Anna said that sales rose by '
  'four per cent, mostly in the north. Ben asked for two more people in '
  'support. It was agreed to hire one now and to look again in June.',
  'Correct the spelling and keep everything else: The qick brown fox jumpd '
  'over the lazzy dog and than ran into the forrest.',
  'Turn these notes into full sentences: train late, missed lunch, talk went '
  'well, two questions about cost, flight home Friday.',
  'Write a Python function that returns the n-th Fibonacci number, with a '
  'docstring and an example.',
)

_PROSE = (
  'The old harbour lay quiet under the fog. A single lamp burned at the end of '
  'the pier, and beneath it a man sat mending a net',
  'Bread needs four things: flour, water, salt and time. The flour gives it',
  'In the first half of the nineteenth century railways changed how people '
  'thought about distance. A journey that had taken',
  'The committee met again on Tuesday. Minutes of the last meeting were read '
  'and approved. The treasurer reported that',
  'Dear Martha,\n\nThank you for your letter of the third. The garden is',
  'Chapter 1\n\nNobody in the village remembered when the clock had stopped. '
  'It stood at',
  'Volcanoes form where molten rock rises through the crust. There are three '
  'main kinds: shield volcanoes, cinder cones and',
  'The team won the first match by two goals, lost the second by one, and drew '
  'the third. In the fourth match',
  'To repair a puncture, first take the wheel off. Then',
  'Once upon a time there was a small fox who was afraid of the dark. Every '
  'evening',
)

_MODULES = (
  bisect,
  calendar,
  colorsys,
  contextlib,
  csv,
  fractions,
  glob,
  graphlib,
  heapq,
  keyword,
  linecache,
)

_OTHER_QUESTIONS = (
  'How do plants make food from light?',
  'List the planets from the sun outwards.',
  'Rewrite this politely: Send me the report now, you are late again.',
  'Write a haiku about coffee.',
  'If a car drives 150 km in two hours, how fast is it on average?',
  'Extract the names and ages: Tom is 31 and lives in Leeds. Sara, who is 28, '
  'lives in York with her brother Max, aged 25.',
)

_OTHER_PROSE = (
  'The river rises in the hills and runs for ninety miles to the sea. On its '
  'way it passes',
  'Gold has been prized since ancient times because it',
  'She opened the letter slowly. Inside was',
  'The council approved the plan for a new bridge. The bridge will',
  'Cats sleep for most of the day. They',
)

_OTHER_MODULES = (sched, shelve, statistics, string, textwrap, timeit)

# A text, or the messages of a conversation.
Prompt = str | list[dict[str, str]]


def judged() -> dict[str, list[Prompt]]:
  """Return the 32 prompts that a figure is of, by kind."""
  return _by_kind(_QUESTIONS, _MODULES, _PROSE)


def others() -> dict[str, list[Prompt]]:
  """Return the prompts that settings may be chosen by, by kind."""
  return _by_kind(_OTHER_QUESTIONS, _OTHER_MODULES, _OTHER_PROSE)


def _by_kind(
  questions: tuple[str, ...],
  modules: tuple[types.ModuleType, ...],
  prose: tuple[str, ...],
) -> dict[str, list[Prompt]]:
  ask: Callable[[str], Prompt] = lambda q: [{'role': 'user', 'content': q}]
  return {
    'chat': [ask(q) for q in questions],
    'code': [inspect.getsource(m)[:_SHOWN] for m in modules],
    'prose': list(prose),
  }
