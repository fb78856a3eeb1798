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
"""What each read-out is worth: agreement, overlap, losses, divergences.

Means over positions of what a capture holds, and

  agreement  a_l = P(y_l = y_L)
  accuracy   P(y_l = y), y the token that follows
  overlap    |top-K(z_l) & top-K(z_L)| / K
  kappa      (a_l - e_l) / (1 - e_l), e_l = sum_v P(y_l = v) P(y_L = v): the
             agreement beyond what two read-outs would reach that say the
             same tokens as often, but each without regard to the other

Chance agreement is large where a few tokens are frequent, as with a small
vocabulary; kappa takes it out.

Reference:
  Cohen (1960), A Coefficient of Agreement for Nominal Scales, equation 1.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from eejax.analysis.natural.depths import mean_over
from eejax.capture.captured import Captured, Readout
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  function_interval,
)
from eejax.types import Float, Int, Num

# Figures that are means of an array of a capture.
_MEANS = (
  'loss',
  'entropy',
  'kl_final',
  'js_final',
  'logit_cosine',
  'hidden_cosine',
)
# Tokens whose frequencies are drawn for the interval of kappa. The chance
# that the others agree is taken as it is: they are rare.
_DRAWN_TOKENS = 2048


@dataclasses.dataclass(frozen=True)
class ReadoutFigures:
  """Figures of one read-out.

  Attributes:
    readout: which one.
    figures: by the names in the module's docstring and in
      `eejax.capture.file`; those the capture has.
  """

  readout: Readout
  figures: Mapping[str, Interval]

  def __getitem__(self, name: str) -> Interval:
    """Return a figure by its name."""
    return self.figures[name]


def curves(
  captured: Captured, *, bootstrap: Bootstrap = DEFAULT
) -> tuple[ReadoutFigures, ...]:
  """Return what every read-out is worth, in their order."""
  return tuple(
    ReadoutFigures(readout, _figures(captured, i, bootstrap))
    for i, readout in enumerate(captured.readouts)
  )


def _figures(
  captured: Captured, i: int, bootstrap: Bootstrap
) -> dict[str, Interval]:
  mean = lambda x: mean_over(captured, x, bootstrap=bootstrap)
  figures = {n: mean(captured[n][i]) for n in _MEANS if n in captured}
  if 'top_tokens' in captured:
    figures['agreement'] = mean(captured.agree[i])
    figures['kappa'] = kappa(captured, i, bootstrap=bootstrap)
    figures['accuracy'] = mean(captured.top1[i] == captured.target)
    tokens = captured.top_tokens
    figures['overlap'] = mean(overlap(tokens[i], tokens[-1]))
  return figures


def overlap(
  candidates: Int[np.ndarray, 'N K'], others: Int[np.ndarray, 'N K']
) -> Float[np.ndarray, 'N']:
  """Return which share of each position's candidates is among the others."""
  shared = (candidates[:, :, None] == others[:, None, :]).any(axis=2)
  return shared.mean(axis=1)


def kappa(
  captured: Captured, index: int, *, bootstrap: Bootstrap = DEFAULT
) -> Interval:
  """Return the chance-corrected agreement of a read-out with the full model.

  It is 1 where they always agree, 0 where they agree as often as by chance,
  and may be negative.

  Args:
    captured: a text.
    index: of the read-out.
    bootstrap: how the interval is made.
  """
  here, final = captured.top1[index], captured.top1[-1]
  tokens, flat = np.unique(np.stack([here, final]), return_inverse=True)
  here, final = flat.reshape(2, -1)
  weight = np.asarray(captured.weight, float)
  share = lambda x: np.bincount(x, weight, len(tokens)) / weight.sum()
  chances = share(here) * share(final)
  drawn = np.argsort(-chances, kind='stable')[:_DRAWN_TOKENS]
  rest = chances.sum() - chances[drawn].sum()
  place = np.full(len(tokens), len(drawn))
  place[drawn] = np.arange(len(drawn))
  agreed, counts = captured.by_row(here == final)
  sums = np.concatenate(
    [
      agreed[:, None],
      row_counts(captured, place[here], bins=len(drawn) + 1)[:, :-1],
      row_counts(captured, place[final], bins=len(drawn) + 1)[:, :-1],
    ],
    axis=1,
  )

  def of(ratios: Float[np.ndarray, 'draws columns']) -> np.ndarray:
    first, second = np.split(ratios[:, 1:], 2, axis=1)
    chance = np.einsum('dk,dk->d', first, second) + rest
    return _beyond_chance(ratios[:, 0], chance)

  return function_interval(sums, counts, of, bootstrap=bootstrap)


def _beyond_chance(
  agreement: Float[np.ndarray, 'draws'], chance: Float[np.ndarray, 'draws']
) -> Float[np.ndarray, 'draws']:
  room = 1 - chance
  some = room > 1e-12
  # Where one token is all that is ever said, agreement is certain and shows
  # nothing.
  return np.where(some, (agreement - chance) / np.where(some, room, 1), 0.0)


def row_counts(
  captured: Captured,
  bins_of: Int[np.ndarray, '... N'],
  *,
  bins: int,
  values: Num[np.ndarray, '... N'] | None = None,
) -> Float[np.ndarray, 'rows bins']:
  """Return the weight that each row's positions put into each bin.

  Args:
    captured: whose rows.
    bins_of: bin of each position, of each leading index if there are some.
    bins: how many there are.
    values: multiply the weights; None is 1.
  """
  rows, row = np.unique(captured.row, return_inverse=True)
  weight = np.broadcast_to(np.asarray(captured.weight, float), bins_of.shape)
  if values is not None:
    weight = weight * values
  cell = row * bins + bins_of
  counts = np.bincount(
    cell.reshape(-1), weight.reshape(-1), minlength=len(rows) * bins
  )
  return counts.reshape(len(rows), bins)
