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
"""Say what gin complains about in one sentence that names a near match."""

import ast
import difflib
import inspect
import pathlib
import re
from collections.abc import Iterable

FLAG = '--gin.'


def sentence_of(error: Exception) -> str:
  """Return gin's complaint as a sentence of ours, with a near match."""
  text = str(error)
  for pattern, sentence in _SENTENCES:
    match = re.search(pattern, text)
    if match:
      return sentence(*match.groups())
  return first_line(text) + '.'


def _unknown_configurable(name: str) -> str:
  end = ending(name.rpartition('.')[2], _configurables())
  return f'nothing configurable is called {name!r}{end}'


def _unknown_reference(name: str, call: str | None) -> str:
  del call
  return _unknown_configurable(name)


def _unknown_parameter(name: str, parameter: str) -> str:
  end = ending(parameter, _parameters(name))
  return f'{name!r} has no parameter {parameter!r}{end}'


def _locked_parameter(name: str, parameter: str) -> str:
  return f'the parameter {parameter!r} of {name!r} cannot be set with gin.'


def _ambiguous(name: str, matches: str) -> str:
  full = ', '.join(sorted(ast.literal_eval(matches)))
  return f'{name!r} could be any of {full}; write one of these.'


def _undefined_macro(name: str) -> str:
  from gin import config

  defined = [s for s, selector in config._CONFIG if selector == 'gin.macro']
  return (
    f'%{name} has no value; give one with {FLAG}{name}=VALUE'
    f'{ending(name, defined)}'
  )


def _required(name: str) -> str:
  name = name.removesuffix('/macro.value')
  return f'{name} must be given: {FLAG}{name}=VALUE, or a line in a gin file.'


def _missing_file(file: str) -> str:
  return f'the included gin file {file!r} cannot be found.'


def _not_evaluated(name: str) -> str:
  return f'{name} must be called: add () behind it.'


def _missing_module(name: str) -> str:
  return f'there is no Python module {name!r} to import.'


_SENTENCES = (
  (r"No configurable matching reference '@(.+?)(\(\))?'", _unknown_reference),
  (r"No configurable matching '(.+?)'", _unknown_configurable),
  (r"'(.+?)' doesn't have a parameter named '(.+?)'", _unknown_parameter),
  (r"'(.+?)' doesn't include kwarg '(.+?)' in its", _locked_parameter),
  (r"'(.+?)' has denylisted kwarg '(.+?)'", _locked_parameter),
  (r"Ambiguous (?:constant )?selector '(.+?)', matches (\[.*?\])", _ambiguous),
  (r"No bindings specified for '(.+?)/(?:gin\.)?macro'", _undefined_macro),
  (r'(\S+) set to `%gin.REQUIRED` but not', _required),
  (r'Unable to open file: (.+?)\. Searched', _missing_file),
  (r"Reference '(.+?)' must be evaluated", _not_evaluated),
  (r"No module named '(.+?)'", _missing_module),
)


def missing_parameters(text: str) -> list[str]:
  """Return the required parameters that gin or Python says have no value."""
  bound = re.search(
    r'Required bindings for `(.+?)` not provided in config: (\[.*?\])', text
  )
  if bound:
    return [f'{bound[1]}.{name}' for name in ast.literal_eval(bound[2])]
  called = re.search(
    r'^(?:\w+\.)*?(\w+?)(?:\.__init__|\.__new__)?\(\) missing \d+ required .*?'
    r"arguments?: (.*)(?:\n.*)*?\n  In call to configurable '(\w+)'",
    text,
  )
  if called and called[1] == called[3]:
    return [f'{called[3]}.{name}' for name in re.findall(r"'(\w+)'", called[2])]
  return []


def _configurables() -> list[str]:
  # gin lists what is configurable nowhere in its public interface.
  from gin import config

  full = (selector for selector, _ in config._REGISTRY.items())
  return [config._REGISTRY.minimal_selector(s) for s in full]


def _parameters(name: str) -> list[str]:
  import gin

  return list(inspect.signature(gin.get_configurable(name)).parameters)


def ending(name: str, known: Iterable[str]) -> str:
  """Return the end of a sentence: the nearest of `known`, or a full stop."""
  close = difflib.get_close_matches(name, sorted(set(known)), n=1)
  return f'; did you mean {close[0]!r}?' if close else '.'


def quote_hint(text: str, binding: str | None = None) -> str:
  """Return how a text is quoted, if quotes look to be what is missing."""
  if 'Failed to parse token' not in text:
    return ''
  if binding is None:
    return '; texts stand in quotes'
  name, _, value = binding.partition('=')
  return f'; a text needs quotes: {FLAG}{name.strip()}="\'{value.strip()}\'"'


def place(text: str, path: pathlib.Path) -> str:
  """Return where gin says the fault is, ready to stand before it."""
  # With includes gin names the innermost place first.
  match = re.search(r'In file "(.+?)", line (\d+)', text)
  if not match:
    return f'{relative(str(path))}: '
  return f'{relative(match[1])}, line {match[2]}: '


def relative(file: str) -> str:
  """Return `file` as seen from the working folder, if it lies below it."""
  path = pathlib.Path(file)
  here = pathlib.Path.cwd()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)


def first_line(text: object) -> str:
  """Return the first line of a complaint, to go on a sentence with."""
  line = str(text).split('\n')[0].strip().rstrip('.')
  return line[:1].lower() + line[1:] if line else 'it cannot be read'
