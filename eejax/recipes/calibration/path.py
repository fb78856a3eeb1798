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
"""The path of policies that `calibrate` walks, from safe to risky.

On prompts of its own, the full model's continuations are scored by every
criterion, and the cheapest thresholds are looked for at a ladder of targets
for agreement. How far down the ladder to begin is looked up by decoding these
prompts; nothing here has seen the prompts that are certified on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from eejax.decoding.policy.policy import Mode, Policy, Threshold
from eejax.errors import EejaxError

if TYPE_CHECKING:
  from eejax.analysis.certify import Prompt, Text
  from eejax.checkpoint.model import Model
  from eejax.evaluation.part_times import PartTimes
  from eejax.evaluation.scores import ExitScores

# Agreement, teacher-forced, that thresholds are searched for: safe to risky.
TARGETS = (
  *(0.9995, 0.999, 0.998, 0.997, 0.995, 0.9925, 0.99, 0.985, 0.98, 0.97),
  *(0.96, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5),
)
# A first setting may have this share of the risk on the prompts searched on.
_SAFE_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class Step:
  """Hold one policy of the path.

  Attributes:
    target: agreement it was searched for.
    policy: with its thresholds.
  """

  target: float
  policy: Policy


def score_texts(
  model: 'Model',
  *,
  prompts: 'Sequence[Prompt]',
  texts: 'Sequence[Text]',
  criteria: tuple[str, ...],
  dtype: str,
  batch_size: int,
) -> 'dict[str, ExitScores]':
  """Return the scores of every exit along continuations."""
  from eejax.cli import output
  from eejax.data.batch import Batch
  from eejax.evaluation import scores

  length = len(prompts[0])
  width = length + max(len(t.tokens) for t in texts)
  rows = len(prompts) + -len(prompts) % batch_size
  ids = np.zeros((rows, width), np.int32)
  weights = np.zeros((rows, width - 1), np.float32)
  for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
    line = (*prompt, *text.tokens)
    ids[row, : len(line)] = line
    weights[row, : len(line) - 1] = 1
  shape = (batch_size, width - 1)
  batches = [
    Batch(
      tokens=ids[i : i + batch_size, :-1],
      targets=ids[i : i + batch_size, 1:],
      weights=weights[i : i + batch_size],
      positions=np.broadcast_to(np.arange(width - 1, dtype=np.int32), shape),
      segment_ids=np.ones(shape, np.int32),
    )
    for i in range(0, rows, batch_size)
  ]
  found = scores.collect_scores(
    model.params,
    output.track(batches, 'scoring', unit='step'),
    config=model.config,
    criteria=criteria,
    dtype=dtype,
  )
  return {name: logged.after(length - 1) for name, logged in found.items()}


@dataclasses.dataclass(frozen=True)
class Path:
  """Hold the path of one criterion.

  Attributes:
    criterion: which score is asked.
    steps: settings that save time, safe to risky.
    decisive: thresholds for an agreement of 1 - risk, or near it.
    speed: predicted for these, on the texts searched on.
  """

  criterion: str
  steps: tuple[Step, ...]
  decisive: tuple[Threshold, ...]
  speed: float


def find_paths(
  model: 'Model',
  logged: 'dict[str, ExitScores]',
  *,
  risk: float,
  window: int,
  times: 'PartTimes',
) -> list[Path]:
  """Return the path of each criterion, the fastest at 1 - risk first.

  Args:
    model: with its exits.
    logged: scores of each criterion.
    risk: what is to be certified.
    window: of the decoder.
    times: of the parts of decoding.
  """
  from eejax.analysis.cost_model import decode_cost
  from eejax.cli import output
  from eejax.evaluation import sweep
  from eejax.evaluation.sweep import Search

  decisive = min(TARGETS, key=lambda t: abs(t - (1 - risk)))
  paths = []
  for name in output.track(list(logged), 'searching', unit='score'):
    asked = Policy(Mode.EARLY_EXIT, name, (0.5,), window=window)
    cost = decode_cost(model.config, asked, times=times)
    found = sweep.find_path(
      logged[name],
      targets=TARGETS,
      window=window,
      speedup=cost.speedup,
      search=Search(margin=0.0, prices=12, candidates=16, rounds=2),
    )
    chosen = found[TARGETS.index(decisive)]
    (point,) = sweep.evaluate_settings(
      logged[name], [chosen], window=window, speedup=cost.speedup
    )
    steps = [
      Step(t, Policy(Mode.EARLY_EXIT, name, thresholds, window=window))
      for t, thresholds in zip(TARGETS, found, strict=True)
      if any(x is not None for x in thresholds)
    ]
    paths.append(
      Path(name, tuple(_distinct(steps)), chosen, point.predicted_speedup)
    )
  # Where none saves time at 1 - risk, the one that does soonest below it.
  first = lambda p: p.steps[0].target if p.steps else 0.0
  is_used = lambda p: any(t is not None for t in p.decisive)
  speed = lambda p: p.speed if is_used(p) else 0.0
  return sorted(paths, key=lambda p: (speed(p), first(p)), reverse=True)


def steps_of(paths: Sequence[Path]) -> list[Step]:
  """Return the steps of the first path.

  Raises:
    EejaxError: it has none.
  """
  if not paths[0].steps:
    raise EejaxError(
      'no thresholds save time on this model at any agreement down to '
      f'{TARGETS[-1]:.0%}, by any score: early exit does not pay here, so '
      'there is nothing to certify; decode with mode full or speculative.'
    )
  return list(paths[0].steps)


def _distinct(steps: list[Step]) -> list[Step]:
  """Return the steps without those that repeat the one before."""
  kept: list[Step] = []
  for step in steps:
    if not kept or kept[-1].policy.thresholds != step.policy.thresholds:
      kept.append(step)
  return kept


def begin_at(
  mean_loss_of: Callable[[int], float], count: int, *, risk: float
) -> int:
  """Return where on the path to begin, by mean losses of the search part.

  Safe settings are certified at the price of decoding all prompts, and are of
  no use beside riskier ones, so the first is the one before the riskiest that
  is well within the risk. Losses are taken to rise along the path; where they
  do not, the guarantee is none the worse.

  Args:
    mean_loss_of: of a step, by its place.
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
