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
"""Batches of several shards of a corpus, so that hosts read only their own.

Which rows a batch has depends on the number of shards alone, not on how many
hosts share them: a run with four shards takes the same steps on one host, on
two and on four.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from eejax.data.batch import Batch, PackedBatches
from eejax.errors import EejaxError
from eejax.parallel import multihost


@runtime_checkable
class ResumableBatches(Protocol):
  """Batches that go on where they stopped."""

  def __iter__(self) -> Iterator[Batch]:
    """Return itself."""
    ...

  def __next__(self) -> Batch:
    """Return the next batch."""
    ...

  def state(self) -> dict[str, Any]:
    """Return what `restore` needs, plain values."""
    ...

  def restore(self, state: dict[str, Any]) -> None:
    """Go on where `state` was taken."""
    ...


class ShardedBatches:
  """Join the batches of some shards, one below the other."""

  def __init__(self, parts: Mapping[int, PackedBatches], *, num_shards: int):
    """Take over the batches of this host's shards.

    Args:
      parts: by number of the shard.
      num_shards: how many shards all hosts have together.
    """
    self._parts = dict(sorted(parts.items()))
    self._num_shards = num_shards

  def __iter__(self) -> 'ShardedBatches':
    return self

  def __next__(self) -> Batch:
    batches = [next(part) for part in self._parts.values()]
    names = [f.name for f in dataclasses.fields(Batch)]
    return Batch(
      **{n: np.concatenate([getattr(b, n) for b in batches]) for n in names}
    )

  def state(self) -> dict[str, Any]:
    """Return where every shard of every host is; all hosts must ask."""
    own = {str(i): part.state() for i, part in self._parts.items()}
    every: dict[str, Any] = {}
    for states in multihost.gather(own):
      every |= states
    return {'shards': [every[str(i)] for i in range(self._num_shards)]}

  def restore(self, state: dict[str, Any]) -> None:
    """Go on where `state` was taken, on whatever hosts that was.

    Raises:
      EejaxError: it was taken with other shards or another corpus.
    """
    shards = state.get('shards', [state])
    if len(shards) != self._num_shards:
      raise EejaxError(
        f'the saved data order has {len(shards)} shards and this run has '
        f'{self._num_shards}; set DataConfig.num_shards = {len(shards)}.'
      )
    for index, part in self._parts.items():
      part.restore(shards[index])
