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
"""The natural exits of a model: what it says at every depth, untuned.

Every depth is read with the model's own final norm and head, teacher-forced.
Per token there are three depths at which one might say the final answer is
there; which one is meant is always named:

  first_match  the first depth whose likeliest token is the final one
  stable       the first depth from which on it stays the final one

A policy that knew the stable depth of every token in advance could stop there
and lose nothing, so 1 - stable / L, averaged, is the most that early exit
without training can save: a ceiling, for nobody knows it in advance.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  ModelConfig,
  OutputMatrix,
)
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.models.exits import output_kernel
from eejax.ops.bootstrap import (
  DEFAULT,
  METHOD,
  Bootstrap,
  Interval,
  ratio_interval,
)
from eejax.ops.cross_entropy import cross_entropy
from eejax.ops.norm import rms_norm
from eejax.types import Array, Float, Int, Params

LEVEL = 'empirical, teacher-forced'
# Below this share of blocks, an exit's own cost eats what it saves: reading a
# depth costs about as much as a block even where the vocabulary is small.
_HARDLY = 0.05
_SOME = 0.20


@flax.struct.dataclass
class DepthReadings:
  """Hold what every depth says of each token.

  Attributes:
    loss: cross-entropy with the text, in nats.
    top1: the likeliest next token.
  """

  loss: Float[Array | np.ndarray, 'depths B T']
  top1: Int[Array | np.ndarray, 'depths B T']


@dataclasses.dataclass(frozen=True)
class Depth:
  """Hold what reading one depth is worth.

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
  """Hold the natural exits of a model on a text.

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

  def verdict(self) -> str:
    """Return in plain words what early exit could save at best."""
    best, low, high = (
      round(100 * x) for x in dataclasses.astuple(self.saved_if_stable)
    )
    depth = self._depth_of_agreement(0.9)
    if depth < self.num_layers:
      when = f'nine tokens in ten are settled at depth {depth}'
    else:
      when = 'no depth before the last settles nine tokens in ten'
    return (
      f'{self._opening()}: at best {best} % of the blocks (interval {low} to '
      f'{high} %) could be skipped without changing a token. That is the '
      f'stable-depth ceiling over {self.tokens} tokens, which only an oracle '
      f'reaches; {when} (of {self.num_layers}). Level: {self.level}; heads, '
      'gates and key/value work are not counted. Trained exits can do better.'
    )

  def _opening(self) -> str:
    share = self.saved_if_stable.value
    if share < _HARDLY:
      return 'Early exit will not pay on this model as it is'
    if share < _SOME:
      return 'Early exit can save little on this model as it is'
    return 'Early exit has room on this model as it is'

  def _depth_of_agreement(self, share: float) -> int:
    """Return the first depth by which `share` of the tokens are stable."""
    reached = np.cumsum([d.stable for d in self.depths])
    return self.depths[int(np.argmax(reached >= share - 1e-9))].depth


def natural_exits(
  params: Params,
  batches: Iterable[Batch],
  *,
  config: ModelConfig,
  dtype: str = 'float32',
  chunk_size: int = 1024,
  bootstrap: Bootstrap = DEFAULT,
) -> NaturalExits:
  """Read every depth of a model over a text.

  Args:
    params: the tree; exits in it are not looked at.
    batches: the text; all batches of one shape compile once.
    config: the backbone.
    dtype: compute dtype.
    chunk_size: token readings whose logits stand at once.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: there is no text.
    EejaxError: the model returns numbers that are not finite.
  """
  read = functools.partial(
    read_depths,
    {'backbone': params['backbone']},
    config=config,
    dtype=dtype,
    chunk_size=chunk_size,
  )
  readings, weights = [], []
  for batch in batches:
    readings.append(jax.device_get(read(batch.as_dict())))
    weights.append(batch.weights)
  if not readings:
    raise ArgumentError('there is no text to probe on.')
  return summarise(
    np.concatenate([r.loss for r in readings], axis=1),
    np.concatenate([r.top1 for r in readings], axis=1),
    np.concatenate(weights),
    bootstrap=bootstrap,
  )


@functools.partial(jax.jit, static_argnames=('config', 'dtype', 'chunk_size'))
def read_depths(
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  config: ModelConfig,
  dtype: str,
  chunk_size: int,
) -> DepthReadings:
  """Read depths 0 to L with the final norm and head.

  All depths go through the head as one tall batch, so the program is of one
  size whatever L, and no more than `chunk_size` rows of logits stand at once.
  """
  backbone = params['backbone']
  out = decoder.run_blocks(
    backbone,
    decoder.embed(backbone, batch['tokens'], dtype=jnp.dtype(dtype)),
    config=_read_everywhere(config),
    positions=batch['positions'],
    segment_ids=batch['segment_ids'],
  )
  streams = [cast(Array, x.hidden) for x in out.exit_inputs.values()]
  tall = rms_norm(
    jnp.concatenate(streams),
    scale=backbone['final_norm']['scale'],
    epsilon=config.norm_epsilon,
  )
  depths = len(streams)
  statistics = cross_entropy(
    tall,
    kernel=output_kernel(params, exit=None, config=config),
    targets=jnp.tile(batch['targets'], (depths, 1)),
    chunk_size=chunk_size,
    dtype=jnp.dtype(dtype),
  )
  by_depth = lambda x: x.reshape(depths, *batch['targets'].shape)
  return DepthReadings(
    loss=by_depth(statistics.loss), top1=by_depth(statistics.top1)
  )


def _read_everywhere(config: ModelConfig) -> EarlyExitConfig:
  # An embedding exit reads the stream as it is and has no parameters.
  return EarlyExitConfig(
    config,
    tuple(
      ExitConfig(depth, ExitHeadKind.EMBEDDING, OutputMatrix.SHARED)
      for depth in range(config.num_layers + 1)
    ),
  )


def first_match_depth(
  top1: Int[np.ndarray, 'depths *tokens'],
) -> Int[np.ndarray, '*tokens']:
  """Return the first depth that says what the last one says."""
  return np.argmax(top1 == top1[-1], axis=0)


def stable_depth(
  top1: Int[np.ndarray, 'depths *tokens'],
) -> Int[np.ndarray, '*tokens']:
  """Return the first depth from which on all say what the last one says."""
  same = top1 == top1[-1]
  # Seen from the last depth down, the run of matches ends at the first miss.
  run = np.cumprod(same[::-1], axis=0).sum(axis=0)
  return len(top1) - run


def summarise(
  loss: Float[np.ndarray, 'depths rows T'],
  top1: Int[np.ndarray, 'depths rows T'],
  weights: Float[np.ndarray, 'rows T'],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> NaturalExits:
  """Turn readings of every depth into what they mean.

  Args:
    loss: cross-entropy of each reading.
    top1: the likeliest token of each reading.
    weights: 1 where a token counts, else 0.
    bootstrap: how intervals are made.

  Raises:
    EejaxError: a reading is not finite.
  """
  counted = weights > 0
  if not np.isfinite(loss[:, counted]).all():
    raise EejaxError(
      'the model returns numbers that are not finite; the checkpoint is '
      'damaged, or its numbers do not fit the compute dtype (try float32).'
    )
  num_layers = len(top1) - 1
  counts = counted.sum(axis=1)

  def mean(values) -> Interval:
    kept = np.where(counted, values, 0)
    return ratio_interval(kept.sum(axis=1), counts, bootstrap=bootstrap)

  first, stable = first_match_depth(top1), stable_depth(top1)

  def shares(depth_of_token):
    found = np.bincount(depth_of_token[counted], minlength=num_layers + 1)
    return found / counted.sum()

  first_shares, stable_shares = shares(first), shares(stable)
  saved = lambda depth: mean(1 - depth / max(num_layers, 1))
  return NaturalExits(
    depths=tuple(
      Depth(
        depth=d,
        loss=mean(loss[d]),
        agreement=mean(top1[d] == top1[-1]),
        first_match=float(first_shares[d]),
        stable=float(stable_shares[d]),
      )
      for d in range(num_layers + 1)
    ),
    saved_if_stable=saved(stable),
    saved_if_first_match=saved(first),
    tokens=int(counted.sum()),
    rows=int((counts > 0).sum()),
    confidence=bootstrap.confidence,
  )
