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
"""The early-exit adaptability score of a model, (eejax definition).

At every depth l, how alike its read-out is to the full model's, S_l, and how
much stopping there would skip, w_l, go into one number:

  w_l = (L - l) / L
  EAS = mean over depths l of S_l^alpha w_l^(1 - alpha)

Wei et al. (2026), The Diminishing Returns of Early-Exit Decoding in Modern
LLMs, arXiv 2603.23701, call it the Early-Exit Adaptability Score. Its form, a
weighted geometric mean averaged over layers, is known from descriptions of
that paper; its alpha, the similarity, the depths and the positions are not.
They are arguments here, and stand beside every score, which is why the name
says "(eejax definition)": scores compare with scores of equal settings alone.

A score averages shallow depths too, and may be high where no exit is usable.
Never read it without the ceilings of `eejax.analysis.suitability.headroom`.
"""

import dataclasses
import enum
import math
from collections.abc import Callable

import numpy as np

from eejax.capture.captured import Captured, ReadoutKind
from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError, EejaxError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  function_interval,
  ratio_interval,
)
from eejax.types import Bool, Float

NAME = 'EAS (eejax definition)'


class Similarity(enum.Enum):
  """How alike a depth's read-out is to the full model's, 0 to 1.

  LOGIT_COSINE: cosine of the logits, each less its mean; below 0 counts as 0.
    The mean is taken off because a constant added to all logits changes no
    probability and yet moves the cosine towards 1.
  HIDDEN_COSINE: cosine of the streams, both after the final norm.
  TOP_K: share of the likeliest K tokens that both have.
  JS: 1 - JS(p_l, p_L) / ln 2.
  TOP1: 1 where the likeliest token is the same; S_l is then the agreement.
  """

  LOGIT_COSINE = 'logit_cosine'
  HIDDEN_COSINE = 'hidden_cosine'
  TOP_K = 'top_k'
  JS = 'js'
  TOP1 = 'top1'


class DepthRange(enum.Enum):
  """Which depths a score averages over.

  INNER: 1 to L - 1, where an exit could stand. WITH_LAST: 1 to L; the last
  adds nothing but its place in the mean. WITH_EMBEDDING: 0 to L - 1.
  """

  INNER = 'inner'
  WITH_LAST = 'with_last'
  WITH_EMBEDDING = 'with_embedding'


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
  """Choose what the definition leaves open.

  Attributes:
    similarity: S.
    alpha: weight of the similarity against the skip ratio, 0 to 1.
    depths: which depths are averaged over.
    top_k: K of `Similarity.TOP_K`; at most what the capture kept.
    first_position: places of a document before it do not count.
    last_position: nor places after it; None counts all.
  """

  similarity: Similarity = Similarity.LOGIT_COSINE
  alpha: float = 0.5
  depths: DepthRange = DepthRange.INNER
  top_k: int = 10
  first_position: int = 0
  last_position: int | None = None

  def __post_init__(self):
    check_fields(self)
    if not 0 <= self.alpha <= 1:
      raise ArgumentError(f'alpha must lie in 0 to 1, not {self.alpha}.')
    if self.top_k < 1:
      raise ArgumentError(f'top_k must be at least 1, not {self.top_k}.')
    last = math.inf if self.last_position is None else self.last_position
    if not 0 <= self.first_position <= last:
      raise ArgumentError(
        f'the positions from {self.first_position} to {self.last_position} '
        'are none.'
      )

  def words(self) -> str:
    """Return the settings in the words that stand beside a score."""
    k = f', K {self.top_k}' if self.similarity is Similarity.TOP_K else ''
    ends = {
      DepthRange.INNER: 'depths 1 to L-1',
      DepthRange.WITH_LAST: 'depths 1 to L',
      DepthRange.WITH_EMBEDDING: 'depths 0 to L-1',
    }
    last = 'the end' if self.last_position is None else self.last_position
    places = (
      'all positions'
      if self.first_position == 0 and self.last_position is None
      else f'positions {self.first_position} to {last}'
    )
    return (
      f'{self.similarity.value}{k}, alpha {self.alpha:g}, '
      f'{ends[self.depths]}, {places}'
    )


DEFAULT_SETTINGS = ScoreSettings()


@dataclasses.dataclass(frozen=True)
class Score:
  """Score of a model.

  Attributes:
    eas: the score.
    normalised: over the largest possible one at this L; 0 to 1.
    similarity: S_l of every natural read-out with its depth, the last too.
    depths: their depths.
    settings: in words; print them with the score.
    name: of the definition.
    tokens: positions that counted.
    rows: rows of text they stood in.
  """

  eas: Interval
  normalised: Interval
  similarity: tuple[Interval, ...]
  depths: tuple[float, ...]
  settings: str
  tokens: int
  rows: int
  name: str = NAME


def score(
  captured: Captured,
  *,
  settings: ScoreSettings = DEFAULT_SETTINGS,
  bootstrap: Bootstrap = DEFAULT,
) -> Score:
  """Score a model by its natural read-outs of a text.

  Args:
    captured: the text, with natural read-outs at more than one depth.
    settings: what the definition leaves open.
    bootstrap: how intervals are made, over rows.

  Raises:
    ArgumentError: there is nothing to score.
    EejaxError: similarities are not finite.
  """
  sums, counts, natural = similarity_sums(captured, settings)
  depths = natural.facts.depths
  eas_of = _eas_function(depths, natural.num_layers, settings)
  most = largest_score(depths, natural.num_layers, settings)
  eas = function_interval(sums.T, counts, eas_of, bootstrap=bootstrap)
  return Score(
    eas=eas,
    normalised=Interval(*(x / most for x in dataclasses.astuple(eas))),
    similarity=tuple(
      ratio_interval(s, counts, bootstrap=bootstrap) for s in sums
    ),
    depths=tuple(float(d) for d in depths),
    settings=settings.words(),
    tokens=int(np.sum(natural.weight > 0)),
    rows=len(counts),
  )


def eas_of_draws(
  captured: Captured, drawn: np.ndarray, settings: ScoreSettings
) -> Float[np.ndarray, 'draws']:
  """Return the score of each drawing of rows, [draws, rows] how often each."""
  sums, counts, natural = similarity_sums(captured, settings)
  means = (drawn @ sums.T) / np.maximum(drawn @ counts, 1e-12)[:, None]
  function = _eas_function(natural.facts.depths, natural.num_layers, settings)
  return function(means)


def similarity_sums(
  captured: Captured, settings: ScoreSettings
) -> tuple[Float[np.ndarray, 'R rows'], Float[np.ndarray, 'rows'], Captured]:
  """Return each row's similarity at every natural depth, and its weight.

  Returns:
    Weighted sums, weights, and the capture with what counted alone.

  Raises:
    ArgumentError: no position is left.
    EejaxError: similarities are not finite.
  """
  natural = natural_depths(captured).at_positions(chosen(captured, settings))
  if not natural.num_positions:
    raise ArgumentError(
      'no position of the text is among those that count; widen first_position '
      'and last_position, or give more text.'
    )
  values = similarity(natural, settings)
  if not np.isfinite(values).all():
    raise EejaxError(
      'the model returns numbers that are not finite; the checkpoint is '
      'damaged, or its numbers do not fit the compute dtype (try float32).'
    )
  sums, counts = natural.by_row(values)
  return sums, counts, natural


def natural_depths(captured: Captured) -> Captured:
  """Return the capture at its natural depths alone.

  Raises:
    ArgumentError: there are fewer than two.
  """
  natural = captured.only(ReadoutKind.NATURAL)
  if len(natural.readouts) < 2:
    raise ArgumentError(
      'this capture has one natural read-out; a score compares depths, so '
      'capture the text at several.'
    )
  return natural


def chosen(
  captured: Captured, settings: ScoreSettings
) -> Bool[np.ndarray, 'N']:
  """Return which positions count."""
  place = captured.position
  keep = place >= settings.first_position
  if settings.last_position is not None:
    keep &= place <= settings.last_position
  return keep


def similarity(
  captured: Captured, settings: ScoreSettings = DEFAULT_SETTINGS
) -> Float[np.ndarray, 'R N']:
  """Return how alike every read-out is to the last, 0 to 1."""
  kind = settings.similarity
  if kind is Similarity.LOGIT_COSINE:
    return np.maximum(captured.logit_cosine, 0.0)
  if kind is Similarity.HIDDEN_COSINE:
    return np.maximum(captured.hidden_cosine, 0.0)
  if kind is Similarity.JS:
    return np.clip(1 - captured.js_final / math.log(2), 0.0, 1.0)
  if kind is Similarity.TOP1:
    return captured.agree.astype(np.float32)
  return top_k_overlap(captured, k=settings.top_k)


def top_k_overlap(captured: Captured, *, k: int) -> Float[np.ndarray, 'R N']:
  """Return the share of the likeliest k tokens that the last has, too.

  Raises:
    ArgumentError: the capture kept fewer.
  """
  kept = captured.top_tokens.shape[-1]
  if k > kept:
    raise ArgumentError(
      f'the capture kept {kept} candidates a read-out, not {k}; give a smaller '
      'top_k or capture the text with more.'
    )
  tokens = captured.top_tokens[..., :k]
  last = tokens[-1][:, None, :]
  # A read-out at a time: all pairs at once would be K times the capture.
  shared = [(t[:, :, None] == last).any(axis=2).mean(axis=1) for t in tokens]
  return np.stack(shared).astype(np.float32)


def largest_score(
  depths: Float[np.ndarray, 'R'], num_layers: int, settings: ScoreSettings
) -> float:
  """Return the score of a model whose depths all say the same."""
  function = _eas_function(depths, num_layers, settings)
  return float(function(np.ones((1, len(depths))))[0])


def _eas_function(
  depths, num_layers: int, settings: ScoreSettings
) -> Callable[[np.ndarray], np.ndarray]:
  depths = np.asarray(depths, float)
  first = 0 if settings.depths is DepthRange.WITH_EMBEDDING else 1
  last = num_layers - (settings.depths is not DepthRange.WITH_LAST)
  counted = (depths >= first) & (depths <= last)
  if not counted.any():
    raise ArgumentError(
      f'no natural read-out lies at depths {first} to {last}; capture the '
      'text at more depths.'
    )
  skip = np.clip(1 - depths[counted] / num_layers, 0, 1)

  def eas(means: np.ndarray) -> np.ndarray:
    # Equation of the module's docstring; 0^0 is 1, so alpha may be 0 or 1.
    alike = np.maximum(means[:, counted], 0) ** settings.alpha
    return np.mean(alike * skip ** (1 - settings.alpha), axis=1)

  return eas


def relative(eas: Interval, reference: Interval) -> Interval:
  """Return a score over that of a reference model.

  Texts of two models are tokenized differently, so their rows cannot be
  paired: the relative errors of both are taken as independent and added in
  quadrature on the scale of logarithms.

  Args:
    eas: of the model.
    reference: of the reference, above 0.

  Raises:
    ArgumentError: the reference is 0.
  """
  if reference.value <= 0:
    raise ArgumentError('a reference with a score of 0 is none.')
  value = eas.value / reference.value
  if value <= 0:
    return Interval(0.0, 0.0, max(eas.high, 0.0) / reference.value)
  log = lambda x: math.log(max(x, 1e-12))
  down = math.hypot(
    log(eas.value) - log(eas.low), log(reference.high) - log(reference.value)
  )
  up = math.hypot(
    log(eas.high) - log(eas.value), log(reference.value) - log(reference.low)
  )
  return Interval(value, value * math.exp(-down), value * math.exp(up))
