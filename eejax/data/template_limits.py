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
"""Run Jinja programs from anywhere: no escape, and no work without end.

Jinja's sandbox keeps a program from files and from Python's inside, but not
from looping for a year or from filling the memory. Here every turn of a loop,
every call and every character written is counted, and whatever may grow is
measured before it is made.
"""

import contextvars
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes, runtime, sandbox, visitor

# What one rendering may take: a template runs a few loops over the messages.
MOST_STEPS = 1_000_000
# Characters of a text, or of all that is written.
MOST_LENGTH = 20_000_000
# Values in a list with all that it holds, and in all lists looked at.
MOST_VALUES, MOST_LOOKS = 500_000, 10_000_000
# A number that a filter or a method of texts is given, such as a width.
MOST_NUMBER = 10_000

_CHECKED, _COUNTED, _JOINED, _WRITTEN = (
  '_checked',
  '_counted',
  '_joined',
  '_written',
)
# A width inside a format, and one that is taken from beside it.
_WIDTH, _NESTED = re.compile(r'\d{5,}'), re.compile(r'\{[^{}]*\{')
_budget: contextvars.ContextVar['_Budget | None'] = contextvars.ContextVar(
  'budget', default=None
)


class _Budget:
  """What is left to a rendering."""

  def __init__(self) -> None:
    self.steps, self.characters = MOST_STEPS, MOST_LENGTH
    self.looks = MOST_LOOKS
    # Sizes of lists by identity, each with its list, which so stays itself;
    # no program can change one.
    self.sizes: dict[int, tuple[Any, int]] = {}


class LimitedEnvironment(sandbox.ImmutableSandboxedEnvironment):
  """A sandbox whose programs end."""

  intercepted_binops = frozenset({'+', '*', '**', '%'})

  def __init__(self, **options: Any):
    """Make an environment; the options are those of jinja2.Environment."""
    super().__init__(**options)
    self.filters.update(
      {
        _CHECKED: _checked,
        _COUNTED: _counted,
        _JOINED: _joined,
        _WRITTEN: _written,
      }
    )

  def render(self, program: jinja2.Template, values: Mapping[str, Any]) -> str:
    """Return what a program of this environment writes.

    Raises:
      jinja2.TemplateError: it does too much, or reaches for what it may not.
    """
    token = _budget.set(_Budget())
    try:
      return program.render(**values)
    finally:
      _budget.reset(token)

  def _parse(
    self, source: str, name: str | None, filename: str | None
  ) -> nodes.Template:
    return _Counters().visit(super()._parse(source, name, filename))

  def call(
    self, __context: runtime.Context, __obj: Any, *args: Any, **kwargs: Any
  ) -> Any:
    """Call a function for a program, once its arguments are seen."""
    _step()
    for argument in (*args, *kwargs.values()):
      _check(argument)
    # The sandbox wraps some methods of texts in functions of its own.
    method = getattr(__obj, '__wrapped__', __obj)
    owner = getattr(method, '__self__', None)
    if isinstance(owner, str):
      _check_method(owner, getattr(method, '__name__', ''), args, kwargs)
    return _check(super().call(__context, __obj, *args, **kwargs))

  def call_binop(
    self, context: runtime.Context, operator: str, left: Any, right: Any
  ) -> Any:
    """Return the value of an operation that may grow."""
    _step()
    _check(left)
    _check(right)
    if operator == '*':
      _check_product(left, right)
    elif operator == '**' and isinstance(left, int) and isinstance(right, int):
      _length(left.bit_length() * abs(right), MOST_NUMBER)
    elif operator == '%' and isinstance(left, str):
      _check_form(left, right if isinstance(right, tuple) else (right,))
    return _check(super().call_binop(context, operator, left, right))


class _Counters(visitor.NodeTransformer):
  """Put counters into a program."""

  def visit_For(self, node: nodes.For) -> nodes.Node:
    self.generic_visit(node)
    node.iter = _filter(node.iter, _COUNTED)
    return node

  def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
    self.generic_visit(node)
    return _filter(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

  def visit_Output(self, node: nodes.Output) -> nodes.Node:
    self.generic_visit(node)
    node.nodes = [_filter(_as_value(n), _WRITTEN) for n in node.nodes]
    return node

  def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
    self.generic_visit(node)
    if node.node is None:  # of a block, which is an output by itself
      return node
    kind = nodes.Const(node.name, lineno=node.lineno)
    listed = nodes.List(
      [node.node, *node.args, *(k.value for k in node.kwargs)],
      lineno=node.lineno,
    )
    node.node = nodes.Filter(
      listed, _CHECKED, [kind], [], None, None, lineno=node.lineno
    )
    return _filter(node, _CHECKED)


def _filter(node: Any, name: str) -> nodes.Filter:
  return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _as_value(node: Any) -> nodes.Expr:
  if isinstance(node, nodes.TemplateData):
    return nodes.Const(node.data, lineno=node.lineno)
  return node


# MARK: Counters


def _left() -> _Budget:
  budget = _budget.get()
  if budget is None:
    # Jinja tries to evaluate while it compiles; nothing is counted there.
    raise RuntimeError('no template is being rendered')
  return budget


def _spend(*, steps: int = 0, characters: int = 0, looks: int = 0) -> None:
  budget = _left()
  budget.steps -= steps
  budget.characters -= characters
  budget.looks -= looks
  if budget.steps < 0 or budget.looks < 0:
    raise jinja2.TemplateRuntimeError('it does not come to an end')
  if budget.characters < 0:
    raise jinja2.TemplateRuntimeError('it writes too much')


def _step() -> None:
  _spend(steps=1)


def _counted(values: Any) -> Any:
  """Return what a loop runs over, each turn counted."""
  if isinstance(values, jinja2.Undefined):
    return values  # which says itself what is undefined
  return _Turns(values)


class _Turns:
  """Count the turns of a loop; its length is that of what it runs over."""

  def __init__(self, values: Iterable[Any]):
    self._values = values

  def __iter__(self) -> Iterator[Any]:
    for value in self._values:
      _step()
      yield value

  def __len__(self) -> int:
    return len(self._values)  # type: ignore[arg-type]


def _joined(values: list[Any]) -> str:
  """Return what `~` makes of values."""
  _step()
  texts = [str(_check(value)) for value in values]
  _length(sum(map(len, texts)), MOST_LENGTH)
  return ''.join(texts)


def _written(value: Any) -> Any:
  """Return what a program writes, counted."""
  _spend(characters=_size(value))
  return value


def _checked(value: Any, kind: str | None = None) -> Any:
  """Return what a filter gets, or what it has made.

  Args:
    value: the result, or with `kind` the list of what the filter is given.
    kind: the name of the filter.
  """
  if kind is None:
    return _check(value)
  _step()
  subject, *arguments = value
  for argument in value:
    _check(argument)
  if isinstance(subject, str):
    _check_method(subject, kind, arguments, {})
  elif kind == 'join' and arguments:
    items = len(subject) if hasattr(subject, '__len__') else MOST_NUMBER
    _length(items * len(str(arguments[0])), MOST_LENGTH)
  return subject


# MARK: Checks


def _check(value: Any) -> Any:
  """Return a value that is not too large."""
  _size(value)
  return value


def _size(value: Any) -> int:
  """Return about how many characters a value has when it is written."""
  if isinstance(value, str):
    _length(len(value), MOST_LENGTH)
    return len(value)
  sizes = _left().sizes
  if id(value) in sizes:
    return sizes[id(value)][1]
  total, looks, waiting = 0, 0, [value]
  while waiting:
    looks += 1
    item = waiting.pop()
    if isinstance(item, (str, bytes)):
      total += len(item)
    elif isinstance(item, Mapping):
      _length(len(item), MOST_VALUES)
      waiting += [*item.keys(), *item.values()]
    elif isinstance(item, (list, tuple, set, frozenset)):
      _length(len(item), MOST_VALUES)
      waiting += item
    elif isinstance(item, int):
      total += 1
      _length(item.bit_length(), MOST_NUMBER)
    _length(total, MOST_LENGTH)
    _length(looks + len(waiting), MOST_VALUES)
  _spend(looks=looks)
  if looks > 1:
    sizes[id(value)] = value, total + looks
  return total + looks


def _length(found: int, most: int) -> None:
  if found > most:
    raise jinja2.TemplateRuntimeError('it makes something too large')


def _check_product(left: Any, right: Any) -> None:
  for sized, times in ((left, right), (right, left)):
    if isinstance(sized, (str, list, tuple)) and isinstance(times, int):
      _length(len(sized) * times, MOST_LENGTH)


def _check_method(
  text: str, name: str, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> None:
  """Check a method of a text, or the filter of that name."""
  values = [*args, *kwargs.values()]
  for value in values:
    if isinstance(value, int):
      # A tab or a line may each grow by that much.
      grown = abs(value) * (text.count('\t') + text.count('\n') + 1)
      _length(grown if abs(value) > 100 else 0, MOST_LENGTH)
      _length(abs(value), MOST_NUMBER)
  texts = [value for value in values if isinstance(value, str)]
  if name in ('format', 'format_map'):
    _check_form(text, values)
  elif name == 'replace' and len(texts) == 2:
    _length(text.count(texts[0]) * len(texts[1]), MOST_LENGTH)
  elif name == 'join' and values and hasattr(values[0], '__len__'):
    _length(len(text) * len(values[0]), MOST_LENGTH)


def _check_form(form: str, values: Iterable[Any]) -> None:
  """Check a format whose widths may be numbers inside it or beside it."""
  if _WIDTH.search(form):
    raise jinja2.TemplateRuntimeError('it makes something too large')
  if '*' in form or _NESTED.search(form):
    for value in values:
      _length(value if isinstance(value, int) else 0, MOST_NUMBER)
