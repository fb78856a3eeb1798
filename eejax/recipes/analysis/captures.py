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
"""Captures of an analysis: the given text, the model's own, a single string."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from eejax.capture.capture import capture
from eejax.capture.captured import Captured, ReadoutKind, TextKind
from eejax.capture.generated_text import free_running
from eejax.capture.settings import About, CaptureConfig
from eejax.checkpoint.model import Model
from eejax.data.batch import Batch
from eejax.errors import ArgumentError
from eejax.progress import SILENT, Progress
from eejax.recipes.text import Text, row_length

NATURAL_AND_EXITS = (ReadoutKind.NATURAL, ReadoutKind.EXIT)


@dataclasses.dataclass(frozen=True)
class RowSettings:
  """How much of a text is read, in which rows, and in which dtype.

  Attributes:
    max_tokens: tokens read at most, spread over the text.
    sequence_length: tokens in a row; None is 256, or the model's context
      where that is shorter.
    batch_size: rows at a time.
    dtype: compute dtype.
  """

  max_tokens: int = 16_000
  sequence_length: int | None = None
  batch_size: int = 4
  dtype: str = 'float32'

  def batches(
    self, model: Model, text: Text, *, progress: Progress = SILENT
  ) -> list[Batch]:
    """Return the rows of a text; `progress` is told what does not fit one.

    Raises:
      EejaxError: the text cannot be read, or does not fill one row.
    """
    batches = text.rows(
      model,
      max_tokens=self.max_tokens,
      sequence_length=self.sequence_length,
      batch_size=self.batch_size,
      progress=progress,
    )
    tokens = int(sum((batch.weights > 0).sum() for batch in batches))
    length = row_length(model, self.sequence_length)
    if tokens < length and not text.has_conversations:
      raise ArgumentError(
        f'{text} has {tokens} tokens to predict, fewer than one row of '
        f'{length}; give more text or a smaller sequence length.'
      )
    return batches


def capture_text(
  model: Model,
  text: Text,
  rows: RowSettings,
  *,
  kinds: Sequence[ReadoutKind] = NATURAL_AND_EXITS,
  path: pathlib.Path | None = None,
  progress: Progress = SILENT,
  title: str = 'reading every depth',
) -> Captured:
  """Capture a text.

  Args:
    model: reads it.
    text: what is read.
    rows: how it is read.
    kinds: read-outs that are captured.
    path: folder of the capture; None keeps it in memory.
    progress: is told each batch.
    title: what is being done, as `progress` shows it.

  Raises:
    EejaxError: the text cannot be read or does not fill one row, or the
      model's numbers are not finite.
  """
  with progress.waiting(f'reading {text.source}'):
    batches = rows.batches(model, text, progress=progress)
  return capture(
    model.params,
    progress.track(batches, title, unit='step'),
    config=model.config,
    settings=CaptureConfig(kinds=tuple(kinds), dtype=rows.dtype),
    path=path,
    about=About(
      model={'family': model.config.model.family},
      backbone_hash=model.backbone_hash or '',
      data={'name': text.source, 'split': text.part.value},
      tokenizer={'fingerprint': model.tokenizer.fingerprint},
    ),
  )


def capture_free_running(
  model: Model,
  captured: Captured,
  *,
  prompts: Sequence[Sequence[int]] | None = None,
  rows: int = 16,
  prompt_tokens: int = 24,
  new_tokens: int = 96,
  eos_ids: Sequence[int] | None = None,
  dtype: str = 'float32',
  progress: Progress = SILENT,
) -> Captured:
  """Capture the greedy text of the full model.

  Args:
    model: generates and reads.
    captured: a text whose rows begin the prompts.
    prompts: token ids, in place of those.
    rows: prompts at most.
    prompt_tokens: tokens of each prompt that begins a row, at most.
    new_tokens: tokens generated of each at most.
    eos_ids: tokens that end a text; by default the model's.
    dtype: compute dtype.
    progress: is told each batch.

  Raises:
    ArgumentError: no row has a token.
  """
  if prompts is None:
    prompts = row_prefixes(captured, rows=rows, tokens=prompt_tokens)
  prompts = prompts[:: max(len(prompts) // rows, 1)][:rows]
  batch_size = min(8, len(prompts))
  batches = free_running(
    model.params,
    config=model.config,
    prompts=prompts,
    new_tokens=new_tokens,
    batch_size=batch_size,
    eos_ids=eos_ids,
    dtype=dtype,
  )
  steps = -(-len(prompts) // batch_size)
  return capture(
    model.params,
    progress.track(batches, 'generating and reading', total=steps, unit='step'),
    config=model.config,
    settings=CaptureConfig(kinds=(ReadoutKind.NATURAL,), dtype=dtype),
    about=About(text=TextKind.FREE_RUNNING),
  )


def answer_prompts(
  batches: Sequence[Batch], *, longest: int
) -> dict[int, list[int]]:
  """Return what comes before the first answer of each row, by its number.

  Args:
    batches: rows of conversations.
    longest: tokens of a prompt; rows of a longer one have none.

  Raises:
    ArgumentError: no row has one.
  """
  found = {}
  rows = (row for b in batches for row in zip(b.tokens, b.weights, strict=True))
  for number, (tokens, weights) in enumerate(rows):
    counted = np.flatnonzero(weights > 0)
    # The first token that counts is the target of the prompt's last one.
    if len(counted) and counted[0] < longest:
      found[number] = tokens[: counted[0] + 1].tolist()
  if not found:
    raise ArgumentError(
      f'no answer begins in the first {longest} tokens of a conversation; the '
      'rest of the context is for answers of the model, so give shorter ones.'
    )
  return found


def row_prefixes(
  captured: Captured, *, rows: int, tokens: int = 24
) -> list[list[int]]:
  """Return the first tokens of some rows, spread over a captured text.

  Args:
    captured: the text.
    rows: prefixes at most.
    tokens: tokens of each at most. A row may hold several documents; a prefix
      ends with the first of them.
  """
  numbers = np.unique(captured.row)
  prefixes = []
  for row in numbers[:: max(len(numbers) // rows, 1)][:rows]:
    inside = captured.row == row
    first = captured.segment[inside] == captured.segment[inside][0]
    prefixes.append(captured.token[inside][first][:tokens].tolist())
  return prefixes


def capture_string(
  model: Model, text: str, *, dtype: str = 'float32'
) -> Captured:
  """Capture a string as one row; what exceeds the context is cut off.

  Raises:
    ArgumentError: it has fewer than two tokens.
  """
  # One more than a row holds, for the last token is only predicted.
  most = model.config.model.max_length + 1
  ids = model.tokenizer.encode_document(text)[:most]
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
