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
"""Capture texts for an analysis, with progress and checks of their length."""

import enum
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from eejax.cli import measuring, output
from eejax.cli.measuring import Text
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.capture.captured import Captured
  from eejax.checkpoint.model import Model
  from eejax.data.batch import Batch
  from eejax.data.tokenizer import Tokenizer


class Reads(enum.Enum):
  """Where a model is read.

  BLOCKS: after every block, and at trained exits. ATTENTION: also between the
  attention and the MLP of every block.
  """

  BLOCKS = 'blocks'
  ATTENTION = 'attention'


class Generates(enum.Enum):
  """Whether the model generates, which takes longest with a large one.

  TEXTS: natural exits on its own text, and what stand-ins for keys and values
  do. NOTHING: neither.
  """

  TEXTS = 'texts'
  NOTHING = 'nothing'


def capture_text(
  model: 'Model',
  text: Text,
  reads: Reads,
  *,
  path: pathlib.Path | None,
  dtype: str,
  name: str = 'reading every depth',
) -> 'Captured':
  """Capture a text with a model, with progress.

  Raises:
    EejaxError: the text is too short, or the model's numbers are not finite.
  """
  from eejax.capture.capture import capture
  from eejax.capture.captured import ReadoutKind
  from eejax.capture.settings import About, CaptureConfig
  from eejax.data.batch import Packing

  batches = measuring.read_text(model, text, packing=Packing.ONE_PER_ROW)
  check_length(batches, text, model)
  kinds = [ReadoutKind.NATURAL, ReadoutKind.EXIT]
  if reads is Reads.ATTENTION:
    kinds.append(ReadoutKind.ATTENTION)
  tokenizer = measuring.open_tokenizer(model)
  return capture(
    model.params,
    output.track(batches, name, unit='step'),
    config=model.config,
    settings=CaptureConfig(kinds=tuple(kinds), dtype=dtype),
    path=path,
    about=About(
      model={'family': model.config.model.family},
      backbone_hash=model.backbone_hash or '',
      data={'name': text.data, 'split': text.part},
      tokenizer={'fingerprint': tokenizer.fingerprint},
    ),
  )


def check_length(
  batches: 'Sequence[Batch]', text: Text, model: 'Model'
) -> None:
  """Raise an error where a text does not fill one row.

  Raises:
    ArgumentError: it has fewer tokens than a row.
  """
  tokens = int(sum((batch.weights > 0).sum() for batch in batches))
  length = text.row_length(model.config.model.max_length)
  if tokens < length:
    raise ArgumentError(
      f'{text.data} ({text.part}) has {tokens} tokens to predict, fewer than '
      f'one row of {length}; give more text or a smaller --sequence-length.'
    )


def capture_own_text(
  model: 'Model',
  given: 'Captured',
  *,
  dtype: str,
  rows: int = 16,
  prompt_tokens: int = 24,
  new_tokens: int = 96,
) -> 'Captured':
  """Capture what the full model itself goes on to write.

  Args:
    model: the model.
    given: a captured text, whose rows' beginnings are gone on with.
    dtype: compute dtype.
    rows: how many of them at most.
    prompt_tokens: tokens of each that are given, at most.
    new_tokens: tokens written, at most.

  Raises:
    ArgumentError: no row has a token.
  """
  from eejax.capture.capture import capture
  from eejax.capture.captured import ReadoutKind, TextKind
  from eejax.capture.generated_text import free_running
  from eejax.capture.settings import About, CaptureConfig

  prompts = beginnings(given, rows=rows, tokens=prompt_tokens)
  batches = free_running(
    model.params,
    config=model.config,
    prompts=prompts,
    new_tokens=new_tokens,
    batch_size=min(8, len(prompts)),
    dtype=dtype,
  )
  steps = -(-len(prompts) // min(8, len(prompts)))
  return capture(
    model.params,
    output.track(batches, 'writing and reading', total=steps, unit='step'),
    config=model.config,
    settings=CaptureConfig(kinds=(ReadoutKind.NATURAL,), dtype=dtype),
    about=About(text=TextKind.FREE_RUNNING),
  )


def beginnings(
  captured: 'Captured', *, rows: int, tokens: int = 24
) -> list[list[int]]:
  """Return how rows of a text begin, spread over it.

  Args:
    captured: the text.
    rows: how many at most.
    tokens: of each at most; a row may hold several documents, and what
      follows the first is none of its beginning.
  """
  found = np.unique(captured.row)
  prompts = []
  for row in found[:: max(len(found) // rows, 1)][:rows]:
    inside = captured.row == row
    first = captured.segment[inside] == captured.segment[inside][0]
    prompts.append(captured.token[inside][first][:tokens].tolist())
  return prompts


def capture_words(
  model: 'Model', tokenizer: 'Tokenizer', text: str, dtype: str
) -> 'Captured':
  """Capture a text given as words, as one row.

  Raises:
    ArgumentError: it has fewer than two tokens.
  """
  from eejax.capture.capture import capture
  from eejax.capture.captured import ReadoutKind
  from eejax.capture.settings import CaptureConfig
  from eejax.data.batch import Batch

  # One more than a row holds, for the last one is predicted alone.
  most = model.config.model.max_length + 1
  ids = tokenizer.encode_document(text)[:most]
  if len(ids) < 2:
    raise ArgumentError(f'the text {text!r} has no token to predict.')
  batch = Batch.padding(1, sequence_length=len(ids) - 1)
  batch.tokens[0], batch.targets[0] = ids[:-1], ids[1:]
  batch.weights[0], batch.segment_ids[0] = 1, 1
  batch.positions[0] = np.arange(len(ids) - 1)
  return capture(
    model.params,
    [batch],
    config=model.config,
    settings=CaptureConfig(
      kinds=(ReadoutKind.NATURAL,),
      fields=('top_tokens', 'top_log_probs'),
      dtype=dtype,
    ),
  )
