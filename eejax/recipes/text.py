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
"""A text that recipes read: files, the standard library, seqio, tfds."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator

from eejax.checkpoint.model import Model
from eejax.data import batches as data_batches
from eejax.data import corpus
from eejax.data.batch import Batch, Packing
from eejax.data.corpus import Split, TextUnit
from eejax.data.data_config import STANDARD_LIBRARY, DataConfig
from eejax.data.memory_source import Passes
from eejax.errors import ArgumentError
from eejax.evaluation.rows import spread_rows

# Tokens in a row where nothing is said and the model's context allows it.
USUAL_ROW = 256


@dataclasses.dataclass(frozen=True)
class Text:
  """A text by its source; it is read when a recipe uses it.

  Attributes:
    source: a text or `.jsonl` file, a folder, a glob, `stdlib` (the standard
      library of this Python), `seqio:TASK` or `tfds:NAME`.
    split: which part of it; None is the validation part of `stdlib` and all
      of anything else. Parts are split by document.
    unit: what one document of a text file is.
    field: where the text is in the objects of a `.jsonl` file.
  """

  source: str = STANDARD_LIBRARY
  split: Split | None = None
  unit: TextUnit = TextUnit.FILE
  field: str = 'text'

  @property
  def part(self) -> Split:
    """Return the part that is measured on."""
    usual = Split.VALIDATION if self.source == STANDARD_LIBRARY else Split.ALL
    return self.split or usual

  def of_split(self, split: Split) -> 'Text':
    """Return another part of the same text."""
    return dataclasses.replace(self, split=split)

  def data_config(
    self,
    *,
    sequence_length: int,
    batch_size: int,
    packing: Packing = Packing.PACKED,
    seed: int = 0,
  ) -> DataConfig:
    """Return the data settings that read this text in rows."""
    return DataConfig(
      corpus=self.source,
      sequence_length=sequence_length,
      batch_size=batch_size,
      packing=packing,
      unit=self.unit,
      field=self.field,
      seed=seed,
    )

  def rows(
    self,
    model: Model,
    *,
    max_tokens: int,
    sequence_length: int | None = None,
    batch_size: int = 4,
    packing: Packing = Packing.ONE_PER_ROW,
  ) -> list[Batch]:
    """Return rows of the text as a model reads it, spread over all of it.

    Args:
      model: its tokenizer is used.
      max_tokens: read about so many tokens at most.
      sequence_length: tokens in a row; None is 256, or the model's context
        where that is shorter.
      batch_size: rows of a batch.
      packing: how documents share rows.

    Raises:
      EejaxError: the text cannot be read, is empty or shorter than a row, the
        model has no tokenizer, or rows are longer than its context.
    """
    config = self.data_config(
      sequence_length=row_length(model, sequence_length),
      batch_size=64,
      packing=packing,
    )
    everything = data_batches.make_batches(
      config, model.tokenizer, self.part, passes=Passes.ONCE
    )
    return spread_rows(everything, max_tokens=max_tokens, batch_size=batch_size)

  def pieces(
    self, model: Model, *, length: int, max_tokens: int = 10**12
  ) -> list[tuple[int, ...]]:
    """Return pieces of exactly `length` tokens, spread over the text.

    Raises:
      EejaxError: as of `rows`.
    """
    batches = self.rows(
      model, max_tokens=max_tokens, sequence_length=length, batch_size=64
    )
    return [
      tuple(row.tolist())
      for batch in batches
      for row, weights in zip(batch.tokens, batch.weights, strict=True)
      if weights.all()
    ]

  def documents(self) -> Iterator[str]:
    """Yield the documents of the part, as text.

    Raises:
      EejaxError: the text cannot be read, or comes through seqio as tokens.
    """
    config = self.data_config(sequence_length=1, batch_size=1)
    return data_batches.read_texts(config, split=self.part)

  def fingerprint(self) -> str:
    """Return what changes when the text may have changed.

    Of files these are names, sizes and times of change, not contents; of the
    standard library the version of Python.
    """
    files: list[list[object]] = []
    config = self.data_config(sequence_length=1, batch_size=1)
    if self.source == STANDARD_LIBRARY:
      files.append([sys.version])
    elif not config.uses_seqio:
      for file in corpus.find_files(self.source):
        stat = file.stat()
        files.append([str(file), stat.st_size, stat.st_mtime_ns])
    described = [self.source, self.part.value, self.unit.value, self.field]
    digest = hashlib.sha256(json.dumps([described, files]).encode())
    return digest.hexdigest()[:16]

  def __str__(self) -> str:
    return f'{self.source} ({self.part.value})'


def read_text(
  source: str | pathlib.Path = STANDARD_LIBRARY,
  *,
  split: str | None = None,
  unit: str = 'file',
  field: str = 'text',
) -> Text:
  """Return a text for recipes, after a look whether it can be read.

  Args:
    source: a text or `.jsonl` file, a folder, a glob, `stdlib` (the standard
      library of this Python), `seqio:TASK` or `tfds:NAME`.
    split: `train` (90 % of the documents), `validation` (5 %), `test` (5 %)
      or `all`; None is `validation` of `stdlib` and `all` of anything else.
    unit: what one document of a text file is: `file`, `paragraph` or `line`.
    field: where the text is in the objects of a `.jsonl` file.

  Raises:
    EejaxError: there is no such text, or it is empty.

  Example:
    >>> import eejax
    >>> print(eejax.read_text('stdlib'))
    stdlib (validation)
  """
  text = Text(
    str(source),
    None if split is None else _member(Split, split, 'split'),
    _member(TextUnit, unit, 'unit'),
    field,
  )
  config = text.data_config(sequence_length=1, batch_size=1)
  if not config.uses_seqio and not any(itertools.islice(text.documents(), 1)):
    raise ArgumentError(f'{text} has no text to read.')
  return text


def row_length(model: Model, sequence_length: int | None) -> int:
  """Return how many tokens a row has.

  Raises:
    ArgumentError: more were asked for than the model's context has.
  """
  context = model.config.model.max_length
  length = sequence_length or min(USUAL_ROW, context)
  if length > context:
    raise ArgumentError(
      f'rows of {length} tokens are longer than the context of the model, '
      f'{context}; give a smaller sequence length.'
    )
  return length


def _member(kind, value: str, name: str):
  try:
    return kind(value)
  except ValueError:
    known = ', '.join(member.value for member in kind)
    raise ArgumentError(
      f'{name} must be one of {known}, not {value!r}.'
    ) from None
