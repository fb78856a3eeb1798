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
"""What a capture keeps: read-outs, arrays, positions, and where from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from eejax.capture.batch import BatchReading
from eejax.capture.captured import READOUT_FIELDS, ReadoutKind, TextKind
from eejax.capture.readouts import ReadoutFields
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError
from eejax.types import Int

# Positions of a part: some tens of megabytes.
POSITIONS_PER_PART = 16_384
# On a CPU the logits of a chunk stay in its caches while they are read.
_CHUNK = {'cpu': 64}
NATURAL = (ReadoutKind.NATURAL,)
EVERYWHERE = tuple(ReadoutKind)
EVERYTHING = tuple(READOUT_FIELDS)
# What agreement and loss by depth need, with one candidate.
CHEAP = ('top_tokens', 'top_log_probs', 'loss')


@dataclasses.dataclass(frozen=True)
class Selection:
  """Selection of the positions of a text that are kept.

  Attributes:
    every: every so manieth of a batch, from its first on; 1 keeps all.
    share: share of each batch, drawn without replacement, in (0, 1].
    seed: of the drawing; a batch draws by its number, so a capture that goes
      on draws as if it had not been ended.
  """

  every: int = 1
  share: float = 1.0
  seed: int = 0

  def __post_init__(self):
    if self.every < 1:
      raise ArgumentError(f'every must be at least 1, not {self.every}.')
    if not 0 < self.share <= 1:
      raise ArgumentError(f'share must lie in (0, 1], not {self.share}.')
    if self.every > 1 and self.share < 1:
      raise ArgumentError(
        'positions are chosen by every or by share, not by both; leave one out.'
      )

  @property
  def is_all(self) -> bool:
    """Return whether every position is kept."""
    return self.every == 1 and self.share == 1

  def capacity(self, positions: int) -> int:
    """Return how many are kept of a batch of so many positions at most."""
    return max(1, int(np.ceil(positions * self.share / self.every)))

  def choose(
    self, weights: np.ndarray, *, batch_number: int
  ) -> Int[np.ndarray, 'C']:
    """Return the positions of a flattened batch that are kept, rising."""
    counted = np.flatnonzero(weights > 0)
    if self.share == 1:
      return counted[:: self.every]
    random = np.random.default_rng([self.seed, batch_number])
    count = int(np.floor(len(counted) * self.share + 0.5))
    count = min(max(count, min(1, len(counted))), self.capacity(weights.size))
    return np.sort(random.choice(counted, count, replace=False))


@dataclasses.dataclass(frozen=True)
class CaptureConfig:
  """Settings of a capture.

  Attributes:
    kinds: which read-outs; trained exits are read where the model has them.
      Natural ones are always read, at `depths`.
    depths: of the natural read-outs; None is every depth, 0 to L. Depth L is
      always one of them.
    fields: read-out arrays, see `eejax.capture.file`.
    num_candidates: K, likeliest tokens kept of each read-out.
    selection: which positions.
    dtype: compute dtype.
    chunk_size: positions whose logits stand at once; None is as many as suit
      the device.
    positions_per_part: positions of a file; a batch is never cut.
  """

  kinds: tuple[ReadoutKind, ...] = (ReadoutKind.NATURAL, ReadoutKind.EXIT)
  depths: tuple[int, ...] | None = None
  fields: tuple[str, ...] = EVERYTHING
  num_candidates: int = 10
  selection: Selection = Selection()
  dtype: str = 'float32'
  chunk_size: int | None = None
  positions_per_part: int = POSITIONS_PER_PART

  def __post_init__(self):
    unknown = sorted(set(self.fields) - set(READOUT_FIELDS))
    if unknown:
      raise ArgumentError(
        f'a capture has no {unknown[0]}; it can have '
        f'{", ".join(READOUT_FIELDS)}.'
      )
    for name in ('num_candidates', 'chunk_size', 'positions_per_part'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ArgumentError(f'{name} must be at least 1, not {value}.')
    if self.depths is not None and ReadoutKind.ATTENTION in self.kinds:
      raise ArgumentError(
        'what stands after attention is read between all depths; leave depths '
        'out.'
      )

  def batch_reading(self, config: EarlyExitConfig) -> BatchReading:
    """Return how a batch of a model is read.

    Raises:
      ArgumentError: a depth lies beyond the model.
    """
    last = config.model.num_layers
    depths = range(last + 1) if self.depths is None else self.depths
    beyond = [d for d in depths if not 0 <= d <= last]
    if beyond:
      raise ArgumentError(
        f'depth {beyond[0]} cannot be read: the model has depths 0 to {last}.'
      )
    if ReadoutKind.ATTENTION in self.kinds and not config.model.has_mlp:
      raise ArgumentError(
        'blocks of this model have no MLP, so nothing stands between attention '
        'and it; leave out the read-outs after attention.'
      )
    return BatchReading(
      depths=tuple(sorted({*depths, last})),
      reads_attention=ReadoutKind.ATTENTION in self.kinds,
      exits=config.exits if ReadoutKind.EXIT in self.kinds else (),
      reading=ReadoutFields(
        tuple(f for f in READOUT_FIELDS if f in self.fields),
        min(self.num_candidates, config.model.vocab_size),
      ),
      dtype=self.dtype,
      chunk_size=self.chunk_size or _CHUNK.get(jax.default_backend(), 1024),
    )


@dataclasses.dataclass(frozen=True)
class About:
  """Origin of a capture, kept with it.

  Attributes:
    model: plain values, such as a name and a release date.
    backbone_hash: of the model, '' where unknown.
    text: whose text it is.
    data: plain values, such as a name.
    tokenizer: plain values, such as a fingerprint.
  """

  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  backbone_hash: str = ''
  text: TextKind = TextKind.TEACHER_FORCED
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tokenizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)


DEFAULT = CaptureConfig()
UNKNOWN = About()
