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
"""The model's own text, to be captured.

A model that decodes reads what it wrote, not what somebody else did, so
natural exits along its own text are those that decoding meets. The text is
the full model's greedy one; capturing it afterwards, in one pass, gives the
same distributions as decoding did, up to rounding.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.errors import ArgumentError
from eejax.types import DTypeLike, Params


def free_running(
  params: Params | Prepared,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Sequence[int]],
  new_tokens: int = 128,
  batch_size: int = 4,
  eos_ids: Sequence[int] | None = None,
  dtype: DTypeLike = 'float32',
) -> Iterator[Batch]:
  """Yield what the full model generates, a prompt a row.

  The positions that count are those that generated a token: a row's prompt
  but for its last token has no weight. All batches have one shape. Generating
  again gives the same batches, as a capture that goes on needs.

  Args:
    params: the model, as loaded or prepared.
    config: the model with its exits, which are not asked.
    prompts: token ids.
    new_tokens: tokens generated of each prompt at most; an end token, or the
      end of the context, ends a row sooner.
    batch_size: rows generated at a time.
    eos_ids: tokens that end a row; by default the model's.
    dtype: compute type, where `params` are not prepared yet.

  Raises:
    ArgumentError: there is no prompt, or one cannot be used.
  """
  if batch_size < 1:
    raise ArgumentError(f'batch_size must be at least 1, not {batch_size}.')
  if not prompts:
    raise ArgumentError('there is no prompt; give at least one.')
  plain = config.with_exits(())
  if not isinstance(params, Prepared):
    backbone = {'backbone': params['backbone'], 'exits': {}}
    params = prepare(backbone, config=plain, dtype=dtype)
  longest = max(max(map(len, prompts)), 1)
  width = min(longest + new_tokens, config.model.max_length) - 1
  for first in range(0, len(prompts), batch_size):
    result = generate(
      params,
      config=plain,
      prompts=prompts[first : first + batch_size],
      max_new_tokens=new_tokens,
      eos_ids=eos_ids,
    )
    yield generated_batch(
      [(r.prompt_tokens, r.tokens) for r in result.rows],
      rows=batch_size,
      length=max(width, 1),
    )


def generated_batch(
  texts: Sequence[tuple[Sequence[int], Sequence[int]]],
  *,
  rows: int,
  length: int,
) -> Batch:
  """Return prompts with their continuations, of which the latter count.

  Args:
    texts: prompt and continuation of each row.
    rows: of the batch, as many or more.
    length: columns of the batch, at least a text's tokens less one.
  """
  batch = Batch.padding(rows, sequence_length=length)
  for row, (prompt, tokens) in enumerate(texts):
    text = np.array([*prompt, *tokens], np.int32)
    end = len(text) - 1
    batch.tokens[row, :end] = text[:-1]
    batch.targets[row, :end] = text[1:]
    batch.weights[row, len(prompt) - 1 : end] = 1
    batch.positions[row, :end] = np.arange(end)
    batch.segment_ids[row, :end] = 1
  return batch
