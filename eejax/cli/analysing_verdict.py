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
"""Ask what `eejax probe` asks, of a text that is captured already."""

from typing import TYPE_CHECKING, Any

from eejax.analysis.sections import SectionSettings

if TYPE_CHECKING:
  from eejax.capture.captured import Captured
  from eejax.checkpoint.model import Model


def judged(
  model: 'Model',
  captured: 'Captured',
  settings: SectionSettings,
  *,
  dtype: str,
) -> dict[str, Any]:
  """Return the verdict of `eejax probe`, timed on this machine."""
  from eejax.analysis import judging
  from eejax.analysis.placement import Budget
  from eejax.capture.captured import ReadoutKind
  from eejax.cli import output, probe, probe_timing
  from eejax.report import verdict_page

  question = probe.Question()
  chosen = captured.only(ReadoutKind.NATURAL, ReadoutKind.EXIT)
  cost_for, machine = probe.costs(model, question, dtype=dtype)
  found = judging.judge(
    chosen,
    config=model.config,
    cost_for=cost_for,
    machine=machine,
    window=question.window,
    budget=Budget(1 - question.loss, question.max_exits),
    bootstrap=settings.bootstrap,
  )
  with output.waiting('timing what should pay'):
    found = probe_timing.with_times(
      found, model, chosen, window=question.window, dtype=dtype
    )
  cost = cost_for(judging.natural_config(model.config.model, (1,)), 'max_prob')
  kinds = {'yes': 'yes', 'unclear': 'maybe', 'no': 'no'}
  return {
    'kind': kinds[found.answer.value],
    'headline': found.headline(),
    'sentences': found.sentences(),
    'ways': verdict_page.way_rows(found),
    'machine': machine,
    # What a step costs beside blocks and the head is paid for each draft, too.
    'head': cost.model.head_in_blocks + cost.step / cost.model.block,
    'windows': {n: cost.shared.of(n + 1) for n in settings.lengths},
  }
