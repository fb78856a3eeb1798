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
from typing import Any

from eejax import store_folder
from eejax.checkpoint.model import Model
from eejax.data import batches as data_batches
from eejax.data import corpus, token_files
from eejax.data.batch import Batch, PackedBatches, Packing
from eejax.data.conversation_tokens import cut_conversations
from eejax.data.corpus import Split, TextUnit
from eejax.data.data_config import STANDARD_LIBRARY, DataConfig
from eejax.data.document_split import split_documents
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.errors import ArgumentError
from eejax.evaluation.rows import spread_rows
from eejax.progress import SILENT, Progress

# Tokens in a row where nothing is said and the model's context allows it.
USUAL_ROW = 256


@dataclasses.dataclass(frozen=True)
class Portion:
  """One of several disjoint parts of a text.

  Attributes:
    index: which part, from 0.
    shares: of all the parts.
  """

  index: int
  shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Text:
  """A text by its source; it is read when a recipe uses it.

  Attributes:
    source: a text or `.jsonl` file, a folder, a glob, `stdlib` (the standard
      library of this Python), `seqio:TASK` or `tfds:NAME`.
    split: which part of it; None is the validation part of `stdlib` and all
      of anything else. Parts are split by document.
    unit: what one document of a text file is.
    field: where the text is in the objects of a `.jsonl` file; of
      conversations 'text' is the usual `messages`.
    portion: which of the disjoint parts that `parts` returned; None is all.
  """

  source: str = STANDARD_LIBRARY
  split: Split | None = None
  unit: TextUnit = TextUnit.FILE
  field: str = 'text'
  portion: Portion | None = None

  @property
  def part(self) -> Split:
    """Return the part that is measured on."""
    usual = Split.VALIDATION if self.source == STANDARD_LIBRARY else Split.ALL
    return self.split or usual

  @property
  def has_conversations(self) -> bool:
    """Return whether documents are conversations."""
    return self.unit is TextUnit.CONVERSATION

  def of_split(self, split: Split) -> 'Text':
    """Return another part of the same text."""
    return dataclasses.replace(self, split=split)

  def parts(self, *shares: float) -> 'tuple[Text, ...]':
    """Return disjoint parts of the text, split by document.

    All pieces of a document are in one part, and so are equal documents. A
    text of fewer documents than parts is split by stretches of its documents;
    conversations are not.

    Args:
      *shares: of each part, positive; they need not sum to 1.

    Raises:
      ArgumentError: a share is not positive, or this is such a part already.

    Example:
      >>> import eejax
      >>> search, certify, report = eejax.read_text('stdlib').parts(1, 3, 1)
    """
    if self.portion is not None:
      raise ArgumentError('a part of a text cannot be split once more.')
    if not shares or min(shares) <= 0:
      raise ArgumentError(
        f'parts of a text must have positive shares, not {shares}.'
      )
    return tuple(
      dataclasses.replace(self, portion=Portion(i, shares))
      for i in range(len(shares))
    )

  def unseen_by(self, model: Model) -> 'Text':
    """Return the text without the part that a model was trained on.

    A text of which all is read becomes its held-out documents (one in ten)
    where this project trained the model, or its exits, on the others.
    """
    described = {'source': self.source, 'unit': self.unit.value}
    trained_on = [
      run.get('text')
      for verb in ('tune', 'pretrain')
      if isinstance(run := model.provenance.get(verb), dict)
    ]
    is_all = self.split is None and self.part is Split.ALL
    config = self.data_config(sequence_length=1, batch_size=1)
    if is_all and described in trained_on and not config.uses_seqio:
      return self.of_split(Split.HELD_OUT)
    return self

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
    progress: Progress = SILENT,
  ) -> list[Batch]:
    """Return rows of the text as a model reads it, spread over all of it.

    Of conversations the assistant's turns count, and what fits a row is read.

    Args:
      model: its tokenizer is used.
      max_tokens: read about so many tokens at most.
      sequence_length: tokens in a row; None is 256, or the model's context
        where that is shorter.
      batch_size: rows of a batch.
      packing: how documents share rows.
      progress: is told what does not fit a row.

    Raises:
      EejaxError: the text cannot be read, is empty or shorter than a row, the
        model has no tokenizer, or rows are longer than its context.
    """
    config = self.data_config(
      sequence_length=row_length(model, sequence_length),
      batch_size=64,
      packing=packing,
    )
    if self.portion is None:
      everything = data_batches.make_batches(
        config,
        model.tokenizer,
        self.part,
        passes=Passes.ONCE,
        progress=progress,
      )
    else:
      documents = self._portions(config, model)[self.portion.index]
      if self.has_conversations:
        documents = cut_conversations(
          documents, length=config.sequence_length, progress=progress
        )
      everything = PackedBatches(
        InMemoryDocuments(documents, passes=Passes.ONCE),
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        packing=config.row_packing,
      )
    return spread_rows(everything, max_tokens=max_tokens, batch_size=batch_size)

  def _portions(self, config: DataConfig, model: Model) -> list[list[Any]]:
    """Return the tokenized documents, whole, of every part of the text."""
    if self.has_conversations:
      documents: list[Any] = data_batches.conversation_documents(
        config, model.tokenizer, self.part
      )
    else:
      source = data_batches.make_source(
        config, model.tokenizer, self.part, passes=Passes.ONCE
      )
      documents = list(source.documents(start=0))
    if self.portion is None:
      return [documents]
    return split_documents(documents, shares=self.portion.shares)

  def answers(
    self, model: Model, *, longest: int
  ) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Return each assistant's turn of conversations by what comes before it.

    A prompt of one of several parts that an earlier part has, too, is left
    out, so no prompt is in two parts.

    Args:
      model: its chat template writes them.
      longest: tokens of a prompt; longer ones are left out.

    Raises:
      EejaxError: the text cannot be read or has no conversations, or the
        model has no chat template.
    """
    if not self.has_conversations:
      raise ArgumentError(
        f"{self} has no conversations; read them with unit='conversation'."
      )
    config = self.data_config(sequence_length=1, batch_size=1)
    portions = self._portions(config, model)
    index = 0 if self.portion is None else self.portion.index
    found = dict(t for d in portions[index] for t in d.turns())
    earlier = {
      p for part in portions[:index] for d in part for p, _ in d.turns()
    }
    return {
      prompt: answer
      for prompt, answer in found.items()
      if len(prompt) <= longest and prompt not in earlier
    }

  def pieces(
    self, model: Model, *, length: int, max_tokens: int = 10**12
  ) -> list[tuple[int, ...]]:
    """Return pieces of exactly `length` tokens, spread over the text.

    Conversations have none, for their prompts end where answers begin; see
    `answers`.

    A piece of one of several parts that an earlier part has, too (files that
    begin alike), is left out, so no piece is in two parts.

    Raises:
      EejaxError: as of `rows`.
    """
    batches = self.rows(
      model, max_tokens=max_tokens, sequence_length=length, batch_size=64
    )
    pieces = _whole_rows(batches)
    if self.portion is not None and self.portion.index:
      portions = [
        dataclasses.replace(self.portion, index=index)
        for index in range(self.portion.index)
      ]
      earlier = {
        piece
        for portion in portions
        for piece in _whole_rows(
          dataclasses.replace(self, portion=portion).rows(
            model, max_tokens=10**12, sequence_length=length, batch_size=64
          )
        )
      }
      pieces = [piece for piece in pieces if piece not in earlier]
    return pieces

  def documents(self) -> Iterator[str]:
    """Yield the documents of the part, as text.

    Raises:
      EejaxError: the text cannot be read, comes through seqio as tokens, or
        is one of several parts, which are split by tokens.
    """
    if self.portion is not None:
      raise ArgumentError(
        'a part of a text is read by a model: take its rows or pieces.'
      )
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
    elif config.tokens_folder is not None:
      files.append([token_files.fingerprint(config.tokens_folder)])
    elif not config.uses_seqio:
      for file in corpus.find_files(self.source):
        files.append(list(store_folder.file_facts(file)))
    described = [self.source, self.part.value, self.unit.value, self.field]
    if self.portion is not None:
      described += [str(self.portion.index), str(self.portion.shares)]
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
    unit: what one document of a text file is: `file`, `paragraph` or `line`;
      or `conversation`: files are JSON lines with `messages`, and the
      assistant's turns alone are learned and measured.
    field: where the text is in the objects of a `.jsonl` file; of
      conversations 'text' is the usual `messages`.

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
  has_texts = not config.uses_seqio and config.tokens_folder is None
  if has_texts and not any(itertools.islice(text.documents(), 1)):
    raise ArgumentError(f'{text} has no text to read.')
  return text


def _whole_rows(batches: list[Batch]) -> list[tuple[int, ...]]:
  """Return the rows that have no padding."""
  return [
    tuple(row.tolist())
    for batch in batches
    for row, weights in zip(batch.tokens, batch.weights, strict=True)
    if weights.all()
  ]


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
