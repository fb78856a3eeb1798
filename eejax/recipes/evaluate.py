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
"""Evaluate every exit of a model on a text."""

import dataclasses
from typing import TYPE_CHECKING, Any

from eejax import formatting, serialization
from eejax.analysis.cost_model import decode_cost
from eejax.checkpoint.model import Model
from eejax.data.batch import Packing
from eejax.decoding.policy.criteria import default_criterion, get_criterion
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.policy.threshold_values import format_thresholds
from eejax.errors import ArgumentError
from eejax.evaluation import perplexity, scores
from eejax.evaluation import sweep as sweep_lib
from eejax.evaluation.perplexity import Evaluation
from eejax.evaluation.sweep import Search, SweepPoint, ThresholdSearchResult
from eejax.parallel.mesh import MeshChoice
from eejax.progress import SILENT, Progress
from eejax.recipes.devices import on_mesh
from eejax.recipes.result import Result, interval_text
from eejax.recipes.text import Text
from eejax.report import page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

MAX_TOKENS = 20_000


@dataclasses.dataclass(frozen=True)
class SweepResult:
  """Speed against quality along thresholds, by replay of one logged pass.

  Attributes:
    criterion: the score.
    window: every `window`-th token goes through the whole model.
    tokens: of the text.
    exit_depths: blocks before each exit.
    points: one threshold for all exits each, the last of them `never`.
    calibrated: the cheapest thresholds for each exit that keep an agreement.
  """

  criterion: str
  window: int
  tokens: int
  exit_depths: tuple[int, ...]
  points: tuple[SweepPoint, ...]
  calibrated: ThresholdSearchResult

  def rows(self, num_layers: int) -> list[dict[str, Any]]:
    """Return a line for each threshold."""
    depths = (*self.exit_depths, num_layers)
    return [
      {
        'threshold': format_thresholds(
          p.thresholds[:1] if len(set(p.thresholds)) == 1 else p.thresholds
        ),
        'agreement %': interval_text(p.agreement, digits=2, scale=100),
        **{
          f'% at {depth}': 100 * share
          for depth, share in zip(depths, p.exit_shares, strict=True)
        },
        'mean depth': p.mean_depth,
        'predicted speed-up': p.predicted_speedup,
      }
      for p in self.points
    ]

  def sentence(self) -> str:
    """Return what the search for thresholds found."""
    best, point = self.calibrated, self.calibrated.held_out
    return (
      f'cheapest thresholds for {best.target:.1%} agreement: '
      f'{format_thresholds(best.thresholds)}. On text they were not chosen on '
      f'they agree at {interval_text(point.agreement, digits=2, scale=100)} % '
      f'of the tokens, emit at depth {point.mean_depth:.1f} on average, and '
      f'should decode {point.predicted_speedup:.2f} times as fast at batch 1 '
      '(by bytes read; empirical, teacher-forced).'
    )


@dataclasses.dataclass(frozen=True)
class EvaluateResult(Result):
  """Quality of every exit and the final head on a text.

  Attributes:
    text: what was read.
    dtype: what was computed in.
    quality: loss, perplexity, accuracy and agreement of every head, with
      intervals.
    sweep: speed against quality, where it was asked for.
  """

  text: Text
  dtype: str
  quality: Evaluation
  sweep: SweepResult | None = None

  title = 'Exits on a text'

  def summary(self) -> str:
    """Return what was read, and how intervals were made."""
    quality = self.quality
    return (
      f'{quality.tokens} tokens of {self.text}, {quality.rows} rows. '
      f'{quality.confidence:.0%} intervals: {quality.intervals}; agreement '
      'with the final head is teacher-forced.'
    )

  def table(self) -> list[dict[str, Any]]:
    """Return a line for each head."""
    return [
      {
        'head': head.name,
        'depth': head.depth,
        'loss': interval_text(head.loss, digits=3),
        'perplexity': head.perplexity.value,
        'top-1 %': interval_text(head.accuracy, digits=1, scale=100),
        'agrees with final %': interval_text(
          head.agreement, digits=1, scale=100
        ),
        'loss above final': interval_text(head.loss_gap, digits=3),
      }
      for head in self.quality.heads
    ]

  def to_json(self) -> dict[str, Any]:
    """Return everything as plain values."""
    values = {
      'data': self.text.source,
      'split': self.text.part,
      'dtype': self.dtype,
      'quality': self.quality,
    }
    if self.sweep is not None:
      values['sweep'] = self.sweep
    return serialization.plain(values)

  def draw(self, axes: 'Axes') -> None:
    """Draw speed against agreement; without a sweep loss against depth."""
    if self.sweep is None:
      depths = [head.depth for head in self.quality.heads]
      axes.plot(depths, [h.loss.value for h in self.quality.heads], 'o-')
      axes.set_xlabel('depth, blocks')
      axes.set_ylabel('loss, nats a token')
      return
    points = self.sweep.points
    axes.plot(
      [100 * p.agreement.value for p in points],
      [p.predicted_speedup for p in points],
      'o-',
    )
    axes.set_xlabel('agreement with full decoding, %')
    axes.set_ylabel('speed-up, predicted')

  def _sweep_title(self) -> str:
    assert self.sweep is not None
    return f'Criterion {self.sweep.criterion}, one threshold for all exits'

  def _sweep_rows(self) -> list[dict[str, Any]]:
    assert self.sweep is not None
    return self.sweep.rows(self.quality.heads[-1].depth)

  def content(self) -> str:
    """Return what a page shows of the result, as HTML."""
    content = super().content()
    if self.sweep is None:
      return content
    return content + page.section(
      self._sweep_title(),
      page.table(self._sweep_rows()),
      page.paragraph(self.sweep.sentence()),
    )

  def __str__(self) -> str:
    text = super().__str__()
    if self.sweep is None:
      return text
    table = formatting.table(self._sweep_rows())
    parts = (text, self._sweep_title(), table, self.sweep.sentence())
    return '\n\n'.join(parts)


def evaluate(
  model: Model,
  text: Text | None = None,
  *,
  max_tokens: int = MAX_TOKENS,
  sequence_length: int | None = None,
  batch_size: int = 4,
  sweep: bool = False,
  criterion: str | None = None,
  target: float = 0.97,
  window: int = 8,
  dtype: str = 'float32',
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
) -> EvaluateResult:
  """Measure loss and perplexity of every exit and of the final head.

  Args:
    model: with or without exits; a sweep needs some.
    text: what is read; None is the standard library's validation part.
    max_tokens: tokens read, spread over the text.
    sequence_length: tokens in a row; None is 256, or the model's context where
      that is shorter.
    batch_size: rows at a time.
    sweep: whether to add agreement, exits and predicted speed for many
      thresholds.
    criterion: the score of the sweep; None is `gate` where every exit has one,
      else `max_prob`.
    target: agreement, in (0, 1], that thresholds for each exit are searched
      for.
    window: of the decoder: every `window`-th token goes through the whole
      model.
    dtype: what is computed in, `float32` or `bfloat16`.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    progress: is told of every batch.

  Returns:
    The quality of every head, with intervals over rows.

  Raises:
    EejaxError: the text cannot be read or is too short, the model has no
      tokenizer, a sweep finds no exits or no such criterion, or the mesh does
      not fit the model.

  Example:
    >>> import eejax
    >>> model = eejax.load('default')
    >>> result = eejax.evaluate(model, max_tokens=64, sequence_length=32)
    >>> [head.name for head in result.quality.heads]
    ['final']
  """
  text = (text or Text()).unseen_by(model)
  search = Search(target=target)
  if sweep:
    _check_sweep(model, criterion)
  read = lambda packing: text.rows(
    model,
    max_tokens=max_tokens,
    sequence_length=sequence_length,
    batch_size=batch_size,
    packing=packing,
    progress=progress,
  )
  with progress.waiting(f'reading {text.source}'):
    batches = read(Packing.PACKED)
  model = on_mesh(model, mesh)
  quality = perplexity.evaluate(
    model.params,
    progress.track(batches, 'evaluating', unit='step'),
    config=model.config,
    dtype=dtype,
  )
  result = EvaluateResult(text, dtype, quality)
  if not sweep:
    return result
  name = criterion or default_criterion(model.config)
  with progress.waiting(f'reading {text.source}'):
    batches = read(Packing.ONE_PER_ROW)
  logged = scores.collect_scores(
    model.params,
    progress.track(batches, 'scoring', unit='step'),
    config=model.config,
    criteria=(name,),
    dtype=dtype,
  )[name]
  with progress.waiting('searching thresholds'):
    swept = _sweep(model, logged, window=window, search=search)
  return dataclasses.replace(result, sweep=swept)


def _check_sweep(model: Model, criterion: str | None) -> None:
  """Refuse a sweep that cannot be made, before the text is read."""
  if not model.config.exits:
    raise ArgumentError(
      'the model has no exits, so there is no sweep; add some and tune them.'
    )
  if criterion is not None:
    get_criterion(criterion).check(model.config.exits)


def _sweep(
  model: Model, logged: scores.ExitScores, *, window: int, search: Search
) -> SweepResult:
  asked = Policy(Mode.EARLY_EXIT, logged.criterion, (0.5,), window=window)
  cost = decode_cost(model.config, asked)
  points = sweep_lib.sweep(logged, window=window, speedup=cost.speedup)
  return SweepResult(
    criterion=logged.criterion,
    window=window,
    tokens=logged.num_tokens,
    exit_depths=tuple(logged.depths),
    points=tuple(points),
    calibrated=sweep_lib.calibrate(
      logged, window=window, speedup=cost.speedup, search=search
    ),
  )
