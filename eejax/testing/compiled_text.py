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
"""What a compiled program sends, and where, read from its text.

For tests that hold what a source cannot show: how many bytes travel, and that
no device waits for one that has taken another branch.
"""

import dataclasses
import math
import re

import numpy as np
from jax.sharding import Mesh

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4}
_DEFAULT_BYTES = 4

_INSTRUCTION = re.compile(
  r'= (?P<type>\(?[a-z0-9]+\[.*?) (?P<kind>all-reduce|all-gather|'
  r'reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
)
_ARRAY = re.compile(r'([a-z]+[0-9]*)\[([0-9,]*)\]')
_CALLED = re.compile(
  r'(?:calls|to_apply|body|condition|branch_computations|true_computation|'
  r'false_computation)=(\{[^}]*\}|%?[\w.\-]+)'
)


@dataclasses.dataclass(frozen=True)
class Message:
  """Describe one collective operation of a program.

  Attributes:
    kind: such as 'all-reduce'.
    size: bytes of its result.
    groups: the devices that wait for one another, by their place in the mesh.
    conditional: whether a branch of a conditional contains it.
    looped: whether the body of a loop does.
  """

  kind: str
  size: int
  groups: tuple[tuple[int, ...], ...]
  conditional: bool
  looped: bool


def messages(text: str) -> list[Message]:
  """Return the collective operations of `compiled.as_text()`.

  Raises:
    ValueError: the text says in an unknown way which devices take part.
  """
  devices = _devices(text)
  computations = computations_of(text)
  branches = within(computations, ' conditional(')
  loops = within(computations, ' while(')
  return [
    Message(
      m['kind'],
      _size(m['type']),
      _groups(line, devices),
      conditional=name in branches,
      looped=name in loops,
    )
    for name, lines in computations.items()
    for line in lines
    for m in [_INSTRUCTION.search(line)]
    if m
  ]


def groups_across(
  found: list[Message], *, mesh: Mesh, axis: str
) -> list[Message]:
  """Return the messages between devices that differ on a mesh axis."""
  position = mesh.axis_names.index(axis)
  where = np.indices(mesh.devices.shape)[position].ravel()
  crosses = lambda group: len({int(where[d]) for d in group}) > 1
  return [m for m in found if any(map(crosses, m.groups))]


def computations_of(text: str) -> dict[str, list[str]]:
  """Return the lines of every computation, by its name."""
  found: dict[str, list[str]] = {}
  lines: list[str] = []
  for line in text.splitlines():
    head = re.match(r'(?:ENTRY )?%?([\w.\-]+) \(.*\{$', line)
    if head:
      lines = found.setdefault(head[1], [])
    else:
      lines.append(line)
  return found


def _called(line: str) -> list[str]:
  return [
    name
    for m in _CALLED.finditer(line)
    for name in re.findall(r'[\w.\-]+', m[1])
  ]


def within(computations: dict[str, list[str]], operation: str) -> set[str]:
  """Return the computations that operations of a kind contain."""
  reached: set[str] = set()
  waiting = [
    name
    for lines in computations.values()
    for line in lines
    if operation in line
    for name in _called(line)
  ]
  while waiting:
    name = waiting.pop()
    if name in reached or name not in computations:
      continue
    reached.add(name)
    waiting += [c for line in computations[name] for c in _called(line)]
  return reached


def _devices(text: str) -> int:
  """Return how many devices run a program."""
  header = text.partition('\n')[0]
  counts = re.findall(r'\b(?:num_partitions|replica_count)=(\d+)', header)
  return math.prod(int(n) for n in counts)


def _size(types: str) -> int:
  return sum(
    BYTES.get(kind, _DEFAULT_BYTES)
    * math.prod(int(n) for n in shape.split(',') if n)
    for kind, shape in _ARRAY.findall(types)
  )


def _groups(line: str, devices: int) -> tuple[tuple[int, ...], ...]:
  """Return the groups of a collective operation, in any notation of XLA.

  Args:
    line: an instruction.
    devices: of the program.

  Raises:
    ValueError: the notation is none that is known. No groups would say that
      nothing is sent.
  """
  listed = re.search(
    r'(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}', line
  )
  if listed and listed[0] == 'replica_groups={}':
    return (tuple(range(devices)),)
  if listed:
    return tuple(
      tuple(_numbers(group)) for group in re.findall(r'\{([\d,]*)\}', listed[1])
    )
  rows = _counted(line)
  if rows is None:
    rows = _of_mesh(line)
  if rows is None:
    raise ValueError(f'the groups of this operation are not understood: {line}')
  return tuple(tuple(int(d) for d in row) for row in rows)


def _counted(line: str) -> np.ndarray | None:
  """Return the rows of `[2,4]<=[4,2]T(1,0)`: a shape, dimensions, an order."""
  m = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?(?=,|$)', line
  )
  if m is None:
    return None
  shape = _numbers(m[2])
  devices = np.arange(math.prod(shape)).reshape(shape)
  if m[3]:
    devices = devices.transpose(_numbers(m[3]))
  return devices.reshape(_numbers(m[1]))


def _of_mesh(line: str) -> np.ndarray | None:
  """Return the rows of `mesh['a'=2,'b'=4] {'b'}`, from jax 0.11.2 on."""
  m = re.search(
    r"replica_groups=mesh\[('\w+'=\d+(?:,'\w+'=\d+)*)\] "
    r"\{('\w+'(?:,'\w+')*)\}(?=,|$)",
    line,
  )
  if m is None:
    return None
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", m[1])}
  names = list(sizes)
  inside = re.findall(r"'(\w+)'", m[2])
  outside = [name for name in names if name not in inside]
  devices = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
  order = [names.index(name) for name in (*outside, *inside)]
  group = math.prod(sizes[name] for name in inside)
  return devices.transpose(order).reshape(-1, group)


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(',') if n]
