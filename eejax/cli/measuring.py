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
"""What the verbs that measure a model have in common: the model, the text."""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.checkpoint.model import Model
  from eejax.data.batch import Batch, Packing
  from eejax.data.tokenizer import Tokenizer
  from eejax.stats.bootstrap import Interval

STANDARD_LIBRARY = 'stdlib'


def add_arguments(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
  """Add the arguments that name a model and a text."""
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='an eejax checkpoint or a Hugging Face folder',
  )
  group = parser.add_argument_group('text')
  group.add_argument(
    '--data',
    default=STANDARD_LIBRARY,
    metavar='FILE',
    help=(
      'a text or .jsonl file, a folder, a glob, seqio:TASK, tfds:NAME, or '
      "'stdlib', the standard library of this Python (default)"
    ),
  )
  group.add_argument(
    '--split',
    choices=('train', 'validation', 'test', 'all'),
    help='part of the text (default: validation of stdlib, all of a file)',
  )
  group.add_argument(
    '--unit',
    choices=('file', 'paragraph', 'line'),
    default='file',
    help='what one document of a text file is (default: file)',
  )
  group.add_argument(
    '--max-tokens',
    type=int,
    default=max_tokens,
    metavar='N',
    help=f'tokens read, spread over the text (default: {max_tokens})',
  )
  group.add_argument(
    '--sequence-length',
    type=int,
    metavar='N',
    help="tokens in a row (default: 256, or the model's context if shorter)",
  )
  group.add_argument(
    '--batch-size', type=int, default=4, metavar='N', help='rows at a time'
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in (default: float32)',
  )


@dataclasses.dataclass(frozen=True)
class Text:
  """Name a text to measure on.

  Attributes:
    data: where it comes from.
    split: which part, or None for the usual one.
    unit: what one document of a text file is.
    max_tokens: tokens read, spread over it.
    sequence_length: tokens in a row, or None for the usual number.
    batch_size: rows at a time.
  """

  data: str = STANDARD_LIBRARY
  split: str | None = None
  unit: str = 'file'
  max_tokens: int = 20_000
  sequence_length: int | None = None
  batch_size: int = 4

  @classmethod
  def of(cls, args: argparse.Namespace) -> 'Text':
    """Return the text that `add_arguments`' arguments name."""
    names = [f.name for f in dataclasses.fields(cls)]
    return cls(**{name: getattr(args, name) for name in names})

  @property
  def part(self) -> str:
    """Return the part that is read."""
    usual = 'validation' if self.data == STANDARD_LIBRARY else 'all'
    return self.split or usual

  def row_length(self, max_length: int) -> int:
    """Return how many tokens a row of a model of that context has.

    Raises:
      ArgumentError: more were asked for than the context has.
    """
    length = self.sequence_length or min(256, max_length)
    if length > max_length:
      raise ArgumentError(
        f'rows of {length} tokens are longer than the context of the model, '
        f'{max_length}; give a smaller --sequence-length.'
      )
    return length


def open_model(path: str | pathlib.Path, *, dtype: str) -> 'Model':
  """Return the model at `path`, an eejax checkpoint or a Hugging Face one.

  Raises:
    EejaxError: there is none, or it has no tokenizer.
  """
  from eejax.checkpoint import folder, huggingface, manifest
  from eejax.cli import output

  path = pathlib.Path(path)
  with output.waiting(f'reading {path}'):
    if (path / manifest.NAME).is_file() or not path.is_dir():
      model = folder.load(path, dtype=dtype)
    else:
      model = huggingface.import_folder(path, dtype=dtype)
  check_has_tokenizer(path, model)
  return model


def check_has_tokenizer(path: pathlib.Path, model: 'Model') -> None:
  """Raise an error that names `path` where its model reads no text."""
  if model.tokenizer_folder is None:
    raise ArgumentError(
      f'{path} has no tokenizer, so it can read no text; put its '
      'tokenizer.json there.'
    )


def open_tokenizer(model: 'Model') -> 'Tokenizer':
  """Return the tokenizer of a model that has one."""
  from eejax.data.tokenizer import Tokenizer, check_vocabulary

  assert model.tokenizer_folder is not None
  tokenizer = Tokenizer.load(model.tokenizer_folder)
  check_vocabulary(tokenizer, model.config.model.vocab_size)
  return tokenizer


def read_text(
  model: 'Model', text: Text, *, packing: 'Packing'
) -> 'list[Batch]':
  """Return rows of a text as a model reads it, spread over all of it.

  Raises:
    EejaxError: the text cannot be read, is empty, or is too long for a row.
  """
  from eejax.cli import output
  from eejax.data.batches import DataConfig, make_batches
  from eejax.data.corpus import Split, TextUnit
  from eejax.data.memory_source import Passes
  from eejax.evaluation.rows import spread_rows

  config = DataConfig(
    corpus=text.data,
    sequence_length=text.row_length(model.config.model.max_length),
    batch_size=64,
    packing=packing,
    unit=TextUnit(text.unit),
  )
  with output.waiting(f'reading {text.data}'):
    everything = make_batches(
      config, open_tokenizer(model), Split(text.part), passes=Passes.ONCE
    )
    return spread_rows(
      everything, max_tokens=text.max_tokens, batch_size=text.batch_size
    )


def usable_criteria(model: 'Model') -> tuple[str, ...]:
  """Return the criteria of one exit that every exit can be asked by."""
  from eejax.decoding.policy.criteria import registry

  return registry.usable_criteria(model.config.exits)


def plus_minus(interval: 'Interval', *, digits: int, scale: float = 1) -> str:
  """Return an estimate with its interval, as in `2.31 (2.25 to 2.38)`."""
  value, low, high = (
    f'{scale * x:.{digits}f}'
    for x in (interval.value, interval.low, interval.high)
  )
  return f'{value} ({low} to {high})'
