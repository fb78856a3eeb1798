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
"""The natural exits of a model in one table and one sentence.

Every depth is read with the model's own final norm and head, teacher-forced,
by `eejax.capture.capture`; `eejax.analysis.natural` says what the depths
mean and has everything else there is to know of them.

A policy that knew the stable depth of every token in advance could stop there
and lose nothing, so 1 - stable / L, averaged, is the most that early exit
without training can save: a ceiling, for nobody knows it in advance.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from eejax.analysis.natural.depths import (
  Ceiling,
  distribution,
  mean_over,
)
from eejax.capture.capture import capture
from eejax.capture.captured import Captured, CaptureFacts, Readout, ReadoutKind
from eejax.capture.settings import CHEAP, NATURAL, CaptureConfig
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, EejaxError
from eejax.stats.bootstrap import DEFAULT, METHOD, Bootstrap, Interval
from eejax.types import Float, Int, Params

LEVEL = 'empirical, teacher-forced'


@dataclasses.dataclass(frozen=True)
class Depth:
  """Quality of one depth, read with the final norm and head.

  Attributes:
    depth: blocks run.
    loss: mean cross-entropy, nats a token.
    agreement: share of tokens at which it says what depth L says.
    first_match: share of tokens whose first match is here.
    stable: share of tokens whose stable depth is here.
  """

  depth: int
  loss: Interval
  agreement: Interval
  first_match: float
  stable: float


@dataclasses.dataclass(frozen=True)
class NaturalExits:
  """Natural exits of a model on a text.

  Attributes:
    depths: of every depth, 0 to L.
    saved_if_stable: share of blocks saved by stopping at the stable depth.
    saved_if_first_match: the same at the first match, which may be passing.
    tokens: tokens that counted.
    rows: rows of text they stood in.
    confidence: of every interval.
    intervals: how the intervals were made.
    level: how strong a statement this is.
  """

  depths: tuple[Depth, ...]
  saved_if_stable: Interval
  saved_if_first_match: Interval
  tokens: int
  rows: int
  confidence: float
  intervals: str = METHOD
  level: str = LEVEL

  @property
  def num_layers(self) -> int:
    """Return L."""
    return self.depths[-1].depth


def natural_exits(
  params: Params,
  batches: Iterable[Batch],
  *,
  config: ModelConfig,
  dtype: str = 'float32',
  bootstrap: Bootstrap = DEFAULT,
) -> NaturalExits:
  """Read every depth of a model over a text.

  Args:
    params: the tree; exits in it are not looked at.
    batches: the text; all batches of one shape compile once.
    config: the backbone.
    dtype: compute dtype.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: there is no text.
    EejaxError: the model returns numbers that are not finite.
  """
  captured = capture(
    {'backbone': params['backbone'], 'exits': {}},
    batches,
    config=EarlyExitConfig(config),
    settings=CaptureConfig(
      kinds=NATURAL, fields=CHEAP, num_candidates=1, dtype=dtype
    ),
  )
  return summary_of(captured, bootstrap=bootstrap)


def summary_of(
  captured: Captured, *, bootstrap: Bootstrap = DEFAULT
) -> NaturalExits:
  """Return what the natural read-outs of a capture mean.

  Args:
    captured: a text, with every depth, losses and a candidate.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: there is no position.
    EejaxError: a reading is not finite.
  """
  captured = captured.only(ReadoutKind.NATURAL)
  if not captured.num_positions:
    raise ArgumentError('there is no text to probe on.')
  if not np.isfinite(captured.loss).all():
    raise EejaxError(
      'the model returns numbers that are not finite; the checkpoint is '
      'damaged, or its numbers do not fit the compute dtype (try float32).'
    )
  found = {
    c: distribution(captured, c, bootstrap=bootstrap)
    for c in (Ceiling.FIRST_MATCH, Ceiling.STABLE)
  }
  first, stable = found[Ceiling.FIRST_MATCH], found[Ceiling.STABLE]
  mean = lambda values: mean_over(captured, values, bootstrap=bootstrap)
  return NaturalExits(
    depths=tuple(
      Depth(
        depth=int(readout.depth),
        loss=mean(captured.loss[i]),
        agreement=mean(captured.agree[i]),
        first_match=first.shares[i],
        stable=stable.shares[i],
      )
      for i, readout in enumerate(captured.readouts)
    ),
    saved_if_stable=stable.skip,
    saved_if_first_match=first.skip,
    tokens=captured.num_positions,
    rows=captured.num_rows,
    confidence=bootstrap.confidence,
  )


def summarise(
  loss: Float[np.ndarray, 'depths rows T'],
  top1: Int[np.ndarray, 'depths rows T'],
  weights: Float[np.ndarray, 'rows T'],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> NaturalExits:
  """Return what readings of depths 0 to L mean that stand in rows.

  Args:
    loss: cross-entropy of each reading.
    top1: the likeliest token of each reading.
    weights: 1 where a token counts, else 0.
    bootstrap: how intervals are made.

  Raises:
    EejaxError: a reading is not finite.
  """
  counted = weights > 0
  facts = CaptureFacts(
    readouts=tuple(
      Readout(f'depth_{d}', float(d), ReadoutKind.NATURAL)
      for d in range(len(top1))
    ),
    fields=('loss', 'top_tokens'),
    num_candidates=1,
    num_layers=len(top1) - 1,
    vocab_size=int(top1.max(initial=0)) + 1,
  )
  source = {
    'row': np.nonzero(counted)[0],
    'weight': np.ones(counted.sum(), np.float32),
    'loss': loss[:, counted],
    'top_tokens': top1[:, counted][..., None],
  }
  return summary_of(Captured(facts, source), bootstrap=bootstrap)
