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
"""What `calibrate` does: prompts, search, certification, policy."""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eejax.analysis import certify
from eejax.analysis.certify import Outcome, Parts, Prompt, Text
from eejax.analysis.cost_model import work_of_depths
from eejax.analysis.risk import conformal, measures
from eejax.analysis.risk.bounds import Bound, samples_needed
from eejax.analysis.risk.fixed_sequence import Guarantee
from eejax.checkpoint.folder import Checkpoint
from eejax.checkpoint.tree import backbone_hash
from eejax.cli import calibrate_path, measuring, output
from eejax.cli.calibrate_path import Path, Step
from eejax.cli.calibrate_store import DecodedTexts
from eejax.data.batch import Packing
from eejax.decoding import certificate as certificate_lib
from eejax.decoding import policy as policy_lib
from eejax.decoding.certificate import Certificate
from eejax.decoding.generate import FULL_DEPTH
from eejax.decoding.policy import Policy
from eejax.decoding.prepare import prepare
from eejax.errors import ArgumentError
from eejax.evaluation import part_times
from eejax.evaluation.part_times import PartTimes
from eejax.version import __version__

SEARCH, CERTIFY = 'search', 'certify'
# More tokens than a text that is drawn from has.
_ALL = 10**12


@dataclasses.dataclass(frozen=True)
class Request:
  """Say what is to be certified, and on what; see the flags of the verb."""

  risk: float = 0.05
  delta: float = 0.05
  method: str = certificate_lib.LEARN_THEN_TEST
  bound: str = Bound.HOEFFDING_BENTKUS.value
  measure: str = 'local'
  data: str = measuring.STANDARD_LIBRARY
  search_data: str | None = None
  split: str | None = None
  unit: str = 'file'
  sequences: int = 384
  search_sequences: int = 96
  prompt_tokens: int = 32
  max_new_tokens: int = 32
  seed: int = 0
  criterion: str | None = None
  window: int = 8
  batch_size: int = 16
  dtype: str = 'float32'

  def __post_init__(self):
    Guarantee(self.risk, self.delta, Bound(self.bound))
    measures.get_measure(self.measure)
    for name in (
      'sequences',
      'search_sequences',
      'prompt_tokens',
      'max_new_tokens',
      'window',
      'batch_size',
    ):
      value = getattr(self, name)
      if value < 1:
        flag = '--' + name.replace('_', '-')
        raise ArgumentError(f'{flag} must be at least 1, not {value}.')
    if not self.is_conformal and self.sequences < self.least_sequences:
      raise ArgumentError(
        f'certifying a risk of {self.risk:g} at delta {self.delta:g} takes at '
        f'least {self.least_sequences} sequences, even without any loss; raise '
        f'--sequences from {self.sequences}.'
      )

  @classmethod
  def of(cls, args: argparse.Namespace) -> 'Request':
    """Return the request that the verb's arguments name."""
    names = [f.name for f in dataclasses.fields(cls)]
    return cls(**{name: getattr(args, name) for name in names})

  @property
  def is_conformal(self) -> bool:
    """Return whether the risk is controlled on average alone."""
    return self.method == certificate_lib.CONFORMAL

  @property
  def least_sequences(self) -> int:
    """Return how many sequences without any loss certify the risk."""
    if self.is_conformal:
      return conformal.sequences_needed(self.risk)
    needed = samples_needed(
      risk=self.risk, delta=self.delta, bound=Bound(self.bound)
    )
    assert needed is not None
    return needed

  def text(self, data: str) -> measuring.Text:
    """Return the text that prompts are cut from."""
    return measuring.Text(
      data=data,
      split=self.split,
      unit=self.unit,
      max_tokens=_ALL,
      sequence_length=self.prompt_tokens,
      batch_size=64,
    )


# MARK: Prompts


def read_parts(model: Checkpoint, request: Request) -> Parts:
  """Return the prompts to search on and those to certify on.

  Raises:
    EejaxError: the text cannot be read, is too short, or a prompt is in both
      parts.
  """
  room = model.config.model.max_length - request.prompt_tokens
  if request.max_new_tokens > room:
    raise ArgumentError(
      f'prompts of {request.prompt_tokens} tokens and '
      f'{request.max_new_tokens} new ones are more than the context of the '
      f'model, {model.config.model.max_length}; lower one of them.'
    )
  pool = read_pool(model, request, request.data)
  search, count = request.search_sequences, request.sequences
  if request.search_data is None:
    # A fifth to search on where there is little.
    search = min(search, max(len(set(pool)) // 5, 1))
    parts = certify.draw_parts(
      pool, search=search, certify=count, seed=request.seed
    )
  else:
    others = read_pool(model, request, request.search_data)
    draw = functools.partial(certify.draw_parts, seed=request.seed)
    parts = Parts(
      draw(others, search=search, certify=0).search,
      draw(pool, search=count, certify=0).search,
    )
    certify.check_disjoint(parts)
  least = request.least_sequences
  if len(parts.certify) < least:
    raise ArgumentError(
      f'{request.data} gives {len(parts.certify)} sequences to certify on, and '
      f'a risk of {request.risk:g} takes at least {least}, even without any '
      'loss; give more text, or a smaller --prompt-tokens.'
    )
  return parts


def read_pool(model: Checkpoint, request: Request, data: str) -> list[Prompt]:
  """Return every piece of a text that is as long as a prompt."""
  batches = measuring.read_text(
    model, request.text(data), packing=Packing.ONE_PER_ROW
  )
  return [
    tuple(row.tolist())
    for batch in batches
    for row, weights in zip(batch.tokens, batch.weights, strict=True)
    if weights.all()
  ]


# MARK: The work


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
  model: Checkpoint,
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
    out.with_name(f'.{out.name}.decoded'), _identity(model, parts, request)
  )
  work = _Work(model, parts, request, store, times)
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


class _Work:
  """Decode what is asked for, each text once."""

  def __init__(
    self,
    model: Checkpoint,
    parts: Parts,
    request: Request,
    store: DecodedTexts,
    times: PartTimes | None,
  ):
    self._model, self._request, self._store = model, request, store
    self._prompts = {SEARCH: parts.search, CERTIFY: parts.certify}
    self._prepared = prepare(
      model.params, config=model.config, dtype=request.dtype
    )
    self._texts: dict[tuple[str, Policy], list[Text]] = {}
    self._times = times

  def find_paths(self) -> list[Path]:
    """Return the paths of settings, searched on the search part."""
    request, model = self._request, self._model
    names = (request.criterion,) if request.criterion else None
    logged = calibrate_path.score_texts(
      model,
      prompts=self._prompts[SEARCH],
      texts=self.texts(SEARCH, FULL_DEPTH),
      criteria=names or measuring.usable_criteria(model),
      dtype=request.dtype,
      batch_size=request.batch_size,
    )
    return calibrate_path.find_paths(
      model,
      logged,
      risk=request.risk,
      window=request.window,
      times=self.times,
    )

  @property
  def times(self) -> PartTimes:
    """Return what the parts of decoding take on this machine."""
    if self._times is None:
      with output.waiting('timing the parts of decoding'):
        self._times = part_times.part_times(
          self._prepared,
          config=self._model.config,
          window=self._request.window,
        )
    return self._times

  def texts(self, part: str, policy: Policy) -> list[Text]:
    """Return the continuations of a part under a policy."""
    held = self._texts.get((part, policy))
    if held is None:
      held = self._texts[part, policy] = self._decode(part, policy)
    return held

  def losses(self, part: str, step: Step) -> np.ndarray:
    """Return the loss of each sequence of a part at a setting."""
    ours = self.texts(part, step.policy)
    judged: Sequence[Sequence[int]] | None = None
    if measures.needs_judgement(self._request.measure):
      judged = certify.full_choices(
        self._model.params,
        config=self._model.config.model,
        prompts=self._prompts[part],
        texts=ours,
        batch_size=self._request.batch_size,
        dtype=self._request.dtype,
      )
    return certify.losses(
      self._request.measure,
      ours=ours,
      full=self.texts(part, FULL_DEPTH),
      judged=judged,
    )

  def mean_depth(self, step: Step) -> float:
    """Return after how many blocks tokens are emitted on average."""
    return float(np.concatenate(self._depths(step)).mean())

  def speedup(self, step: Step) -> float:
    """Return the predicted speed-up of a setting, a prompt at a time."""
    config = self._model.config
    cost = measuring.decode_cost(
      self._model, step.policy.criterion, times=self.times
    )
    levels = (*config.exit_depths, config.model.num_layers)
    work = work_of_depths(
      self._depths(step), levels, window=self._request.window
    )
    return cost.speedup(work)

  def _depths(self, step: Step) -> list[np.ndarray]:
    return [np.array(t.depths) for t in self.texts(CERTIFY, step.policy)]

  def _decode(self, part: str, policy: Policy) -> list[Text]:
    prompts, size = self._prompts[part], self._request.batch_size
    key = f'{part} {certificate_lib.policy_hash(policy_lib.to_json(policy))}'
    known = self._store.batches(key)
    done = sum(map(len, known.values()))
    with output.progress(
      _title(part, policy), total=len(prompts), unit='text'
    ) as p:
      p.start_at(done)
      return certify.continue_prompts(
        self._prepared,
        config=self._model.config,
        prompts=prompts,
        policy=policy,
        max_new_tokens=self._request.max_new_tokens,
        batch_size=size,
        known=known,
        on_batch=_both(functools.partial(self._store.add, key), p),
      )


def _both(
  add: Callable[[int, list[Text]], None], shown: output.Progress
) -> Callable[[int, list[Text]], None]:
  def on_batch(number: int, texts: list[Text]) -> None:
    add(number, texts)
    shown.update(len(texts))

  return on_batch


def _title(part: str, policy: Policy) -> str:
  what = 'searching' if part == SEARCH else 'certifying'
  if policy == FULL_DEPTH:
    return f'{what}: texts of the full model'
  thresholds = measuring.thresholds_text(policy.thresholds)
  return f'{what}: {policy.criterion} at {thresholds}'


def _identity(
  model: Checkpoint, parts: Parts, request: Request
) -> dict[str, Any]:
  """Return what decides every text, besides the policy."""
  return {
    'backbone': model.backbone_hash or backbone_hash(model.params),
    'exits': certificate_lib.exit_hashes(model.params, model.config),
    'prompts': [
      [certify.prompt_hash(p) for p in part]
      for part in (parts.search, parts.certify)
    ],
    'batch_size': request.batch_size,
    'max_new_tokens': request.max_new_tokens,
    'dtype': request.dtype,
    'eejax': __version__,
  }


def _certified(
  model: Checkpoint,
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
