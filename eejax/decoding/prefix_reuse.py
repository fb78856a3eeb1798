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
"""Which slot a request takes, and whose keys and values it starts from.

A slot keeps its text's keys and values until another request takes it, so a
prompt that begins as some slot's text does, as the next turn of a conversation
or another question after the same instructions, need not be run from its
first token.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where a request starts.

  Attributes:
    slot: the slot that it takes.
    source: the slot whose keys and values it starts from; None is none.
    reused: how many of its tokens are there.
  """

  slot: int
  source: int | None = None
  reused: int = 0


class SlotTexts:
  """The texts whose keys and values lie in slots, those that run included."""

  def __init__(self, count: int, *, shortest: int | None):
    """Start with slots that hold nothing.

    Args:
      count: how many slots.
      shortest: tokens that have to be shared; None shares nothing.
    """
    self._texts: list[np.ndarray] = [_NOTHING] * count
    self._used = [0] * count
    self._now = 0
    self._shortest = shortest

  def put(self, slot: int, text: Sequence[int]) -> None:
    """Say that a slot's caches begin with those of `text`."""
    self._now += 1
    self._used[slot] = self._now
    self._texts[slot] = np.array(text, np.int64)

  def forget(self, slot: int) -> None:
    """Say that what a slot holds is of no use."""
    self._used[slot], self._texts[slot] = 0, _NOTHING

  def place(
    self,
    prompt: Sequence[int],
    *,
    free: Sequence[int],
    complete: Sequence[int],
  ) -> Placement:
    """Return which of the free slots a prompt takes, and what it reuses.

    It is the slot that was freed first, but a text that the prompt goes on
    from is overwritten by it, and one that others may go on from is kept.

    Args:
      prompt: token ids.
      free: slots that may be taken, one at least.
      complete: tokens of each slot's text whose keys and values are there.
    """
    oldest = sorted(free, key=lambda slot: self._used[slot])
    if self._shortest is None:
      return Placement(oldest[0])
    # The last token of a prompt is the loop's to run.
    wanted = np.array(prompt[:-1], np.int64)
    texts = [t[:n] for t, n in zip(self._texts, complete, strict=True)]
    shared = [_common_length(text, wanted) for text in texts]
    source = int(np.argmax(shared))
    reused = shared[source]
    if reused < self._shortest:
      return Placement(oldest[0])
    if source in free and reused == len(texts[source]):
      return Placement(source, source, reused)
    others = [slot for slot in oldest if slot != source]
    return Placement((others or oldest)[0], source, reused)


_NOTHING = np.zeros((0,), np.int64)


def _common_length(a: np.ndarray, b: np.ndarray) -> int:
  """Return how many tokens two texts begin with alike."""
  count = min(len(a), len(b))
  differs = a[:count] != b[:count]
  return int(differs.argmax()) if differs.any() else count
