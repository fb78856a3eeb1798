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
"""What a criterion is, and what it may be shown.

A score lies in [0, 1] and higher is safer; a row exits when its score reaches
the threshold. What a criterion reads decides what it costs: the stream is
there, the logits of an exit are a pass over the output matrix for every row
that asks.
"""

import abc
import dataclasses
import enum

import flax.struct

from eejax.config import ExitConfig
from eejax.decoding.policy.notation import Number, make, write_notation
from eejax.types import Array, Bool, Float, Int


class Reads(enum.Flag):
  """What a criterion has to be shown; fields of `Evidence`.

  Depths are always shown; a criterion that needs no more reads NOTHING.
  """

  NOTHING = 0
  GATE = enum.auto()
  LOGITS = enum.auto()
  PREVIOUS_LOGITS = enum.auto()
  STREAM = enum.auto()
  PREVIOUS_STREAM = enum.auto()
  STREAK = enum.auto()
  POSITIONS = enum.auto()

  @property
  def asks_head(self) -> bool:
    """Return whether every row that asks needs logits of the exit's head."""
    asking = Reads.LOGITS | Reads.PREVIOUS_LOGITS | Reads.STREAK
    return bool(self & asking)

  @property
  def remembers(self) -> bool:
    """Return whether what an earlier exit saw of the token is read."""
    earlier = Reads.PREVIOUS_LOGITS | Reads.PREVIOUS_STREAM | Reads.STREAK
    return bool(self & earlier)


@flax.struct.dataclass
class Evidence:
  """Inputs of a criterion: what is known of every row at one exit.

  A field that the criterion does not read is None. `previous` is the exit
  asked last for the same token; where there was none, the previous fields
  mean nothing.

  Attributes:
    gate_logit: of the exit's gate, before any head.
    logits: of the exit's head, float32; with a scored vocabulary, of its
      tokens alone.
    previous_logits: of the previous exit, for the same tokens.
    stream: the stream at the exit's depth (h).
    previous_stream: the stream at the previous exit's depth.
    has_previous: rows that have a previous exit.
    top_token: the exit's likeliest token.
    streak: how many exits in a row, this one the last, hold the same token
      the likeliest; 1 where there is no previous exit.
    positions: position of the newest token in its row's text.
    exit_index: place of the exit among those in use, 0 the shallowest.
    depth: blocks run before the exit.
    num_layers: blocks of the full model.
  """

  gate_logit: Float[Array, '*rows'] | None = None
  logits: Float[Array, '*rows V'] | None = None
  previous_logits: Float[Array, '*rows V'] | None = None
  stream: Float[Array, '*rows D'] | None = None
  previous_stream: Float[Array, '*rows D'] | None = None
  has_previous: Bool[Array, '*rows'] | None = None
  top_token: Int[Array, '*rows'] | None = None
  streak: Int[Array, '*rows'] | None = None
  positions: Int[Array, '*rows'] | None = None
  exit_index: int = flax.struct.field(pytree_node=False, default=0)
  depth: int = flax.struct.field(pytree_node=False, default=0)
  num_layers: int = flax.struct.field(pytree_node=False, default=0)


class Criterion(abc.ABC):
  """Score rows at an exit.

  A criterion with settings is a frozen dataclass whose fields are numbers; it
  is then written `name(1, 2)`, the fields in their order.

  Attributes:
    name: what it is called, without settings.
    reads: which fields of `Evidence` it reads.
  """

  name: str
  reads: Reads

  @abc.abstractmethod
  def score(
    self, evidence: Evidence
  ) -> Float[Array, '*rows'] | Float[Array, '']:
    """Return a score in [0, 1] for each row, higher where exiting is safer.

    A criterion that treats all rows alike may return one score for all.
    """

  def check(self, exits: tuple[ExitConfig, ...]) -> None:  # noqa: B027
    """Raise an `ArgumentError` if the criterion cannot be used at `exits`.

    Most can be used anywhere.
    """

  @property
  def notation(self) -> str:
    """Return the text that stands for this criterion with its settings."""
    if not dataclasses.is_dataclass(self):
      return self.name
    values = [getattr(self, f.name) for f in dataclasses.fields(self)]
    return write_notation(self.name, *values)

  def with_settings(self, *settings: Number) -> 'Criterion':
    """Return the same criterion with the given settings, the first ones first.

    Raises:
      ArgumentError: it takes fewer, or refuses them.
    """
    if not settings:
      return self
    return make(type(self), settings, what=f'criterion {self.name}')
