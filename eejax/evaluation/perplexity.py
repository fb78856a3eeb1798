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
"""Loss, perplexity, accuracy and agreement of every exit and the final head.

Agreement is the share of tokens at which a head's likeliest next token is the
final head's, each given the text so far (teacher-forced).
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, EejaxError
from eejax.evaluation.heads import head_depths, head_names, run_heads
from eejax.ops.cross_entropy import head_statistics
from eejax.parallel import sharding
from eejax.stats.bootstrap import (
  DEFAULT,
  METHOD,
  Bootstrap,
  Interval,
  difference_interval,
  ratio_interval,
)
from eejax.types import Array, Float, Params


@flax.struct.dataclass
class RowSums:
  """Sums over the tokens of each row.

  Attributes:
    tokens: tokens that count.
    loss: cross-entropy with the text, in nats, of each head.
    correct: tokens whose likeliest next token is the text's.
    agree: tokens whose likeliest next token is the final head's.
  """

  tokens: Float[Array | np.ndarray, 'B']
  loss: Float[Array | np.ndarray, 'heads B']
  correct: Float[Array | np.ndarray, 'heads B']
  agree: Float[Array | np.ndarray, 'heads B']


@dataclasses.dataclass(frozen=True)
class HeadQuality:
  """What one head is worth on a text.

  Attributes:
    name: `exit_DEPTH`, or `final`.
    depth: blocks run before it.
    loss: mean cross-entropy, nats a token.
    perplexity: its exponential.
    accuracy: share of tokens it predicts as the text goes on.
    agreement: share of tokens at which it says what the final head says.
    loss_gap: loss above the final head's, paired row by row.
  """

  name: str
  depth: int
  loss: Interval
  perplexity: Interval
  accuracy: Interval
  agreement: Interval
  loss_gap: Interval


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The quality of every head, and how it was measured.

  Attributes:
    heads: exits, shallowest first, then the final head.
    tokens: tokens that counted.
    rows: rows of text they stood in; what the bootstrap draws.
    confidence: of every interval.
    intervals: how the intervals were made.
  """

  heads: tuple[HeadQuality, ...]
  tokens: int
  rows: int
  confidence: float
  intervals: str = METHOD

  def head(self, name: str) -> HeadQuality:
    """Return the quality of the head `name`."""
    return next(h for h in self.heads if h.name == name)


def evaluate(
  params: Params,
  batches: Iterable[Batch],
  *,
  config: EarlyExitConfig,
  dtype: str = 'float32',
  chunk_size: int = 1024,
  bootstrap: Bootstrap = DEFAULT,
) -> Evaluation:
  """Measure every exit and the final head on a text.

  Args:
    params: the whole tree, blocks stacked.
    batches: the text; all batches of one shape compile once.
    config: the model with its exits.
    dtype: compute dtype.
    chunk_size: tokens whose logits stand at once.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: the text has no token that counts.
    EejaxError: the model returns numbers that are not finite.
  """
  parts = [
    sharding.fetch(
      sharding.call_where_it_lies(
        row_sums,
        params,
        batch.as_dict(),
        config=config,
        dtype=dtype,
        chunk_size=chunk_size,
      )
    )
    for batch in batches
  ]
  if not parts:
    raise ArgumentError('there is no text to evaluate on.')
  sums = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *parts)
  return _summarise(sums, config, bootstrap)


@functools.partial(jax.jit, static_argnames=('config', 'dtype', 'chunk_size'))
def row_sums(
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  config: EarlyExitConfig,
  dtype: str,
  chunk_size: int,
) -> RowSums:
  """Return the sums of every head over each row of a batch."""
  ready = run_heads(params, batch, config=config, dtype=dtype)
  statistics = head_statistics(
    ready.heads,
    targets=batch['targets'],
    chunk_size=chunk_size,
    dtype=jnp.dtype(dtype),
  )
  final = statistics.heads[-1]
  weights = batch['weights']

  def per_row(values):
    # Padding is computed like text and may be anything, so it is left out by
    # choice rather than by a product with 0.
    kept = jnp.where(weights > 0, weights * values, 0.0)
    return jnp.sum(kept, axis=1)

  def of_heads(values):
    return jnp.stack([per_row(values(head)) for head in statistics.heads])

  return RowSums(
    tokens=jnp.sum(weights, axis=1),
    loss=of_heads(lambda h: h.loss),
    correct=of_heads(lambda h: h.top1 == batch['targets']),
    agree=of_heads(lambda h: h.top1 == final.top1),
  )


def _summarise(
  sums: RowSums, config: EarlyExitConfig, bootstrap: Bootstrap
) -> Evaluation:
  names, depths = head_names(config), head_depths(config)
  counts, losses, correct, agree = (
    np.asarray(x, np.float64)
    for x in (sums.tokens, sums.loss, sums.correct, sums.agree)
  )
  finite = np.isfinite(losses).all(axis=1)
  if not finite.all():
    worst = int(np.argmin(finite))
    raise EejaxError(
      f'the loss of {names[worst]} is not finite; the checkpoint is damaged, '
      'or its numbers do not fit the compute dtype (try float32).'
    )
  estimate = functools.partial(ratio_interval, bootstrap=bootstrap)
  heads = []
  for i, (name, depth) in enumerate(zip(names, depths, strict=True)):
    loss = estimate(losses[i], counts)
    heads.append(
      HeadQuality(
        name=name,
        depth=depth,
        loss=loss,
        perplexity=Interval(*map(_exp, dataclasses.astuple(loss))),
        accuracy=estimate(correct[i], counts),
        agreement=estimate(agree[i], counts),
        loss_gap=difference_interval(
          losses[i], losses[-1], counts, bootstrap=bootstrap
        ),
      )
    )
  return Evaluation(
    heads=tuple(heads),
    tokens=int(counts.sum()),
    rows=int((counts > 0).sum()),
    confidence=bootstrap.confidence,
  )


def _exp(value: float) -> float:
  # A random model's loss on a large vocabulary is no reason to overflow.
  return math.exp(min(value, 700.0))
