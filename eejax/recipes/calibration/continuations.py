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
"""Texts that `calibrate` decodes, each once, and what they lose and cost."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eejax import progress
from eejax.analysis import certify, measures
from eejax.analysis.certify import Parts, Text
from eejax.analysis.cost_model import decode_cost
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import backbone_hash
from eejax.cli import calibrate_path, measuring, output
from eejax.recipes.calibration.path import Path, Step
from eejax.recipes.calibration.request import Request
from eejax.recipes.calibration.decoded_texts import DecodedTexts
from eejax.decoding.generate import FULL_DEPTH
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy import certificate as certificate_lib
from eejax.decoding.policy import policy as policy_lib
from eejax.decoding.policy.policy import Policy
from eejax.evaluation import part_times
from eejax.evaluation.part_times import PartTimes
from eejax.version import __version__

SEARCH, CERTIFY = 'search', 'certify'


class Work:
  """Decode what is asked for, each text once."""

  def __init__(
    self,
    model: Model,
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
    cost = decode_cost(self._model.config, step.policy, times=self.times)
    return cost.speedup_of_depths(self._depths(step))

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
  add: Callable[[int, list[Text]], None], shown: progress.Bar
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


def identity(model: Model, parts: Parts, request: Request) -> dict[str, Any]:
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
