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
"""The verdict of `eejax.probe` on a text that an analysis captured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eejax.analysis.cost_model import decode_cost
from eejax.analysis.measurement import (
  MeasurementSettings,
  Prompt,
  natural_config,
)
from eejax.analysis.sections import SectionSettings
from eejax.capture.captured import Captured, ReadoutKind
from eejax.checkpoint.model import Model
from eejax.decoding.policy.policy import Mode, Policy
from eejax.evaluation.part_times import PartTimes
from eejax.progress import SILENT, Progress
from eejax.recipes.probe import (
  NUM_PROMPTS,
  PROMPT_TOKENS,
  SHARES,
  Question,
  natural_part_times,
  probe_captured,
)
from eejax.report import verdict_page


def verdict_section(
  model: Model,
  captured: Captured,
  settings: SectionSettings,
  *,
  dtype: str = 'float32',
  prompts: Mapping[int, Prompt] | None = None,
  measurement: MeasurementSettings | None = None,
  times: PartTimes | None = None,
  progress: Progress = SILENT,
) -> dict[str, Any]:
  """Return the verdict of `eejax.probe`, measured on this machine.

  Settings are chosen on the first rows of the text and forecast on others;
  beginnings of the last ones are prompts to measure on. Rows of a text stand
  in its order, so parts share a document at their borders at most.

  Args:
    model: that was captured.
    captured: a text of at least three rows.
    settings: of the sections.
    dtype: compute dtype.
    prompts: by row of the text, in place of the rows' beginnings.
    measurement: how it is measured; None is as `eejax.probe` does.
    times: of the parts of decoding, where they are known.
    progress: told of what is done.

  Raises:
    ArgumentError: the text is too short.
  """
  question = Question()
  if times is None:
    with progress.waiting('timing the parts of decoding'):
      times = natural_part_times(model, window=question.window, dtype=dtype)
  measurement = measurement or MeasurementSettings(dtype=dtype)
  chosen = captured.only(ReadoutKind.NATURAL, ReadoutKind.EXIT)
  rows = np.unique(chosen.row)
  ends = np.cumsum(SHARES) * len(rows) // sum(SHARES)
  read = np.isin(chosen.row, rows[: ends[1]])
  room = model.config.model.max_length - measurement.new_tokens
  result = probe_captured(
    model,
    chosen.at_positions(read),
    prompts=_prompts(chosen.at_positions(~read), prompts, room=room),
    question=question,
    search_rows=int(ends[0]),
    measurement=measurement,
    bootstrap=settings.bootstrap,
    times=times,
    progress=progress,
  )
  asking = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,), window=question.window)
  cost = decode_cost(
    natural_config(model.config.model, (1,)), asking, times=times
  )
  return {
    'kind': verdict_page.KINDS[result.verdict.answer],
    'headline': result.summary(),
    'sentences': result.sentences(),
    'ways': result.table(),
    'machine': result.verdict.machine,
    'verdict': result.verdict.to_json(),
    # What a step costs beside blocks and the head is paid for each draft, too.
    'head': cost.model.head_in_blocks + cost.step / cost.model.block,
    'windows': {n: cost.shared.of(n + 1) for n in settings.lengths},
  }


def _prompts(
  captured: Captured, by_row: Mapping[int, Prompt] | None, *, room: int
) -> Sequence[Prompt]:
  """Return prompts of a few rows, by default their beginnings."""
  if room < PROMPT_TOKENS:
    return ()
  prompts: list[Prompt] = []
  for row in np.unique(captured.row):
    if by_row is not None:
      if len(prompt := by_row.get(int(row), ())) in range(1, room + 1):
        prompts.append(prompt)
      continue
    tokens = captured.token[captured.row == row][:PROMPT_TOKENS]
    if len(tokens) == PROMPT_TOKENS:
      prompts.append(tokens.tolist())
  chosen = np.linspace(0, len(prompts) - 1, min(NUM_PROMPTS, len(prompts)))
  return [prompts[int(i)] for i in chosen.round()]
