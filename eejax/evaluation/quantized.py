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
"""What int8 numbers change: tokens, scores, and where exits are taken.

An exit is taken where a score reaches a threshold, so small errors in scores
can move exits even where no token changes. Both models read the same text.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.replay import check_replayable, replay
from eejax.errors import ArgumentError
from eejax.evaluation.scores import score_batch
from eejax.models.quantized import quantize_backbone
from eejax.ops.quant import Quantization
from eejax.parallel import sharding
from eejax.types import Bool, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
  """How a quantised model differs from its original along a text.

  Attributes:
    num_tokens: tokens that were predicted.
    token_agreement: share of them for which both full models hold the same
      token the likeliest, in [0, 1].
    depth_agreement: share of them that the policy emits at the same depth.
    exact_depth: mean depth at which the original emits.
    quantized_depth: mean depth at which the quantised model does.
    depths: of the exits, shallowest first.
    score_changes: mean absolute change of the score at each.
  """

  num_tokens: int
  token_agreement: float
  depth_agreement: float
  exact_depth: float
  quantized_depth: float
  depths: tuple[int, ...]
  score_changes: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _Pass:
  """What one model says of a text."""

  scores: Float[np.ndarray, 'E rows T']
  tokens: Int[np.ndarray, 'rows T']


def compare_quantized(
  params: Params,
  batches: Iterable[Batch],
  *,
  config: EarlyExitConfig,
  policy: Policy,
  quantization: Quantization = Quantization.INT8,
  kv_quantization: Quantization = Quantization.NONE,
  dtype: str = 'float32',
  chunk_size: int = 1024,
) -> QuantizationReport:
  """Return how far a model and its quantised form agree on a text.

  Args:
    params: the original, the whole tree, blocks stacked.
    batches: the text, one document or piece a row, for a row is replayed as
      one generation.
    config: the model with its exits.
    policy: when to exit early.
    quantization: of the kernels in the backbone's blocks.
    kv_quantization: of keys and values.
    dtype: compute dtype of both.
    chunk_size: tokens whose logits stand at once.

  Raises:
    ArgumentError: there is no text, or depths do not follow from scores under
      the policy.
  """
  _check_policy(policy)
  thresholds = policy.resolve(config)[None]
  batches = list(batches)
  if not batches:
    raise ArgumentError('there is no text to score.')
  counted = np.concatenate([batch.weights > 0 for batch in batches])
  if not counted.any():
    raise ArgumentError('there is no text to score.')
  small = params
  if quantization is Quantization.INT8:
    small = quantize_backbone(params)
  score = functools.partial(
    _score,
    batches=batches,
    config=config,
    criterion=policy.criterion,
    dtype=dtype,
    chunk_size=chunk_size,
  )
  exact = score(params, kv_quantization=Quantization.NONE)
  rounded = score(small, kv_quantization=kv_quantization)
  walk = functools.partial(
    _emission_depths,
    counted=counted,
    thresholds=thresholds,
    window=policy.window,
    config=config,
  )
  depths, new_depths = walk(exact.scores), walk(rounded.scores)
  change = np.abs(rounded.scores - exact.scores)[:, counted].mean(axis=1)
  return QuantizationReport(
    num_tokens=int(counted.sum()),
    token_agreement=float((exact.tokens == rounded.tokens)[counted].mean()),
    depth_agreement=float((depths == new_depths).mean()),
    exact_depth=float(depths.mean()),
    quantized_depth=float(new_depths.mean()),
    depths=config.exit_depths,
    score_changes=tuple(change.tolist()),
  )


def _check_policy(policy: Policy) -> None:
  """Check that exits follow from scores and constant thresholds alone."""
  if policy.mode is not Mode.EARLY_EXIT:
    raise ArgumentError(
      f'the mode {policy.mode.value} takes no exit for good, so there are no '
      'exit depths to compare; give a policy of mode early_exit.'
    )
  check_replayable(policy)


def _score(
  params: Params,
  *,
  batches: list[Batch],
  config: EarlyExitConfig,
  criterion: str,
  dtype: str,
  chunk_size: int,
  kv_quantization: Quantization,
) -> _Pass:
  batches_read = [
    sharding.fetch(
      sharding.call_where_it_lies(
        score_batch,
        params,
        batch.as_dict(),
        config=config,
        criteria=(criterion,),
        dtype=dtype,
        chunk_size=chunk_size,
        kv_quantization=kv_quantization,
      )
    )
    for batch in batches
  ]
  join = lambda name: np.concatenate([x[name] for x in batches_read], axis=1)
  return _Pass(scores=join(criterion), tokens=join('final')[0])


def _emission_depths(
  scores: Float[np.ndarray, 'E rows T'],
  *,
  counted: Bool[np.ndarray, 'rows T'],
  thresholds: Float[np.ndarray, '1 E'],
  window: int,
  config: EarlyExitConfig,
) -> Int[np.ndarray, 'tokens']:
  """Return the depth at which decoding would emit each token that counts."""
  replayed = replay(
    scores, counted=counted, thresholds=thresholds, window=window
  )
  depths = np.array([*config.exit_depths, config.model.num_layers])
  return depths[replayed.taken[0][counted]]
