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
"""Probe: does early exit pay on a model, at which exits, and how much."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eejax import serialization
from eejax.analysis.candidate import Candidate
from eejax.analysis.candidate_search import (
  FIELDS,
  NUM_CANDIDATES,
  CandidateSearch,
  CostOf,
  SearchSettings,
  find_candidates,
)
from eejax.analysis.cost_model import decode_cost
from eejax.analysis.exit_placement import Budget
from eejax.analysis.measurement import (
  MeasurementSettings,
  Prompt,
  measure,
  natural_config,
)
from eejax.analysis.part_costs import model_cost
from eejax.analysis.verdict import THIS_MACHINE, Verdict
from eejax.capture.capture import CaptureConfig, capture
from eejax.capture.captured import Captured
from eejax.checkpoint.model import Model
from eejax.data.batch import Batch
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.check_use import Use, check_use
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.evaluation.part_times import PartTimes, part_times
from eejax.evaluation.wall_clock import Clock, wall_clock
from eejax.hardware import read_hardware
from eejax.parallel.mesh import MeshChoice
from eejax.progress import SILENT, Progress
from eejax.recipes.devices import on_mesh
from eejax.recipes.result import Result, interval_text
from eejax.recipes.text import Text
from eejax.report import verdict_page
from eejax.stats.bootstrap import DEFAULT, Bootstrap

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Parts of a text: to choose settings on, to forecast on, to measure on.
SHARES = (2, 2, 1)
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS, REPEATS = 8, 24, 48, 3


@dataclasses.dataclass(frozen=True)
class Question:
  """Question: what is asked of a model.

  Attributes:
    loss: share of tokens that may differ from full decoding, in [0, 1).
    max_exits: exits to choose at most.
    window: every `window`-th token at the latest goes to full depth.
    hardware: machine of `configs/hardware` to forecast for; None measures on
      this one.
  """

  loss: float = 0.05
  max_exits: int = 3
  window: int = 8
  hardware: str | None = None

  def __post_init__(self):
    if not 0 <= self.loss < 1:
      raise ArgumentError(f'loss must lie in [0, 1), not {self.loss}.')
    if self.max_exits < 1 or self.window < 1:
      raise ArgumentError('max_exits and window must be at least 1.')
    if self.hardware is not None:
      read_hardware(self.hardware)


@dataclasses.dataclass(frozen=True)
class ProbeResult(Result):
  """Result of probing: the verdict, and what every depth says.

  Attributes:
    verdict: the one answer, with every candidate behind it.
    search: what was chosen and forecast, every depth read naturally among it.
    text: that was read, in words.
    head_in_bytes: what the final head reads, in blocks.
  """

  verdict: Verdict
  search: CandidateSearch
  text: str
  head_in_bytes: float

  title = 'eejax probe'

  def summary(self) -> str:
    """Return the answer in a sentence."""
    return self.verdict.sentence()

  def table(self) -> list[dict[str, Any]]:
    """Return the lines of a table of all candidates."""
    return self.verdict.rows()

  def sentences(self) -> list[str]:
    """Return what stands behind the answer."""
    return [*self.verdict.sentences(), *verdict_page.reasons(self.search)]

  def depth_rows(self) -> list[dict[str, Any]]:
    """Return the lines of a table of every depth."""
    return [
      {
        'depth': d.depth,
        'loss': interval_text(d.loss, digits=3),
        'agrees with final %': interval_text(d.agreement, digits=1, scale=100),
        'first match here %': 100 * d.first_match,
        'stable from here %': 100 * d.stable,
      }
      for d in self.search.natural.depths
    ]

  def to_json(self) -> dict[str, Any]:
    """Return plain values; `answer` stands for all of it."""
    search = self.search
    return serialization.plain(
      {
        **self.verdict.to_json(),
        'text': self.text,
        'natural_exits': search.natural,
        'needed': search.needed,
        'settled': search.settled,
        'certify_sequences': search.certify_sequences,
        'head_in_blocks': search.head_in_blocks,
        'head_in_bytes': self.head_in_bytes,
        'window_factor': search.window_factor,
      }
    )

  def page(self) -> str:
    """Return a self-contained HTML page."""
    natural = self.search.natural
    facts = {
      'text': self.text,
      'tokens': f'{natural.tokens} in {natural.rows} rows',
      'machine': self.verdict.machine,
      'measured on': f'{self.verdict.prompts} prompts',
    }
    return verdict_page.render(self.verdict, self.search, facts)

  def draw(self, axes: 'Axes') -> None:
    """Draw agreement by depth, and name what was measured of candidates."""
    depths = self.search.natural.depths
    x = [d.depth for d in depths]
    agree = [d.agreement for d in depths]
    axes.plot(x, [a.value for a in agree], label='agrees with the final token')
    low, high = [a.low for a in agree], [a.high for a in agree]
    axes.fill_between(x, low, high, alpha=0.2)
    axes.plot(x, [self.search.settled[d] for d in x], label='settled by here')
    candidates = [c for c in self.verdict.candidates if c.speedup is not None]
    for depth in {d for c in candidates if c.uses_exits for d in c.depths}:
      axes.axvline(depth, color='grey', linestyle=':', linewidth=1)
    for c in candidates:
      # A line of words: speeds and depths share no axis.
      axes.plot([], [], ' ', label=_in_words(c))
    axes.set(xlabel='depth', ylabel='share of tokens', ylim=(0, 1.02))
    axes.legend(fontsize='small')


def _in_words(candidate: Candidate) -> str:
  assert candidate.speedup is not None
  speed = f'{candidate.speedup.value:.2f}x'
  if not candidate.uses_exits or not candidate.depths:
    return f'{speed} {candidate.name}'
  return f'{speed} {candidate.name} (at {max(candidate.depths)})'


def probe(
  model: Model,
  text: Text | None = None,
  *,
  loss: float = 0.05,
  max_exits: int = 3,
  window: int = 8,
  hardware: str | None = None,
  max_tokens: int = 8_000,
  sequence_length: int | None = None,
  batch_size: int = 4,
  num_prompts: int = NUM_PROMPTS,
  new_tokens: int = NEW_TOKENS,
  repeats: int = REPEATS,
  policy: Policy | None = None,
  dtype: str = 'float32',
  times: PartTimes | None = None,
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
  clock: Clock = wall_clock,
) -> ProbeResult:
  """Return whether early exit pays on a model, and where.

  Every depth is read with the model's own final norm and head, and trained
  exits with theirs, teacher-forced over a text. The best exits, scores and
  thresholds are chosen on one part of the text, forecast on another, and
  measured on prompts of a third, generating freely in turns with full
  decoding; parts share no document. Of conversations the assistant's turns
  are read, and prompts end where one begins.

  Args:
    model: with a tokenizer, and with exits or without.
    text: what is read; None is the validation part of the standard library.
    loss: share of tokens that may differ from full decoding, in [0, 1).
    max_exits: exits to choose at most.
    window: every `window`-th token at the latest goes to full depth.
    hardware: machine of `configs/hardware`, or a file like those, to forecast
      for; None measures on this one.
    max_tokens: tokens that are read, spread over the text.
    sequence_length: tokens in a row; None is 256, or the model's context where
      that is shorter.
    batch_size: rows at a time.
    num_prompts: prompts to measure on; of text they have 24 tokens.
    new_tokens: generated after each.
    repeats: rounds that are timed.
    policy: one more candidate, such as `eejax.calibrate` returns; it must have
      been fitted on another text.
    dtype: what is computed in.
    times: of the parts of decoding, where they are known.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    progress: told of what is done.
    clock: returns the times of a decoding, of which prefill does not count.

  Raises:
    EejaxError: the text cannot be read or is too short, the model has one
      block or returns numbers that are not finite, or an argument is out of
      range.

  Example:
    >>> import eejax
    >>> result = eejax.probe(eejax.load('default'))  # doctest: +SKIP
    >>> print(result.verdict.answer.value)  # doctest: +SKIP
    no
  """
  question = Question(loss, max_exits, window, hardware)
  given = []
  if policy is not None:
    use = Use(dtype=dtype, max_new_tokens=new_tokens)
    check_use(policy, model, use, progress=progress)
    given.append(Candidate.of_policy(policy, depths=model.config.exit_depths))
  if model.config.model.num_layers < 2:
    raise ArgumentError(
      'a model of one block has no depth to exit at; take a deeper one.'
    )
  text = (text or Text()).unseen_by(model)
  *read, report = text.parts(*SHARES)
  parts = [
    part.rows(
      model,
      max_tokens=max(max_tokens // 2, 1),
      sequence_length=sequence_length,
      batch_size=batch_size,
      progress=progress,
    )
    for part in read
  ]
  model = on_mesh(model, mesh)
  captured = capture(
    model.params,
    progress.track([b for p in parts for b in p], 'probing', unit='step'),
    config=model.config,
    settings=CaptureConfig(
      fields=FIELDS, num_candidates=NUM_CANDIDATES, dtype=dtype
    ),
  )
  return probe_captured(
    model,
    captured,
    question=question,
    prompts=()
    if hardware is not None
    else _prompts(model, report, count=num_prompts, new_tokens=new_tokens),
    search_rows=_filled_rows(parts[0]),
    text=str(text),
    measurement=MeasurementSettings(new_tokens, repeats, dtype, clock),
    given=given,
    times=times,
    progress=progress,
  )


def probe_captured(
  model: Model,
  captured: Captured,
  *,
  prompts: Sequence[Prompt],
  question: Question = Question(),
  search_rows: int | None = None,
  text: str = '',
  measurement: MeasurementSettings | None = None,
  given: Sequence[Candidate] = (),
  bootstrap: Bootstrap = DEFAULT,
  times: PartTimes | None = None,
  progress: Progress = SILENT,
) -> ProbeResult:
  """Return the same of a text that was captured before.

  Args:
    model: that was captured.
    captured: with the fields that `find_candidates` needs.
    prompts: to measure on, of no captured document; without any, the answer
      is a forecast.
    question: what is asked.
    search_rows: rows that settings are chosen on, the first ones; None is the
      first half.
    text: that was captured, in words.
    measurement: how it is measured; None is as `probe` does.
    given: candidates besides those that are searched for.
    bootstrap: how intervals of forecasts are made.
    times: of the parts of decoding, where they are known.
    progress: told of what is done.

  Raises:
    EejaxError: the captured text is too short.
  """
  measurement = measurement or MeasurementSettings()
  cost_of, machine = _costs(
    model, question, dtype=measurement.dtype, times=times, progress=progress
  )
  with progress.waiting('searching for exits'):
    search = find_candidates(
      captured,
      config=model.config,
      cost_of=cost_of,
      search_rows=search_rows,
      settings=SearchSettings(
        question.window,
        Budget(1 - question.loss, question.max_exits),
        bootstrap,
      ),
    )
  candidates, noise = (*search.candidates, *given), None
  if prompts and question.hardware is None:
    candidates, noise = measure(
      model, candidates, prompts, settings=measurement, progress=progress
    )
  verdict = Verdict(
    candidates=candidates,
    budget=question.loss,
    noise=noise,
    prompts=0 if noise is None else len(prompts),
    new_tokens=measurement.new_tokens,
    machine=machine,
    has_trained_exits=bool(model.config.exits),
  )
  bare = model_cost(model.config.with_exits(()))
  return ProbeResult(verdict, search, text, bare.head_in_blocks)


def _prompts(
  model: Model, text: Text, *, count: int, new_tokens: int
) -> list[Prompt]:
  """Return prompts spread over a text; none where a context has no room."""
  room = model.config.model.max_length - new_tokens
  if room < PROMPT_TOKENS:
    return []
  if text.has_conversations:
    pieces = list(text.answers(model, longest=room))
  else:
    pieces = text.pieces(model, length=PROMPT_TOKENS)
  chosen = np.linspace(0, len(pieces) - 1, min(count, len(pieces)))
  return [pieces[int(i)] for i in chosen.round()]


def _filled_rows(batches: Sequence[Batch]) -> int:
  return int(sum((b.weights > 0).any(axis=1).sum() for b in batches))


def _costs(
  model: Model,
  question: Question,
  *,
  dtype: str,
  times: PartTimes | None,
  progress: Progress,
) -> tuple[CostOf, str]:
  """Return what decoding costs, on the machine in question, and its name."""
  if question.hardware is not None:
    machine = read_hardware(question.hardware)
    cost_of = functools.partial(decode_cost, hardware=machine, dtype=dtype)
    return cost_of, f'{machine.name} (roofline)'
  if times is None:
    with progress.waiting('timing the parts of decoding'):
      times = natural_part_times(model, window=question.window, dtype=dtype)
  return functools.partial(decode_cost, times=times), THIS_MACHINE


def natural_part_times(model: Model, *, window: int, dtype: str) -> PartTimes:
  """Return the times of the parts, with one exit that reads the head."""
  bare = model.config.model
  config = natural_config(bare, [max(1, bare.num_layers // 4)])
  norm = model.params['backbone']['final_norm']
  params = {**model.params, 'exits': {config.exits[0].name: {'norm': norm}}}
  return part_times(
    prepare(params, config=config, dtype=dtype),
    config=config,
    window=window,
  )
