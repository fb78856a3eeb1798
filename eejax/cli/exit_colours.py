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
"""Tokens coloured by the depth they were emitted at."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from eejax.config import EarlyExitConfig

# Of the terminal's 256: green for the shallowest exit, over yellow, to red
# for the deepest. Full depth keeps the terminal's own colour.
_SCALE = (46, 118, 190, 226, 220, 214, 208, 202, 196)
_RESET = '\x1b[0m'


@dataclasses.dataclass(frozen=True)
class Painter:
  """Colour text on a terminal.

  Attributes:
    depths: where tokens can be emitted, full depth last.
    has_colours: whether what is printed to can show them.
  """

  depths: tuple[int, ...]
  has_colours: bool

  @classmethod
  def of(cls, config: 'EarlyExitConfig') -> 'Painter':
    """Return a painter for a model, with colours if stdout is a terminal."""
    full = config.model.num_layers
    exits = tuple(d for d in config.exit_depths if d < full)
    is_wanted = not os.environ.get('NO_COLOR') and sys.stdout.isatty()
    return cls(depths=(*exits, full), has_colours=is_wanted)

  def paint(self, pieces: Sequence[str], depths: Sequence[int]) -> str:
    """Return a text, each piece in the colour of its depth."""
    return ''.join(map(self._colour, pieces, depths))

  def legend(self, depths: Sequence[int]) -> str:
    """Return which colour is which depth, with the share of tokens there."""
    count = max(len(depths), 1)
    parts = []
    for depth in self.depths:
      name = 'full depth' if depth == self.depths[-1] else f'depth {depth}'
      share = sum(d == depth for d in depths) / count
      parts.append(self._colour(f'{name} {share:.0%}', depth))
    return '  '.join(parts)

  def _colour(self, text: str, depth: int) -> str:
    if not self.has_colours or depth == self.depths[-1] or not text:
      return text
    place = self.depths.index(depth) / max(len(self.depths) - 2, 1)
    colour = _SCALE[round(place * (len(_SCALE) - 1))]
    return f'\x1b[38;5;{colour}m{text}{_RESET}'
