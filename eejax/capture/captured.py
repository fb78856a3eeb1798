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
"""A captured text in memory: its arrays, and what can be asked of them.

`eejax.capture.file` says what the arrays are and how they lie on the
disk.
"""

import dataclasses
import enum
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eejax.errors import ArgumentError
from eejax.types import Float, Int

POSITION_FIELDS = {
  'row': np.int32,
  'position': np.int32,
  'segment': np.int32,
  'token': np.int32,
  'target': np.int32,
  'weight': np.float32,
}
READOUT_FIELDS = {
  'top_tokens': np.int32,
  'top_log_probs': np.float32,
  'loss': np.float32,
  'entropy': np.float32,
  'kl_final': np.float32,
  'js_final': np.float32,
  'logit_cosine': np.float32,
  'hidden_cosine': np.float32,
  'js_previous': np.float32,
  'hidden_cosine_previous': np.float32,
  'gate_score': np.float32,
}


class ReadoutKind(enum.Enum):
  """What stands between the stream and the logits of a read-out.

  NATURAL: the model's own final norm and head. EXIT: a trained exit.
  ATTENTION: as natural, read between a block's attention and its MLP.
  """

  NATURAL = 'natural'
  EXIT = 'exit'
  ATTENTION = 'attention'


@dataclasses.dataclass(frozen=True)
class Readout:
  """Place where a model is read.

  Attributes:
    name: unique among the read-outs of a capture.
    depth: blocks run; a half more where attention alone of the next one ran.
    kind: what stands between the stream and the logits.
  """

  name: str
  depth: float
  kind: ReadoutKind


def compared_with(readouts: Sequence[Readout]) -> tuple[int | None, ...]:
  """Return the read-out before each one, None where there is none.

  It is the natural one of the depth before, of an exit the exit before; what
  follows an attention is compared with what stood before it.
  """

  def find(r: Readout) -> int | None:
    is_exit = r.kind is ReadoutKind.EXIT
    kind = ReadoutKind.EXIT if is_exit else ReadoutKind.NATURAL
    earlier = [
      i
      for i, other in enumerate(readouts)
      if other.kind is kind and other.depth < r.depth
    ]
    return max(earlier, default=None)

  return tuple(find(r) for r in readouts)


class TextKind(enum.Enum):
  """Whose text it is.

  TEACHER_FORCED: somebody else's. FREE_RUNNING: what the full model itself
  generated, token by token its likeliest.
  """

  TEACHER_FORCED = 'teacher_forced'
  FREE_RUNNING = 'free_running'


@dataclasses.dataclass(frozen=True)
class CaptureFacts:
  """Facts about a capture, as `capture.json` has them.

  Attributes:
    readouts: in the order of the arrays; the full model's output is last.
    fields: read-out arrays there are.
    num_candidates: K.
    num_layers: L.
    vocab_size: V.
    model: what is known of the model, plain values: its configuration as
      `eejax.config.config_json.to_json` writes it, and what a caller added.
    backbone_hash: of the model, '' where unknown.
    text: whose text it is.
    data: what is known of the text, plain values; `name`, and `hash` once the
      capture is complete.
    tokenizer: what is known of the tokenizer, plain values.
    selection: which positions were kept, plain values.
    dtype: compute dtype.
    versions: of eejax and jax.
  """

  readouts: tuple[Readout, ...]
  fields: tuple[str, ...]
  num_candidates: int
  num_layers: int
  vocab_size: int
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  backbone_hash: str = ''
  text: TextKind = TextKind.TEACHER_FORCED
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tokenizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  selection: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  dtype: str = 'float32'
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def indices(self, *kinds: ReadoutKind) -> tuple[int, ...]:
    """Return where the read-outs of these kinds stand, shallowest first.

    The full model's output ends every list of natural read-outs.
    """
    return tuple(i for i, r in enumerate(self.readouts) if r.kind in kinds)

  @property
  def depths(self) -> Float[np.ndarray, 'R']:
    """Return the depth of each read-out."""
    return np.array([r.depth for r in self.readouts], float)

  def to_json(self) -> dict[str, Any]:
    """Return plain values that `from_json` reads."""
    values = {
      f.name: getattr(self, f.name)
      for f in dataclasses.fields(self)
      if f.name not in ('readouts', 'text')
    }
    values['text'] = self.text.value
    values['readouts'] = [
      {'name': r.name, 'depth': r.depth, 'kind': r.kind.value}
      for r in self.readouts
    ]
    # As a file would have it, so that what is read equals what was written.
    return json.loads(json.dumps(values))

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> 'CaptureFacts':
    """Rebuild facts that `to_json` wrote.

    Raises:
      KeyError, TypeError, ValueError: they are broken.
    """
    values = dict(values)
    values['text'] = TextKind(values['text'])
    values['fields'] = tuple(values['fields'])
    values['readouts'] = tuple(
      Readout(r['name'], float(r['depth']), ReadoutKind(r['kind']))
      for r in values['readouts']
    )
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class Captured:
  """Captured text: arrays of read-outs and positions.

  Arrays are attributes by their names in `eejax.capture.file`, as in
  `captured.kl_final`; those of a file are read when they are first asked for.

  Attributes:
    facts: what was captured.
    source: the arrays by name; of a file, read one by one.
  """

  facts: CaptureFacts
  # A checker of types would read an array to see what it is.
  source: Mapping[str, Any] = dataclasses.field(repr=False)

  def __getattr__(self, name: str) -> np.ndarray:
    """Return an array by its name."""
    if name not in POSITION_FIELDS and name not in READOUT_FIELDS:
      raise AttributeError(f'a capture has no {name!r}.')
    return self[name]

  def __getitem__(self, name: str) -> np.ndarray:
    """Return an array by its name.

    Raises:
      ArgumentError: the capture was made without it.
    """
    if name not in self.source:
      have = ', '.join(self.facts.fields)
      raise ArgumentError(
        f'this capture has no {name} (it has {have}); capture the text again '
        'with it.'
      )
    return self.source[name]

  def __contains__(self, name: str) -> bool:
    """Return whether the capture has an array."""
    return name in self.source

  @property
  def readouts(self) -> tuple[Readout, ...]:
    """Return the read-outs in the order of the arrays."""
    return self.facts.readouts

  @property
  def num_layers(self) -> int:
    """Return L."""
    return self.facts.num_layers

  @property
  def num_positions(self) -> int:
    """Return N."""
    return len(self['row'])

  @property
  def num_rows(self) -> int:
    """Return how many rows of text have a position."""
    return len(np.unique(self['row']))

  @property
  def top1(self) -> Int[np.ndarray, 'R N']:
    """Return the likeliest token of each read-out."""
    return self['top_tokens'][..., 0]

  @property
  def agree(self) -> np.ndarray:
    """Return [R, N] whether the likeliest token is the full model's."""
    return self.top1 == self.top1[-1]

  def only(self, *kinds: ReadoutKind) -> 'Captured':
    """Return the capture with the read-outs of these kinds and the last one.

    The full model's output stays, for everything is compared with it.

    Raises:
      ArgumentError: no read-out is of these kinds.
    """
    chosen = self.facts.indices(*kinds)
    if not chosen:
      wanted = ' or '.join(k.value for k in kinds)
      raise ArgumentError(
        f'this capture has no {wanted} read-outs; capture the text with them.'
      )
    last = len(self.readouts) - 1
    return self.at_readouts((*(i for i in chosen if i != last), last))

  def at_readouts(self, indices: Sequence[int]) -> 'Captured':
    """Return the capture with these read-outs alone, in their order."""
    chosen = list(indices)
    facts = dataclasses.replace(
      self.facts, readouts=tuple(self.readouts[i] for i in chosen)
    )
    take = lambda name, x: x[chosen] if name in READOUT_FIELDS else x
    return Captured(facts, _Derived(self.source, take))

  def at_positions(self, keep: np.ndarray) -> 'Captured':
    """Return the capture with some positions alone.

    Args:
      keep: a mask over positions, or their indices.
    """
    take = lambda name, x: x[:, keep] if name in READOUT_FIELDS else x[keep]
    return Captured(self.facts, _Derived(self.source, take))

  def by_row(
    self, values: Float[np.ndarray, '... N'] | np.ndarray
  ) -> tuple[Float[np.ndarray, '... rows'], Float[np.ndarray, 'rows']]:
    """Return weighted sums over each row's positions, and their weights.

    It is what `eejax.stats.bootstrap.ratio_interval` takes, once for each
    leading index.
    """
    weights = np.asarray(self['weight'], float)
    _, place = np.unique(self['row'], return_inverse=True)
    order = np.argsort(place, kind='stable')
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    weighted = (np.asarray(values, float) * weights)[..., order]
    if not len(order):
      return weighted, weights
    add = functools.partial(np.add.reduceat, indices=starts, axis=-1)
    return add(weighted), add(weights[order])


class _Derived(Mapping[str, Any]):
  """Arrays of another capture, of which a part is taken."""

  def __init__(self, source: Mapping[str, Any], take: Any):
    self._source, self._take = source, take
    self._kept: dict[str, np.ndarray] = {}

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._kept:
      self._kept[name] = self._take(name, self._source[name])
    return self._kept[name]

  def __contains__(self, name: object) -> bool:
    return name in self._source

  def __iter__(self):
    return iter(self._source)

  def __len__(self) -> int:
    return len(self._source)
