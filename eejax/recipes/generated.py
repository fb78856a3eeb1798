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
"""What `eejax.generate` returns: texts, their exits, times and work."""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from eejax import serialization
from eejax.checkpoint.model import Model
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.pipelined.results import PipelinedResult, PipelineSteps
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import (
  DecodeResult,
  FinishReason,
  GeneratedRow,
  Timing,
)
from eejax.recipes.result import Result
from eejax.report import page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Texts that a notebook shows; more are counted.
MOST_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class GenerateResult(Result):
  """The continuations of some prompts.

  Attributes:
    rows: one a prompt, in their order; each has `prompt`, `text`, `tokens`,
      `exit_depths`, `scores`, `logprobs`, `finish_reason`, `accounting`.
    timing: wall-clock times of all batches.
    batch: what the batches read from memory.
    policy: the policy that was followed.
    levels: depths at which tokens can be emitted, full depth last.
    pipeline: steps of the pipeline, where tokens were decoded on a mesh.
  """

  rows: tuple[GeneratedRow, ...]
  timing: Timing
  batch: BatchAccounting
  policy: Policy
  levels: tuple[int, ...]
  pipeline: PipelineSteps | None = None

  title = 'Generated text'

  @classmethod
  def of(
    cls,
    results: Iterable[DecodeResult],
    *,
    policy: Policy,
    model: Model,
    prompts: Sequence[str | None],
  ) -> 'GenerateResult':
    """Return the result of batches that were decoded one after the other."""
    results = list(results)
    rows = [row for result in results for row in result.rows]
    full = model.config.model.num_layers
    # A token that the text drafted has run no block of its own: depth 0.
    depths = {*model.config.exit_depths, full}
    depths.update(depth for row in rows for depth in row.exit_depths)
    return cls(
      rows=tuple(
        dataclasses.replace(row, prompt=prompt)
        for row, prompt in zip(rows, prompts, strict=True)
      ),
      timing=sum((r.timing for r in results), start=Timing()),
      batch=sum((r.batch for r in results), start=BatchAccounting()),
      policy=policy,
      pipeline=_pipeline_steps(results),
      levels=tuple(sorted(depths)),
    )

  @property
  def texts(self) -> list[str] | None:
    """Return the generated texts; None where the model has no tokenizer."""
    texts = [row.text for row in self.rows if row.text is not None]
    return texts if len(texts) == len(self.rows) else None

  @property
  def accounting(self) -> Accounting:
    """Return the work of all rows together."""
    return sum((r.accounting for r in self.rows), start=Accounting())

  def summary(self) -> str:
    """Return how many tokens there are, how fast and how deep they came."""
    return '\n'.join(self.notes())

  def notes(self) -> list[str]:
    """Return the sentences of the summary."""
    notes = [self._speed()]
    if self.pipeline is not None:
      notes.append(self.pipeline.sentence())
    certificate = self.policy.certificate
    if certificate is not None:
      notes.append(certificate.sentence())
    if self.policy.mode is Mode.SPECULATIVE:
      notes.append(_drafts(self.accounting, num_rows=len(self.rows)))
    return [*notes, *_broken(self.rows)]

  def _speed(self) -> str:
    timing, work = self.timing, self.accounting
    tokens = sum(len(row.tokens) for row in self.rows)
    share = work.blocks_run / max(work.blocks_full, 1)
    return (
      f'{tokens} tokens, {timing.tokens_per_s:.1f} tokens/s (prefill '
      f'{timing.prefill_s:.2f} s, compilation {timing.compile_s:.1f} s); '
      f'{share:.0%} of the block-passes of full decoding'
    )

  def to_json(self) -> dict[str, Any]:
    """Return everything as plain values; it is what `--json` prints."""
    values = {
      'results': [_row_values(row) for row in self.rows],
      'timing': self.timing,
      'accounting': {
        **_work_values(self.accounting),
        **dataclasses.asdict(self.batch),
      },
      'mode': self.policy.mode,
      'policy': self.policy.to_json(),
    }
    if self.pipeline is not None:
      values['pipeline'] = {
        **dataclasses.asdict(self.pipeline),
        'speedup': self.pipeline.speedup,
      }
    return serialization.plain(values)

  def draw(self, axes: 'Axes') -> None:
    """Draw how many tokens were emitted at each depth."""
    depths = [d for row in self.rows for d in row.exit_depths]
    names = [str(d) for d in self.levels]
    axes.bar(names, [depths.count(d) for d in self.levels])
    axes.set_xlabel(f'depth at which a token was emitted ({names[-1]} is full)')
    axes.set_ylabel('tokens')

  def content(self) -> str:
    """Return what a page shows of the result, as HTML."""
    shown = self.rows[:MOST_SHOWN]
    content = [page.paragraph(note) for note in self.notes()]
    content.append(page.depth_legend(self.levels))
    content += [self._coloured(row) for row in shown]
    if len(shown) < len(self.rows):
      content.append(page.paragraph(f'{len(self.rows) - len(shown)} more ...'))
    return ''.join(content)

  def _coloured(self, row: GeneratedRow) -> str:
    pieces = row.pieces if row.text is not None else _as_pieces(row.tokens)
    return page.coloured_tokens(
      pieces,
      row.exit_depths,
      [
        f'depth {depth}' + ('' if score is None else f', score {score:.3f}')
        for depth, score in zip(row.exit_depths, row.scores, strict=True)
      ],
      levels=self.levels,
      prompt=row.prompt or '',
    )

  def __str__(self) -> str:
    texts = [
      f'{row.prompt or ""}{row.text}'
      if row.text is not None
      else str(row.tokens)
      for row in self.rows
    ]
    return '\n\n'.join([*texts, self.summary()])


def _pipeline_steps(results: Sequence[DecodeResult]) -> PipelineSteps | None:
  steps = [r.pipeline for r in results if isinstance(r, PipelinedResult)]
  return functools.reduce(operator.add, steps) if steps else None


def _as_pieces(tokens: Sequence[int]) -> list[str]:
  return [f'{token} ' for token in tokens]


def _row_values(row: GeneratedRow) -> dict[str, Any]:
  values = dataclasses.asdict(row)
  # Of a batch no prompt is an earlier request's.
  del values['pieces'], values['reused_tokens']
  if not any(row.top_logprobs):
    del values['top_logprobs']
  return {**values, 'accounting': _work_values(row.accounting)}


def _work_values(work: Accounting) -> dict[str, Any]:
  return {**dataclasses.asdict(work), 'acceptance': work.acceptance}


def _drafts(work: Accounting, *, num_rows: int) -> str:
  if not work.drafted:
    where = 'on this model'
    if num_rows > 1:
      where = 'for prompts that are decoded together; try one at a time'
    return (
      'no token was drafted: no exit was sure enough, or drafting does not pay '
      f'{where}'
    )
  kept = (
    f'{work.accepted} of {work.drafted} drafts were kept '
    f'({work.acceptance:.0%})'
  )
  if not work.looked_up:
    return kept
  return (
    f'{kept}; {work.looked_up_accepted} of {work.looked_up} that the text '
    'itself foretold'
  )


def _broken(rows: Sequence[GeneratedRow]) -> list[str]:
  """Return a sentence for each row that ended for want of finite logits."""
  return [
    f'prompt {number} ended after {len(row.tokens)} tokens because the logits '
    'of the model are no finite numbers there; the tokens before are good '
    '(try dtype float32, or check the checkpoint).'
    for number, row in enumerate(rows, start=1)
    if row.finish_reason is FinishReason.NON_FINITE
  ]
