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
"""What `calibrate` does: search, certification, policy."""

import dataclasses
import pathlib
from typing import Any

from eejax.analysis import certify
from eejax.analysis.certify import Outcome, Parts
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import backbone_hash
from eejax.cli import calibrate_path, measuring
from eejax.recipes.calibration.path import Path, Step
from eejax.recipes.calibration.request import Request
from eejax.recipes.calibration.decoded_texts import DecodedTexts
from eejax.recipes.calibration.continuations import CERTIFY, SEARCH, Work, identity
from eejax.decoding.policy import certificate as certificate_lib
from eejax.decoding.policy import policy as policy_lib
from eejax.decoding.policy.certificate import Certificate
from eejax.decoding.policy.policy import Policy
from eejax.evaluation.part_times import PartTimes
from eejax.stats.bounds import Bound
from eejax.stats.fixed_sequence import Guarantee
from eejax.version import __version__


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Hold what came of calibrating.

  Attributes:
    request: what was asked for.
    outcome: of certifying.
    paths: of each criterion, the one that was followed first.
    steps: settings that were to be certified, safe to risky.
    num_searched: sequences that were searched on.
    speedups: predicted for each setting that was looked at, at batch 1.
    depths: mean depth of each of these.
    policy: what was certified, with its certificate; None where nothing was.
  """

  request: Request
  outcome: Outcome
  paths: tuple[Path, ...]
  steps: tuple[Step, ...]
  num_searched: int
  speedups: tuple[float, ...]
  depths: tuple[float, ...]
  policy: Policy | None

  @property
  def sentence(self) -> str:
    """Return what is certified, or why nothing is and what it would take."""
    chosen, request = self.outcome.chosen, self.request
    if self.policy is not None and self.policy.certificate is not None:
      assert chosen is not None
      return (
        f'{self.policy.certificate.sentence()}; on these it is '
        f'{self.outcome.mean_losses[chosen]:.4f}, and decoding one prompt at a '
        f'time should be {self.speedups[chosen]:.2f} times as fast as without '
        'exits.'
      )
    safest = self.outcome.mean_losses[0]
    start = (
      f'nothing can be certified at risk {request.risk:g} with '
      f'{self.outcome.sequences} sequences: the safest thresholds that save '
      f'time lose {safest:.4f} on average'
    )
    if self.outcome.needed is None:
      return (
        f'{start}, which is not enough below the limit for any number of '
        'sequences; allow a higher --risk, or tune the exits further.'
      )
    return (
      f'{start}; about {self.outcome.needed} sequences would be needed for '
      'that (--sequences, and as much text).'
    )

  def rows(self) -> list[dict[str, Any]]:
    """Return the lines of a table of the settings that were looked at."""
    p_values = self.outcome.p_values
    return [
      {
        'criterion': step.policy.criterion,
        'thresholds': measuring.thresholds_text(step.policy.thresholds),
        f'{self.request.measure} loss': f'{mean:.4f}',
        'p-value': f'{p_values[i]:.2g}' if p_values else None,
        'certified': self._word(i),
        'mean depth': round(self.depths[i], 2),
        'predicted speed': round(self.speedups[i], 3),
      }
      for i, (step, mean) in enumerate(
        zip(self.steps, self.outcome.mean_losses, strict=False)
      )
    ]

  def _word(self, place: int) -> str:
    chosen = self.outcome.chosen
    if chosen is None or place > chosen:
      return 'no'
    return 'yes, taken' if place == chosen else 'yes'

  def values(self) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
      'certified': self.policy is not None,
      'sentence': self.sentence,
      'policy': policy_lib.to_json(self.policy) if self.policy else None,
      'request': self.request,
      'outcome': self.outcome,
      'searched': self.num_searched,
      'settings': [
        {'target': step.target, **row}
        for step, row in zip(self.steps, self.rows(), strict=False)
      ],
    }


def calibrate(
  model: Model,
  parts: Parts,
  request: Request,
  out: pathlib.Path,
  *,
  times: PartTimes | None = None,
) -> Calibration:
  """Search thresholds on one part and certify them on the other.

  Args:
    model: with its exits.
    parts: prompts, none in both.
    request: what is to be certified.
    out: where the policy goes; decoded texts are kept beside it until it is
      certified, so that a run that was stopped goes on.
    times: of the parts of decoding, if they are known.

  Raises:
    EejaxError: there is nothing to certify, or the model is damaged.
  """
  certify.check_disjoint(parts)
  store = DecodedTexts(
    out.with_name(f'.{out.name}.decoded'), identity(model, parts, request)
  )
  work = Work(model, parts, request, store, times)
  paths = work.find_paths()
  steps = calibrate_path.steps_of(paths)
  begin = calibrate_path.begin_at(
    lambda place: float(work.losses(SEARCH, steps[place]).mean()),
    len(steps),
    risk=request.risk,
  )
  steps = steps[begin:]
  losses_of = lambda place: work.losses(CERTIFY, steps[place])
  if request.is_conformal:
    outcome = certify.choose_on_average(
      losses_of, len(steps), risk=request.risk
    )
  else:
    guarantee = Guarantee(request.risk, request.delta, Bound(request.bound))
    outcome = certify.choose(losses_of, len(steps), guarantee=guarantee)
  looked_at = range(len(outcome.mean_losses))
  policy = None
  if outcome.chosen is not None:
    policy = _certified(
      model, parts, request, steps[outcome.chosen].policy, outcome
    )
    store.remove()
  return Calibration(
    request=request,
    outcome=outcome,
    paths=tuple(paths),
    steps=tuple(steps),
    num_searched=len(parts.search),
    speedups=tuple(work.speedup(steps[i]) for i in looked_at),
    depths=tuple(work.mean_depth(steps[i]) for i in looked_at),
    policy=policy,
  )


def _certified(
  model: Model,
  parts: Parts,
  request: Request,
  policy: Policy,
  outcome: Outcome,
) -> Policy:
  """Return a policy with its certificate."""
  import jax

  assert outcome.chosen is not None
  exact = request.is_conformal
  p_values = outcome.p_values
  certificate = Certificate(
    method=request.method,
    risk=request.risk,
    delta=None if exact else request.delta,
    bound=None if exact else request.bound,
    measure=request.measure,
    sequences=outcome.sequences,
    mean_loss=outcome.mean_losses[outcome.chosen],
    p_value=p_values[outcome.chosen] if p_values else None,
    prompt_tokens=request.prompt_tokens,
    max_new_tokens=request.max_new_tokens,
    dtype=request.dtype,
    policy_hash=certificate_lib.policy_hash(policy_lib.to_json(policy)),
    exit_hashes=certificate_lib.exit_hashes(model.params, model.config),
    data={
      'name': request.data,
      'search_name': request.search_data,
      'split': request.text(request.data).part,
      'unit': request.unit,
      'seed': request.seed,
      'searched': len(parts.search),
      'search_hash': certify.data_hash(parts.search),
      'certify_hash': certify.data_hash(parts.certify),
    },
    versions={'eejax': __version__, 'jax': jax.__version__},
  )
  return dataclasses.replace(
    policy,
    backbone_hash=model.backbone_hash or backbone_hash(model.params),
    certificate=certificate,
  )
