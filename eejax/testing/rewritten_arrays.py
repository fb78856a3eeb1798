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
"""Arrays that a compiled program writes anew only to lay them out otherwise.

A weight or a cache that a loop copies, turns round or converts whole is read
and written once more in every step.
"""

import dataclasses
import math
import re

from eejax.testing.compiled_text import BYTES, computations_of, within

# Operations that compute nothing.
_KINDS = ('copy', 'transpose', 'convert')
_INSTRUCTION = re.compile(
  r'^\s*(?P<root>ROOT )?%?[\w.\-]+ = '
  r'(?P<type>[a-z]+[0-9]*)\[(?P<shape>[0-9,]*)\]'
  r'(?P<layout>\S*) (?P<kind>[\w\-]+)\('
)
_FUSED = re.compile(r' fusion\(.*calls=%?([\w.\-]+)')
# Memory beside the arithmetic units, where a TPU fetches what it reads next.
_NEAR = 'S(1)'


@dataclasses.dataclass(frozen=True)
class Rewritten:
  """Describe an array that a program writes anew.

  Attributes:
    kind: 'copy', 'transpose' or 'convert'.
    shape: of the array.
    size: in bytes.
    looped: whether the body of a loop does it.
  """

  kind: str
  shape: tuple[int, ...]
  size: int
  looped: bool


def rewritten_arrays(text: str, *, at_least: int) -> list[Rewritten]:
  """Return the arrays that `compiled.as_text()` writes to memory anew.

  What is converted or turned while it is read, within a fused operation, is
  not written; what a fused operation returns is.

  Args:
    text: of a compiled program.
    at_least: numbers of an array that counts.
  """
  computations = computations_of(text)
  fused = {
    match[1]
    for lines in computations.values()
    for line in lines
    for match in [_FUSED.search(line)]
    if match
  }
  loops = within(computations, ' while(')
  found = []
  for name, lines in computations.items():
    for line in lines:
      match = _INSTRUCTION.match(line)
      if match is None or match['kind'] not in _KINDS:
        continue
      if name in fused and not match['root']:
        continue
      shape = tuple(int(n) for n in match['shape'].split(',') if n)
      if math.prod(shape) < at_least or _NEAR in match['layout']:
        continue
      size = math.prod(shape) * BYTES.get(match['type'], 4)
      found.append(Rewritten(match['kind'], shape, size, name in loops))
  return found
