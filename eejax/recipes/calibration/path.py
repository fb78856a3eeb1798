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
"""The path of policies that calibration certifies, from safe to risky.

On prompts of the search part, every criterion scores the full model's
continuations, and the cheapest thresholds are searched for at a ladder of
agreements. Where on the path certification begins is found by decoding these
prompts. No prompt that is certified on is read here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eejax.analysis.certify import Continuation, Prompt
from eejax.checkpoint.model import Model
from eejax.data.batch import Batch
from eejax.decoding.policy.policy import Mode, Policy, Threshold
from eejax.evaluation import scores, sweep
from eejax.evaluation.scores import ExitScores
from eejax.evaluation.sweep import Search, Speedup
from eejax.progress import SILENT, Progress

# Teacher-forced agreement that thresholds are searched for: safe to risky.
TARGETS = (
  *(0.9995, 0.999, 0.998, 0.997, 0.995, 0.9925, 0.99, 0.985, 0.98, 0.97),
  *(0.96, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5),
)
# The first setting loses up to this share of the risk on the search part.
_SAFE_SHARE = 0.4
_SEARCH = Search(margin=0.0, prices=12, candidates=16, rounds=2)


@dataclasses.dataclass(frozen=True)
class PathStep:
  """A policy of a path.

  Attributes:
    target: agreement that its thresholds were searched for.
    policy: with these thresholds.
  """

  target: float
  policy: Policy


@dataclasses.dataclass(frozen=True)
class PolicyPath:
  """The policies of one criterion, from safe to risky.

  Attributes:
    criterion: score that exits are asked by.
    steps: policies that save time by the prediction; neighbours differ.
    decisive: thresholds for an agreement of 1 - risk, or the nearest target.
    predicted_speedup: of these, over full decoding, on the search part.
  """

  criterion: str
  steps: tuple[PathStep, ...]
  decisive: tuple[Threshold, ...]
  predicted_speedup: float


def score_continuations(
  model: Model,
  *,
  prompts: Sequence[Prompt],
  continuations: Sequence[Continuation],
  criteria: Sequence[str],
  dtype: str,
  batch_size: int,
  progress: Progress = SILENT,
) -> dict[str, ExitScores]:
  """Return the scores of every exit along continuations, by criterion.

  Args:
    model: with its exits.
    prompts: token ids of each.
    continuations: of these, as the full model gives them.
    criteria: names of the scores.
    dtype: compute dtype.
    batch_size: rows at a time.
    progress: told of every batch.
  """
  return scores.collect_scores(
    model.params,
    progress.track(
      _batches(prompts, continuations, batch_size), 'scoring', unit='step'
    ),
    config=model.config,
    criteria=tuple(criteria),
    dtype=dtype,
  )


def _batches(
  prompts: Sequence[Prompt],
  continuations: Sequence[Continuation],
  batch_size: int,
) -> list[Batch]:
  """Return prompts and continuations as rows, of which the latter count."""
  width = max(
    len(prompt) + len(text.tokens)
    for prompt, text in zip(prompts, continuations, strict=True)
  )
  rows = len(prompts) + -len(prompts) % batch_size
  ids = np.zeros((rows, width), np.int32)
  weights = np.zeros((rows, width - 1), np.float32)
  for row, (prompt, text) in enumerate(
    zip(prompts, continuations, strict=True)
  ):
    tokens = (*prompt, *text.tokens)
    ids[row, : len(tokens)] = tokens
    weights[row, len(prompt) - 1 : len(tokens) - 1] = 1
  shape = (batch_size, width - 1)
  return [
    Batch(
      tokens=ids[i : i + batch_size, :-1],
      targets=ids[i : i + batch_size, 1:],
      weights=weights[i : i + batch_size],
      positions=np.broadcast_to(np.arange(width - 1, dtype=np.int32), shape),
      segment_ids=np.ones(shape, np.int32),
    )
    for i in range(0, rows, batch_size)
  ]


def find_paths(
  logged: Mapping[str, ExitScores],
  *,
  risk: float,
  window: int,
  speedup_of: Callable[[Policy], Speedup],
  progress: Progress = SILENT,
) -> list[PolicyPath]:
  """Return the path of each criterion, the fastest at 1 - risk first.

  Args:
    logged: scores of each criterion.
    risk: what is to be certified.
    window: of the decoder.
    speedup_of: returns the prediction for policies that ask as one does.
    progress: told of every criterion.
  """
  paths = [
    _find_path(
      logged[name],
      risk=risk,
      window=window,
      speedup=speedup_of(_policy(name, (0.5,), window)),
    )
    for name in progress.track(list(logged), 'searching', unit='score')
  ]
  # Where none saves time at 1 - risk, the one that does soonest below it.
  return sorted(
    paths,
    key=lambda p: (
      p.predicted_speedup if any(t is not None for t in p.decisive) else 0.0,
      p.steps[0].target if p.steps else 0.0,
    ),
    reverse=True,
  )


def _find_path(
  logged: ExitScores, *, risk: float, window: int, speedup: Speedup
) -> PolicyPath:
  chosen = sweep.find_path(
    logged, targets=TARGETS, window=window, speedup=speedup, search=_SEARCH
  )
  decisive = chosen[int(np.argmin(np.abs(np.array(TARGETS) - (1 - risk))))]
  (point,) = sweep.evaluate_settings(
    logged, [decisive], window=window, speedup=speedup
  )
  steps: list[PathStep] = []
  for target, thresholds in zip(TARGETS, chosen, strict=True):
    is_used = any(t is not None for t in thresholds)
    if is_used and (not steps or steps[-1].policy.thresholds != thresholds):
      policy = _policy(logged.criterion, thresholds, window)
      steps.append(PathStep(target, policy))
  return PolicyPath(
    logged.criterion, tuple(steps), decisive, point.predicted_speedup
  )


def _policy(
  criterion: str, thresholds: Sequence[Threshold], window: int
) -> Policy:
  return Policy(Mode.EARLY_EXIT, criterion, tuple(thresholds), window=window)


def begin_at(
  mean_loss_of: Callable[[int], float], count: int, *, risk: float
) -> int:
  """Return where on the path to begin, by mean losses of the search part.

  Safe settings are certified at the price of decoding all prompts, and are of
  no use beside riskier ones, so the first is the one before the riskiest that
  is well within the risk. The search assumes losses that rise along the path;
  where they do not, the guarantee holds all the same.

  Args:
    mean_loss_of: returns the mean loss of a step, by its index.
    count: steps of the path.
    risk: what is to be certified.
  """
  low, high = -1, count
  while high - low > 1:
    middle = (low + high) // 2
    if mean_loss_of(middle) <= _SAFE_SHARE * risk:
      low = middle
    else:
      high = middle
  return max(low - 1, 0)
