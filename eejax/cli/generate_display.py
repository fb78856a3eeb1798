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
"""What `eejax generate` shows a person: progress, texts, exits, a last line."""

import contextlib
from typing import TYPE_CHECKING, Any

from eejax.cli import output
from eejax.decoding.policy.policy import Mode
from eejax.decoding.results import FinishReason

if TYPE_CHECKING:
  from eejax.cli.exit_colours import Painter
  from eejax.decoding.results import GeneratedRow, TokenUpdate


class Listener:
  """Tell a person what happens: compiling, then tokens as they come."""

  def __init__(
    self, *, total: int, prompt: str | None, painter: 'Painter | None'
  ):
    """Start to listen.

    Args:
      total: tokens there will be at most.
      prompt: begins the text that is streamed; None shows progress instead.
      painter: colours what is streamed, or None.
    """
    self._total, self._prompt, self._painter = total, prompt, painter
    self._compiling = contextlib.ExitStack()
    self._progress: Any = None

  def __enter__(self) -> None:
    # Until the first tokens come, programs are compiled.
    self._compiling.enter_context(output.waiting('compiling'))

  def take(self, update: 'TokenUpdate') -> None:
    """Show what a row emitted."""
    self._compiling.close()
    if self._prompt is None:
      if self._progress is None:
        self._progress = output.progress(
          'generating', total=self._total, unit='token'
        )
      self._progress.update(len(update.tokens))
      return
    text = ''.join(update.pieces)
    if self._painter is not None:
      text = self._painter.paint(update.pieces, update.exit_depths)
    print(self._prompt + text, end='', flush=True)
    self._prompt = ''

  def __exit__(self, *_: object) -> None:
    self._compiling.close()
    if self._progress is not None:
      self._progress.close()
    if self._prompt == '':
      print()


def show_row(
  prompt: str,
  row: 'GeneratedRow',
  painter: 'Painter | None',
  *,
  is_streamed: bool,
) -> None:
  """Print a row's text, unless it was streamed, and its exits."""
  text = row.text or ''
  if painter is not None:
    text = painter.paint(row.pieces, row.exit_depths)
  if not is_streamed:
    output.show(prompt + text)
  if painter is not None and not painter.has_colours:
    output.show(f'exit depths: {" ".join(map(str, row.exit_depths))}')


def closing_lines(summary: dict[str, Any]) -> list[str]:
  """Return sentences on a summary: how many tokens, how fast, how deep."""
  timing, work = summary['timing'], summary['accounting']
  tokens = sum(len(r['tokens']) for r in summary['results'])
  share = work['blocks_run'] / max(work['blocks_full'], 1)
  lines = [
    f'{tokens} tokens, {timing["tokens_per_s"]:.1f} tokens/s (prefill '
    f'{timing["prefill_s"]:.2f} s, compilation {timing["compile_s"]:.1f} s); '
    f'{share:.0%} of the block-passes of full decoding'
  ]
  if summary['mode'] is Mode.SPECULATIVE:
    lines.append(_drafts(work, num_rows=len(summary['results'])))
  return [*lines, *_broken_rows(summary['results'])]


def _drafts(work: dict[str, Any], *, num_rows: int) -> str:
  if not work['drafted']:
    where = 'on this model'
    if num_rows > 1:
      where = 'for prompts that are decoded together; try one at a time'
    return (
      'no token was drafted: no exit was sure enough, or drafting does not pay '
      f'{where}'
    )
  kept = (
    f'{work["accepted"]} of {work["drafted"]} drafts were kept '
    f'({work["acceptance"]:.0%})'
  )
  if not work['looked_up']:
    return kept
  return (
    f'{kept}; {work["looked_up_accepted"]} of {work["looked_up"]} that the '
    'text itself foretold'
  )


def _broken_rows(rows: list[dict[str, Any]]) -> list[str]:
  return [
    f'prompt {number} ended after {len(row["tokens"])} tokens because the '
    'logits of the model are no finite numbers there; the tokens before are '
    'good (try --dtype float32, or check the checkpoint).'
    for number, row in enumerate(rows, start=1)
    if row['finish_reason'] is FinishReason.NON_FINITE
  ]
