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
"""The quickstart's timing of decoding: every setting against full decoding."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eejax import progress
from eejax.analysis.cost_model import DecodeCost, decode_cost
from eejax.checkpoint.model import Model
from eejax.cli import output
from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.decoding.loop.accounting import Accounting
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy import defaults
from eejax.decoding.policy.criteria import default_criterion
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.policy.threshold_values import Threshold, parse_thresholds
from eejax.decoding.results import DecodeResult, GeneratedRow
from eejax.evaluation import scores, sweep, wall_clock
from eejax.evaluation.part_times import PartTimes
from eejax.evaluation.wall_clock import Ratio

# Thresholds that are timed besides the calibrated ones.
GRID: tuple[Threshold, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, None)


@dataclasses.dataclass(frozen=True)
class Found:
  """Hold what the search for thresholds found, of its stage's plain result.

  Attributes:
    criterion: which score is asked.
    window: of the decoder.
    times: of the parts of decoding on this machine.
    calibrated: thresholds of the exits; all are None where no exit pays,
      which then means full decoding.
    calibrated_point: what they do on held-out text.
    points: the same of each setting of the grid, by its thresholds.
  """

  criterion: str
  window: int
  times: PartTimes
  calibrated: tuple[Threshold, ...]
  calibrated_point: dict[str, Any]
  points: dict[tuple[Threshold, ...], dict[str, Any]]

  @classmethod
  def of(cls, result: dict[str, Any]) -> 'Found':
    """Return what a stage's result says."""
    return cls(
      criterion=result['criterion'],
      window=result['window'],
      times=PartTimes.from_json(result['part_times']),
      calibrated=tuple(result['calibrated']['thresholds']),
      calibrated_point=result['calibrated']['held_out'],
      points={tuple(p['thresholds']): p for p in result['points']},
    )

  @property
  def uses_exits(self) -> bool:
    """Return whether any exit is ever taken."""
    return any(t is not None for t in self.calibrated)

  def policy(self, thresholds: tuple[Threshold, ...] | None) -> Policy:
    """Return the policy of a setting; None is full decoding."""
    if thresholds is None:
      return Policy(Mode.FULL)
    return Policy(
      Mode.EARLY_EXIT, self.criterion, thresholds, window=self.window
    )


def lossless_policy(model: Model, *, window: int) -> Policy | None:
  """Return what `eejax generate --mode speculative` does on a model."""
  if model.config.exit_depths[0] >= model.config.model.num_layers:
    return None
  mode = Mode.SPECULATIVE
  return Policy(
    mode,
    default_criterion(model.config),
    parse_thresholds(defaults.THRESHOLDS[mode.value]),
    window=window,
    prompt_lookup=defaults.PROMPT_LOOKUP,
  )


class Timing:
  """Time settings on several prompts, each setting in its turn.

  Attributes:
    lossless: speculation as `eejax generate` does it, or None where no exit
      could draft.
    seconds: of a token, by setting: of each prompt, several times.
    rows: the last continuation of each prompt, by setting.
  """

  # Full decoding is timed twice: against itself it shows what noise does.
  FULL, AGAIN, CALIBRATED = 'full', 'again', 'calibrated'
  LOSSLESS = 'lossless'

  def __init__(
    self,
    model: Model,
    found: Found,
    *,
    prompts: Sequence[list[int]],
    new_tokens: int,
  ):
    """Prepare the model; nothing is run yet.

    Args:
      model: with tuned exits.
      found: thresholds.
      prompts: of equal length.
      new_tokens: to be generated for each.
    """
    self.model, self.found = model, found
    self.prompts, self.new_tokens = prompts, new_tokens
    self.prepared = prepare(model.params, config=model.config)
    exits = len(model.config.exits)
    self.settings: dict[str, tuple[Threshold, ...] | None] = {
      self.FULL: None,
      self.AGAIN: None,
      **{str(t): (t,) * exits for t in GRID},
      self.CALIBRATED: found.calibrated if found.uses_exits else None,
    }
    self.lossless = lossless_policy(model, window=found.window)
    names = [*self.settings, *([self.LOSSLESS] if self.lossless else [])]
    self.seconds: dict[str, list[list[float]]] = {n: [] for n in names}
    self.rows: dict[str, list[GeneratedRow]] = {n: [] for n in names}

  def run(self, *, repeats: int) -> None:
    """Time everything."""
    with output.waiting('compiling the decoder'):
      for name in (self.FULL, self.CALIBRATED, self.LOSSLESS):
        if name not in self.seconds:
          continue
        self._generate(name, self.prompts[0])
    total = len(self.prompts) * (repeats + 1) * len(self.seconds)
    with output.progress('timing', total=total, unit='run') as shown:
      for prompt in self.prompts:
        last: dict[str, DecodeResult] = {}
        seconds = wall_clock.interleaved(
          {
            name: functools.partial(self._time, name, prompt, last, shown)
            for name in self.seconds
          },
          repeats=repeats,
        )
        for name, values in seconds.items():
          self.seconds[name].append(values)
          self.rows[name] += last[name].rows

  def _time(
    self,
    name: str,
    prompt: list[int],
    last: dict[str, DecodeResult],
    shown: progress.Bar,
  ) -> float:
    last[name] = self._generate(name, prompt)
    shown.update()
    return last[name].timing.decode_s / len(last[name].rows[0].tokens)

  def _generate(self, name: str, prompt: list[int]) -> DecodeResult:
    return generate(
      self.prepared,
      config=self.model.config,
      prompts=[prompt],
      policy=self._policy(name),
      max_new_tokens=self.new_tokens,
      # Every run has to be of one length to be compared. No token is -1, and
      # as many end tokens as usual share their program with the samples.
      eos_ids=(-1,) * len(self.model.config.model.eos_ids),
    )

  def _policy(self, name: str) -> Policy:
    if name == self.LOSSLESS:
      assert self.lossless is not None
      return self.lossless
    return self.found.policy(self.settings[name])

  def result(self) -> dict[str, Any]:
    """Return what was measured, beside what was predicted."""
    settings = []
    own = self._own_text()
    for name in own:
      thresholds = self._thresholds(name)
      is_calibrated = name == self.CALIBRATED
      point = self.found.points.get(thresholds)
      settings.append(
        {
          **self._describe(name),
          'thresholds': thresholds,
          'calibrated': is_calibrated,
          'point': self.found.calibrated_point if is_calibrated else point,
          'own_agreement': own[name].agreement,
        }
      )
    return {
      'prompts': len(self.prompts),
      'new_tokens': len(self.rows[self.FULL][0].tokens),
      'full_tokens_per_s': self._tokens_per_s(self.FULL),
      'noise': self._ratio(self.AGAIN),
      'settings': settings,
      'calibrated': settings[-1],
      'lossless': self._describe_lossless() if self.lossless else None,
    }

  def _describe_lossless(self) -> dict[str, Any]:
    rows, full = self.rows[self.LOSSLESS], self.rows[self.FULL]
    work = sum((row.accounting for row in rows), Accounting())
    same = [a.tokens == b.tokens for a, b in zip(rows, full, strict=True)]
    return {
      'measured': self._ratio(self.LOSSLESS),
      'tokens_per_s': self._tokens_per_s(self.LOSSLESS),
      'texts': len(same),
      'same_texts': sum(same),
      'drafted': work.drafted,
      'accepted': work.accepted,
      'looked_up': work.looked_up,
    }

  def _thresholds(self, name: str) -> tuple[Threshold, ...]:
    """Return the thresholds of a setting, of full decoding `never` alone."""
    return self.settings[name] or (None,) * len(self.model.config.exits)

  def _describe(self, name: str) -> dict[str, Any]:
    config, rows = self.model.config, self.rows[name]
    levels = [*config.exit_depths, config.model.num_layers]
    depths = np.array([row.exit_depths for row in rows])
    is_full = self.settings[name] is None
    cost = self._cost(self._policy(name))
    tokens = np.array([row.tokens for row in rows])
    full_tokens = np.array([row.tokens for row in self.rows[self.FULL]])
    return {
      # Full decoding is as fast as itself, whatever noise says.
      'measured': Ratio(1.0, 1.0, 1.0) if is_full else self._ratio(name),
      'predicted': cost.speedup_of_depths(list(depths)),
      'tokens_per_s': self._tokens_per_s(name),
      'mean_depth': float(depths.mean()),
      'exit_shares': [float((depths == d).mean()) for d in levels],
      'same_place_same_token': float((tokens == full_tokens).mean()),
    }

  def _cost(self, policy: Policy) -> DecodeCost:
    return decode_cost(self.model.config, policy, times=self.found.times)

  def _ratio(self, name: str) -> Ratio:
    return wall_clock.speed_ratio(self.seconds[name], self.seconds[self.FULL])

  def _tokens_per_s(self, name: str) -> float:
    return 1 / float(np.mean([np.median(s) for s in self.seconds[name]]))

  def _own_text(self) -> dict[str, sweep.SweepPoint]:
    """Return what settings would do along the model's own continuations."""
    rows = self.rows[self.FULL]
    ids = np.array([r.prompt_tokens + r.tokens for r in rows], np.int32)
    shape = ids[:, :-1].shape
    batch = Batch(
      tokens=ids[:, :-1],
      targets=ids[:, 1:],
      weights=np.ones(shape, np.float32),
      positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
      segment_ids=np.ones(shape, np.int32),
    )
    name = self.found.criterion
    logged = scores.collect_scores(
      self.model.params, [batch], config=self.model.config, criteria=(name,)
    )[name]
    names = [n for n in self.settings if n not in (self.FULL, self.AGAIN)]
    points = sweep.evaluate_settings(
      logged.after(len(rows[0].prompt_tokens) - 1),
      [self._thresholds(n) for n in names],
      window=self.found.window,
      # Exits that a setting never takes are counted as left out.
      speedup=self._cost(
        self.found.policy((0.5,) * len(self.model.config.exits))
      ).speedup,
    )
    return dict(zip(names, points, strict=True))
