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

import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eejax import storage
from eejax.capture.captured import (
  POSITION_FIELDS,
  READOUT_FIELDS,
  Captured,
  CaptureFacts,
)
from eejax.errors import ArgumentError, CheckpointError

FORMAT = 1
NAME = 'capture.json'


class _Parts(Mapping[str, Any]):
  """Arrays of a folder, each read when it is first asked for."""

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
  path = storage.local_path(path)
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
