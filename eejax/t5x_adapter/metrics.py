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
"""Metrics of a step as t5x's trainer merges and writes them.

Names are those of `eejax.training.metrics.means`: `loss` (the objective a
token), `final/...`, and `exit_6/loss`, `exit_6/accuracy` ... for every exit.
Each is a sum and a count, so that steps of different numbers of tokens merge
to the mean over all of them.
"""

import typing

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from t5x import metrics as t5x_metrics

from eejax.config import EarlyExitConfig, GateKind
from eejax.training.freeze import Regime
from eejax.training.loss_sums import HeadSums, LossSums
from eejax.training.objective import Objective
from eejax.types import Array, Float


# Unchecked, for t5x fills it with arrays of the host as well.
@typing.no_type_check
@flax.struct.dataclass
class TokenMean(clu_metrics.Average):
  """Mean over tokens; not a number where no token was counted.

  Exits that a curriculum left out of every step have counted none.
  """

  def compute(self) -> np.ndarray:
    """Return the mean, on the host."""
    total, count = np.asarray(self.total), np.asarray(self.count)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def step_metrics(
  sums: LossSums, *, config: EarlyExitConfig, objective: Objective
) -> dict[str, clu_metrics.Metric]:
  """Return named metrics of a step's, or an evaluation's, sums.

  Args:
    sums: over the tokens of a batch.
    config: the model with its exits.
    objective: says which heads take part.
  """
  found = {'loss': _mean(sums.objective, sums.tokens)}
  if sums.balance is not None:
    found['balance_loss'] = _mean(sums.balance, sums.tokens)
  final_known = objective.full_depth(config)
  if final_known:
    found |= _head('final', sums.final, names=('loss', 'correct'))
  if objective.regime is Regime.STANDARD:
    return found
  for i, e in enumerate(config.exits):
    names = ['loss', 'correct', 'confidence']
    if final_known:
      names.append('agree')
    if objective.distillation_weight > 0:
      names.append('divergence')
    if final_known and e.gate is not GateKind.NONE:
      names += ['gate_loss', 'gate_correct']
    at_exit = jax.tree.map(lambda leaf, i=i: leaf[i], sums.exits)
    found |= _head(e.name, at_exit, names=names)
  return found


def batch_metrics(
  weights: Float[Array, 'B T'],
) -> dict[str, clu_metrics.Metric]:
  """Return t5x's own metrics of a batch: rates, and how much is no padding."""
  rows, tokens = weights.shape[0], weights.size
  rate = t5x_metrics.TimeRate.from_model_output
  return {
    'timing/seconds': t5x_metrics.Time(),
    'timing/steps_per_second': t5x_metrics.StepsPerTime.from_model_output(),
    'timing/seqs_per_second': rate(numerator=jnp.array(rows)),
    'timing/target_tokens_per_second': rate(numerator=jnp.array(tokens)),
    'non_padding_fraction/loss_weights': _mean(
      jnp.sum(weights), jnp.array(tokens)
    ),
  }


# Names of sums and of the means that are made of them.
_MEANS = {
  'correct': 'accuracy',
  'agree': 'agreement',
  'gate_correct': 'gate_accuracy',
}


def _head(name: str, sums: HeadSums, *, names) -> dict[str, clu_metrics.Metric]:
  return {
    f'{name}/{_MEANS.get(n, n)}': _mean(getattr(sums, n), sums.tokens)
    for n in names
  }


def _mean(total: Array, count: Array) -> TokenMean:
  return TokenMean(total=total, count=count)
