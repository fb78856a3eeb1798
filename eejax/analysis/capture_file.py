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
"""Captured texts: what every read-out of a model says of every position.

A captured text is a folder:

  capture.json       what was captured, of which model and text; `CaptureFacts`
  part-00000.npz     arrays of the first positions, uncompressed
  part-00001.npz     of the next ones, ...

A *read-out* is a place where the model is read: a depth with its own final
norm and head (`natural`), a trained exit (`exit`), or the stream between the
attention and the MLP of a block with the final norm and head (`attention`,
at depth d - 0.5 for the block that leads to depth d). The last natural one,
at depth L, is the full model's output; p_L, z_L and y_L are its distribution,
logits and likeliest token. Read-outs stand in the order of their depths,
exits after the natural one of their depth, the full model's output last.

Arrays over N positions:

  row         int32  row of the text it stands in: the unit of a bootstrap
  position    int32  place in its document
  segment     int32  which document of its row, from 1
  token       int32  the input
  target      int32  the token that follows
  weight      f32    how much it counts, above 0

Arrays over R read-outs and N positions, with p, z and y the read-out's own
(a trained exit's from its own head; K candidates in the two first):

  top_tokens              int32 [R, N, K]  likeliest first; ties by number
  top_log_probs           f32   [R, N, K]  their log-probabilities
  loss                    f32  -log p(target), nats
  entropy                 f32  H(p), nats
  kl_final                f32  KL(p_L || p), nats
  js_final                f32  JS(p, p_L), nats, 0 to log 2
  logit_cosine            f32  cosine of z and z_L, each less its mean
  hidden_cosine           f32  cosine of what the output matrices read: after
                               the final norm, or after the exit's own
  js_previous             f32  JS(p, p'), p' of the read-out before: the
                               natural one of the depth before, for an exit
                               the exit before; NaN where there is none
  hidden_cosine_previous  f32  likewise of what the output matrices read
  gate_score              f32  sigmoid of the exit's gate; NaN without one

A capture may leave read-out arrays out (`CaptureFacts.fields`). With numpy
alone: `np.load('part-00000.npz')['loss']`, and concatenate the parts along
the axis of the positions.
"""

import dataclasses
import enum
import functools
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eejax.errors import ArgumentError, CheckpointError
from eejax.types import Float, Int

FORMAT = 1
NAME = 'capture.json'

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
  """Name a place where the model is read.

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
  """Say what was captured; `capture.json` holds it.

  Attributes:
    readouts: in the order of the arrays; the full model's output is last.
    fields: read-out arrays there are.
    num_candidates: K.
    num_layers: L.
    vocab_size: V.
    model: what is known of the model, plain values: its configuration as
      `eejax.config.to_json` writes it, and what a caller added.
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
  """Hold a captured text.

  Arrays are attributes by their names in the module's docstring, as in
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

    It is what `eejax.ops.bootstrap.ratio_interval` takes, once for each
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
  """Look arrays up in another capture and take a part of each."""

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


class _Parts(Mapping[str, Any]):
  """Read arrays of a folder when they are asked for, and keep them."""

  def __init__(self, paths: Sequence[pathlib.Path], names: Sequence[str]):
    self._paths, self._names = tuple(paths), tuple(names)
    self._kept: dict[str, np.ndarray] = {}

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._names:
      raise KeyError(name)
    if name not in self._kept:
      parts = [read_part(path, name) for path in self._paths]
      axis = 1 if name in READOUT_FIELDS else 0
      self._kept[name] = np.concatenate(parts, axis=axis)
    return self._kept[name]

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __iter__(self):
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)


# MARK: Reading


def read(path: str | os.PathLike) -> Captured:
  """Open a captured text.

  Raises:
    ArgumentError: there is none.
    CheckpointError: it is broken or was not finished.
  """
  path = pathlib.Path(path)
  facts, state = read_facts(path)
  if not state['complete']:
    raise CheckpointError(
      f'{path} was not finished; run the same capture again and it goes on '
      'where it ended.'
    )
  return Captured(
    facts,
    _Parts(
      [part_path(path, i) for i in range(state['parts'])],
      (*POSITION_FIELDS, *facts.fields),
    ),
  )


def read_facts(path: pathlib.Path) -> tuple[CaptureFacts, dict[str, Any]]:
  """Return what a folder says of its capture, and how far that came.

  The second value has `complete`, `parts` (how many there are) and `text`
  (how far it was read).

  Raises:
    ArgumentError: there is no capture.
    CheckpointError: it cannot be understood.
  """
  if not (path / NAME).is_file():
    raise ArgumentError(f'there is no captured text at {path}.')
  try:
    values = json.loads((path / NAME).read_text())
    if values['format'] != FORMAT:
      raise CheckpointError(
        f'{path} has format {values["format"]}, this version of eejax reads '
        f'format {FORMAT}; update eejax.'
      )
    facts = CaptureFacts.from_json(values['facts'])
    state = {k: values[k] for k in ('complete', 'parts', 'text')}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f'{path / NAME} is broken ({error}); capture the text again.'
    ) from error
  return facts, state


def read_part(path: pathlib.Path, name: str) -> np.ndarray:
  """Return one array of one part.

  Raises:
    CheckpointError: the part is missing or broken.
  """
  try:
    # NumPy leaves a file open that it cannot read.
    with path.open('rb') as file, np.load(file) as arrays:
      return arrays[name]
  except FileNotFoundError:
    raise CheckpointError(
      f'{path} is missing; capture the text again.'
    ) from None
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise CheckpointError(
      f'{path} is broken ({error}); capture the text again.'
    ) from error


def part_path(path: pathlib.Path, index: int) -> pathlib.Path:
  """Return where part number `index` lies, from 0."""
  return path / f'part-{index:05d}.npz'


# MARK: Writing


def write_facts(
  path: pathlib.Path,
  facts: CaptureFacts,
  *,
  parts: int,
  complete: bool,
  text: Mapping[str, Any],
) -> None:
  """Write `capture.json`, whole or not at all.

  Args:
    path: the folder.
    facts: what is captured.
    parts: how many parts there are.
    complete: whether there will be no more.
    text: how far the text was read, plain values.
  """
  values = {
    'format': FORMAT,
    'complete': complete,
    'parts': parts,
    'text': dict(text),
    'facts': facts.to_json(),
  }
  content = (json.dumps(values, indent=1) + '\n').encode('utf-8')
  _write_whole(path / NAME, lambda file: file.write(content))


def write_part(
  path: pathlib.Path, index: int, arrays: Mapping[str, np.ndarray]
) -> None:
  """Write one part, whole or not at all."""
  named: dict[str, Any] = dict(arrays)
  _write_whole(part_path(path, index), lambda f: np.savez(f, **named))


def _write_whole(path: pathlib.Path, write: Any) -> None:
  """Write a file beside its place, then put it there."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
      dir=path.parent, prefix=f'.{path.name}.', delete=False
    ) as file:
      partial = pathlib.Path(file.name)
      try:
        write(file)
        file.flush()
        os.fsync(file.fileno())
      except BaseException:
        partial.unlink(missing_ok=True)
        raise
    mask = os.umask(0)
    os.umask(mask)
    partial.chmod(0o666 & ~mask)
    os.replace(partial, path)
  except OSError as error:
    raise CheckpointError(
      f'{path} was not written: {error.strerror or error}.'
    ) from error
