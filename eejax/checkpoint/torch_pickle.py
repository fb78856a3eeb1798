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
"""Read the pickles that torch.save writes as data: nothing in them is called.

A pickle is a program for a small stack machine that may call any function of
Python. Here the machine builds lists, dicts, numbers and texts by itself; what
a pickle names otherwise must be in the tables below, and stands for plain
values. Names that Megatron's checkpoints have beside tensors (random states,
an enum) are passed over: `NotRead` takes their place. Any other is refused.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from eejax.checkpoint.torch_tensor import STORAGES, Storage, StoredTensor
from eejax.errors import CheckpointError

_DTYPES = (
  *('bfloat16', 'double', 'float', 'float16', 'float32', 'float64', 'half'),
  *('bool', 'int8', 'int16', 'int32', 'int64', 'uint8'),
)
# Numpy's random state, and what says which kind of model was trained.
_PASSED_OVER = (
  '_codecs.encode',
  'megatron.core.enums.ModelType',
  'megatron.model.enums.ModelType',
  'numpy.dtype',
  'numpy.ndarray',
  'numpy.core.multiarray._reconstruct',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray._reconstruct',
  'numpy._core.multiarray.scalar',
  'torch.Size',
  'torch.device',
  *(f'torch.{name}' for name in _DTYPES),
)
_TENSOR = 'torch._utils._rebuild_tensor_v2'
_PARAMETER = 'torch._utils._rebuild_parameter'
_DICT = 'collections.OrderedDict'
_NAMESPACE = 'argparse.Namespace'
_KNOWN = frozenset(
  (
    *(f'torch.{name}' for name in STORAGES),
    *_PASSED_OVER,
    _TENSOR,
    _PARAMETER,
    _DICT,
    _NAMESPACE,
  )
)


@dataclasses.dataclass(frozen=True)
class NotRead:
  """Stand for a name of Python's, or for what it would have returned.

  Attributes:
    name: with its module.
  """

  name: str


class _Namespace(dict):
  """The values of an `argparse.Namespace`."""


_MARK = object()


def loads(data: bytes, *, name: str) -> Any:
  """Return what a pickle holds: plain values, tensors and `NotRead`.

  An `argparse.Namespace` is a dict of its values.

  Args:
    data: the pickle.
    name: of its file, for complaints.

  Raises:
    CheckpointError: it is cut short or damaged, or names something else.
  """
  machine = _Machine(name)
  try:
    for opcode, argument, _ in pickletools.genops(data):
      if opcode.name == 'STOP':
        return machine.pop()
      machine.run(opcode.name, argument)
  except CheckpointError:
    raise
  except Exception as error:  # whatever a damaged program leads to
    reason = ' '.join(str(error).split())
    raise CheckpointError(
      f'{name} is no checkpoint that torch.save wrote, or is damaged '
      f'({reason}); copy or download it again.'
    ) from error
  raise CheckpointError(f'{name} is cut short; copy or download it again.')


class _Machine:
  """The stack and the memo of one pickle."""

  def __init__(self, name: str):
    self._file = name
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}

  def pop(self) -> Any:
    """Take the value on top."""
    value = self._stack.pop()
    if value is _MARK:
      raise ValueError('a value is missing')
    return value

  def run(self, code: str, argument: Any) -> None:
    """Carry out one instruction."""
    if code in _VALUES:
      self._stack.append(argument)
    elif code in _MADE:
      self._stack.append(_MADE[code]())
    elif code in ('PROTO', 'FRAME'):
      pass
    elif code in ('BINPUT', 'LONG_BINPUT', 'PUT'):
      self._memo[argument] = self._stack[-1]
    elif code in ('BINGET', 'LONG_BINGET', 'GET'):
      self._stack.append(self._memo[argument])
    elif code == 'MEMOIZE':
      self._memo[len(self._memo)] = self._stack[-1]
    elif code in ('GLOBAL', 'STACK_GLOBAL'):
      self._stack.append(self._name(argument))
    else:
      self._combine(code)

  def _combine(self, code: str) -> None:
    """Carry out an instruction that takes values off the stack."""
    if code in _TUPLES:
      values = [self.pop() for _ in range(_TUPLES[code])]
      self._stack.append(tuple(reversed(values)))
    elif code == 'TUPLE':
      self._stack.append(tuple(self._marked()))
    elif code == 'APPEND':
      value = self.pop()
      self._into(list).append(value)
    elif code == 'APPENDS':
      values = self._marked()
      self._into(list).extend(values)
    elif code == 'SETITEM':
      value, key = self.pop(), self.pop()
      self._into(dict)[key] = value
    elif code == 'SETITEMS':
      values = self._marked()
      self._into(dict).update(zip(values[::2], values[1::2], strict=True))
    elif code == 'BINPERSID':
      self._stack.append(_storage(self.pop()))
    elif code in ('REDUCE', 'NEWOBJ'):
      arguments, called = self.pop(), self.pop()
      self._stack.append(self._made(called, arguments))
    elif code == 'BUILD':
      self._build(self.pop())
    else:
      raise ValueError(f'it has the instruction {code}')

  def _marked(self) -> list[Any]:
    """Take the values above the last mark, and the mark."""
    place = len(self._stack) - 1
    while self._stack[place] is not _MARK:
      place -= 1
      if place < 0:
        raise ValueError('a mark is missing')
    values = self._stack[place + 1 :]
    del self._stack[place:]
    return values

  def _into(self, kind: type) -> Any:
    if not isinstance(self._stack[-1], kind):
      raise ValueError(f'a {kind.__name__} is missing')
    return self._stack[-1]

  def _name(self, argument: str | None) -> NotRead:
    if argument is None:
      last, first = self.pop(), self.pop()
      argument = f'{first} {last}'
    name = argument.replace(' ', '.')
    if name not in _KNOWN:
      raise CheckpointError(
        f'{self._file} names {name}, which no tensor needs: a pickle can run '
        'any code, so nothing but tensors and plain values is read.'
      )
    return NotRead(name)

  def _made(self, called: Any, arguments: Any) -> Any:
    """Return what a name stands for with its arguments; nothing is called."""
    if not isinstance(called, NotRead) or not isinstance(arguments, tuple):
      raise ValueError('it calls what is no name')
    if called.name == _TENSOR:
      storage, offset, shape, strides = arguments[:4]
      if not isinstance(storage, Storage):
        raise ValueError('a tensor has no numbers')
      return StoredTensor(storage, offset, tuple(shape), tuple(strides))
    if called.name == _PARAMETER:
      return arguments[0]
    if called.name == _DICT:
      return dict(*arguments)
    if called.name == _NAMESPACE:
      return _Namespace()
    return NotRead(called.name)

  def _build(self, state: Any) -> None:
    """Give the value on top its state; attributes of a dict are left out."""
    target = self._stack[-1]
    if isinstance(target, _Namespace) and isinstance(state, dict):
      target.update(state)
    elif not isinstance(target, (dict, NotRead)):
      raise ValueError('a state belongs to no value')


def _storage(described: Any) -> Storage:
  """Return the storage that a persistent id describes."""
  kind, storage, key, _, size = described
  dtype = STORAGES.get(getattr(storage, 'name', '').removeprefix('torch.'))
  if kind != 'storage' or dtype is None or not isinstance(key, str):
    raise ValueError('it has a storage of an unknown kind')
  if type(size) is not int or size < 0:
    raise ValueError('a storage has no size')
  return Storage(key, dtype, size)


_VALUES = frozenset(
  (
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT'),
    *('BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'SHORT_BINSTRING'),
    *('BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'),
  )
)
_MADE: Mapping[str, Callable[[], Any]] = {
  'MARK': lambda: _MARK,
  'NONE': lambda: None,
  'NEWTRUE': lambda: True,
  'NEWFALSE': lambda: False,
  'EMPTY_DICT': dict,
  'EMPTY_LIST': list,
  'EMPTY_TUPLE': tuple,
}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
