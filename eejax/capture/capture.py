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
"""Capturing a text: one pass of a model, read at every depth.

  captured = capture(
    params, batches, config=config, path='runs/captured', about=about
  )
  captured.kl_final.mean(axis=1)

A text of any length takes the memory of one batch: arrays go to the disk a
part at a time. A capture that was ended goes on at its last whole part, with
the same result, bit for bit.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from eejax import storage
from eejax.capture import file
from eejax.capture.batch import BatchReading, read_batch
from eejax.capture.captured import (
  POSITION_FIELDS,
  READOUT_FIELDS,
  Captured,
  CaptureFacts,
  Readout,
  ReadoutKind,
)
from eejax.capture.settings import (
  DEFAULT,
  UNKNOWN,
  About,
  CaptureConfig,
)
from eejax.config import EarlyExitConfig, config_json
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, EejaxError
from eejax.parallel import sharding
from eejax.types import Params
from eejax.version import __version__


def capture(
  params: Params,
  batches: Iterable[Batch],
  *,
  config: EarlyExitConfig,
  settings: CaptureConfig = DEFAULT,
  path: str | pathlib.Path | None = None,
  about: About = UNKNOWN,
) -> Captured:
  """Read a model at every depth over a text.

  Args:
    params: the whole tree, blocks stacked, on one device or sharded over a
      mesh.
    batches: the text; all batches of one shape compile once. Wrap them to
      see progress.
    config: the model with its exits.
    settings: what is captured.
    path: the folder to write. Where it holds the same capture, unfinished,
      that goes on; where it holds it whole, it is returned. None keeps all in
      memory.
    about: where it comes from.

  Raises:
    ArgumentError: there is no text, or `path` holds another capture.
    EejaxError: the model returns numbers that are not finite. Whole parts
      stay.
  """
  how = settings.batch_reading(config)
  facts = _facts(how, config, settings, about)
  if path is None:
    parts = [
      part.arrays
      for part in _parts(params, batches, _Text(), config, how, settings)
    ]
    if not parts:
      raise _no_text()
    return Captured(facts, _concatenated(parts))
  return _to_folder(
    params, batches, config, how, settings, facts, storage.local_path(path)
  )


def _to_folder(
  params, batches, config, how, settings, facts, path: pathlib.Path
) -> Captured:
  text, number, is_complete = _continue(path, facts)
  batches = iter(batches)
  if number:
    text = _skip(batches, text, path)
  if not is_complete:
    for part in _parts(params, batches, text, config, how, settings):
      file.write_part(path, number, part.arrays)
      number, text = number + 1, part.text
      _note(path, facts, text, number, complete=False)
  elif next(batches, None) is not None:
    raise _other_text(path)
  if not number:
    raise _no_text()
  data = {**facts.data, 'hash': text.digest}
  facts = dataclasses.replace(facts, data=data)
  _note(path, facts, text, number, complete=True)
  return file.read(path)


# MARK: Batches


@dataclasses.dataclass(frozen=True)
class _Text:
  """Progress through a text.

  Attributes:
    batches: batches read.
    rows: rows in them.
    digest: of all of them.
  """

  batches: int = 0
  rows: int = 0
  digest: str = ''

  def after(self, batch: Batch) -> '_Text':
    """Return how far the text is read with one more batch."""
    digest = hashlib.blake2b(self.digest.encode('ascii'), digest_size=16)
    digest.update(repr(batch.tokens.shape).encode('ascii'))
    for name, values in batch.as_dict().items():
      dtype = np.float32 if name == 'weights' else np.int32
      digest.update(np.ascontiguousarray(values, dtype).tobytes())
    return _Text(
      self.batches + 1,
      self.rows + len(batch.tokens),
      digest.hexdigest(),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
  """Arrays of some positions, and the progress through the text with them."""

  arrays: dict[str, np.ndarray]
  text: _Text


def _parts(
  params, batches, text: _Text, config, how: BatchReading, settings
) -> Iterator[_Part]:
  """Yield the positions of a text from `text` on, some batches at a time."""
  gathered: list[dict[str, np.ndarray]] = []
  positions = 0
  readings = _readings(params, batches, text, config, how, settings)
  for found, read_to in readings:
    text = read_to
    gathered.append(found)
    positions += len(found['row'])
    if positions >= settings.positions_per_part:
      yield _Part(_concatenated(gathered), text)
      gathered, positions = [], 0
  if gathered:
    yield _Part(_concatenated(gathered), text)


def _readings(params, batches, text, config, how, settings):
  """Yield each batch's arrays, and how far the text was read with it.

  The next batch is started before the last one is fetched, so that devices
  need not wait for the host.
  """
  pending = None
  for batch in batches:
    chosen = settings.selection.choose(
      batch.weights.reshape(-1), batch_number=text.batches
    )
    asked = None
    if not settings.selection.is_all:
      capacity = settings.selection.capacity(batch.weights.size)
      asked = np.zeros(capacity, np.int32)
      asked[: len(chosen)] = chosen
    found = sharding.call_where_it_lies(
      read_batch, params, batch.as_dict(), asked, config=config, how=how
    )
    positions = _positions(batch, chosen, first_row=text.rows)
    keep = chosen if asked is None else slice(len(chosen))
    text = text.after(batch)
    if pending is not None:
      yield _fetch(*pending, how)
    pending = positions, found, keep, text
  if pending is not None:
    yield _fetch(*pending, how)


def _positions(batch: Batch, chosen, *, first_row: int):
  rows, columns = batch.weights.shape
  row = np.repeat(np.arange(first_row, first_row + rows), columns)
  values = {
    'row': row,
    'position': batch.positions.reshape(-1),
    'segment': batch.segment_ids.reshape(-1),
    'token': batch.tokens.reshape(-1),
    'target': batch.targets.reshape(-1),
    'weight': batch.weights.reshape(-1),
  }
  return {k: values[k][chosen].astype(t) for k, t in POSITION_FIELDS.items()}


def _fetch(positions, found, keep, text: _Text, how: BatchReading):
  arrays = {k: v[:, keep] for k, v in sharding.fetch(found).items()}
  finite = arrays.pop('finite')
  if not finite.all():
    readout, place = np.argwhere(~finite)[0]
    name = _where(how.readouts[readout])
    raise EejaxError(
      f'the model returns numbers that are not finite {name} (row '
      f'{positions["row"][place]}, position {positions["position"][place]}); '
      'the checkpoint is damaged, or its numbers do not fit the compute dtype '
      '(try float32).'
    )
  return {**positions, **arrays}, text


def _where(readout: Readout) -> str:
  match readout.kind:
    case ReadoutKind.NATURAL:
      return f'at depth {readout.depth:g}'
    case ReadoutKind.EXIT:
      return f'at the exit at depth {readout.depth:g}'
  return f'after the attention of block {readout.depth + 0.5:g}'


def _concatenated(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {
    name: np.concatenate(
      [p[name] for p in parts], axis=1 if name in READOUT_FIELDS else 0
    )
    for name in parts[0]
  }


# MARK: Facts and files


def _facts(
  how: BatchReading,
  config: EarlyExitConfig,
  settings: CaptureConfig,
  about: About,
) -> CaptureFacts:
  return CaptureFacts(
    readouts=how.readouts,
    fields=how.reading.fields,
    num_candidates=how.reading.num_candidates,
    num_layers=config.model.num_layers,
    vocab_size=config.model.vocab_size,
    model={**about.model, 'config': config_json.to_json(config)},
    backbone_hash=about.backbone_hash,
    text=about.text,
    data=dict(about.data),
    tokenizer=dict(about.tokenizer),
    selection=dataclasses.asdict(settings.selection),
    dtype=settings.dtype,
    versions={'eejax': __version__, 'jax': jax.__version__},
  )


def _continue(
  path: pathlib.Path, facts: CaptureFacts
) -> tuple[_Text, int, bool]:
  """Return how far the capture in a folder came, in text and in parts."""
  if path.is_file():
    raise ArgumentError(f'{path} is a file; name a folder.')
  if not (path / file.NAME).is_file():
    if path.is_dir() and any(path.iterdir()):
      raise ArgumentError(
        f'{path} is not empty and holds no captured text; name another folder.'
      )
    _note(path, facts, _Text(), 0, complete=False)
    return _Text(), 0, False
  found, state = file.read_facts(path)
  same = lambda f: {
    **f.to_json(),
    'data': {k: v for k, v in f.data.items() if k != 'hash'},
  }
  ours, theirs = same(facts), same(found)
  different = [k for k in ours if _plain(ours[k]) != _plain(theirs[k])]
  if different:
    raise ArgumentError(
      f'{path} holds a capture with other {", ".join(different)}; name another '
      'folder, or remove it.'
    )
  return _Text(**state['text']), state['parts'], state['complete']


def _plain(value: Any) -> str:
  return json.dumps(value, sort_keys=True)


def _skip(batches: Iterator[Batch], done: _Text, path) -> _Text:
  """Pass by the batches that were captured; return how far that is."""
  text = _Text()
  while text.batches < done.batches:
    batch = next(batches, None)
    if batch is None:
      raise _other_text(path)
    text = text.after(batch)
  if text != done:
    raise _other_text(path)
  return text


def _note(
  path: pathlib.Path,
  facts: CaptureFacts,
  text: _Text,
  parts: int,
  *,
  complete: bool,
) -> None:
  file.write_facts(
    path,
    facts,
    parts=parts,
    complete=complete,
    text=dataclasses.asdict(text),
  )


def _no_text() -> ArgumentError:
  return ArgumentError('there is no text to capture.')


def _other_text(path: pathlib.Path) -> ArgumentError:
  return ArgumentError(
    f'{path} holds a capture of another text; name another folder, or remove '
    'it.'
  )
