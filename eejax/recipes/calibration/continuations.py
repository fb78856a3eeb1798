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
"""Continuations that calibration compares: each is decoded once, and kept."""

import enum
import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from eejax.analysis import certify, measures
from eejax.analysis.certify import CalibrationPrompts, Continuation, Prompt
from eejax.checkpoint.model import Model
from eejax.decoding.generate import FULL_DEPTH
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy import bindings
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import format_thresholds
from eejax.progress import SILENT, Bar, Progress
from eejax.recipes.calibration.decoded_texts import DecodedTexts
from eejax.recipes.calibration.request import CalibrationRequest
from eejax.types import Float
from eejax.version import __version__


class Part(enum.Enum):
  """A part of the prompts; see `CalibrationPrompts`."""

  SEARCH = 'search'
  CERTIFY = 'certify'
  REPORT = 'report'


_TITLES = {
  Part.SEARCH: 'searching',
  Part.CERTIFY: 'certifying',
  Part.REPORT: 'reporting',
}


class Continuations:
  """Continuations of each part of the prompts, under any policy."""

  def __init__(
    self,
    model: Model,
    prompts: CalibrationPrompts,
    request: CalibrationRequest,
    *,
    folder: pathlib.Path | None = None,
    progress: Progress = SILENT,
  ):
    """Prepare the model.

    Args:
      model: with its exits.
      prompts: to be continued.
      request: how.
      folder: keeps what is decoded; None keeps it in memory alone.
      progress: is told of every batch.

    Raises:
      ArgumentError: the folder cannot be written.
    """
    self._model, self._request, self._progress = model, request, progress
    self._prompts = prompts
    self._store = DecodedTexts(folder)
    self._decoded: dict[tuple[Part, Policy], list[Continuation]] = {}

  @functools.cached_property
  def prepared(self) -> Prepared:
    """Return the model, ready to decode."""
    model = self._model
    return prepare(model.params, config=model.config, dtype=self._request.dtype)

  def prompts(self, part: Part) -> tuple[Prompt, ...]:
    """Return the prompts of a part."""
    return getattr(self._prompts, part.value)

  def decode(
    self, part: Part, policy: Policy = FULL_DEPTH
  ) -> list[Continuation]:
    """Return the continuations of a part under a policy, decoded once.

    Raises:
      EejaxError: the model returns numbers that are not finite, or the disk
        is full.
    """
    if (part, policy) not in self._decoded:
      self._decoded[part, policy] = self._decode(part, policy)
    return self._decoded[part, policy]

  def losses(self, part: Part, policy: Policy) -> Float[np.ndarray, 'n']:
    """Return the loss of each sequence of a part under a policy, in [0, 1]."""
    request = self._request
    ours = self.decode(part, policy)
    judged: Sequence[Sequence[int]] | None = None
    if measures.needs_judgement(request.measure):
      judged = certify.full_choices(
        self._model.params,
        config=self._model.config.model,
        prompts=self.prompts(part),
        continuations=ours,
        batch_size=request.batch_size,
        dtype=request.dtype,
      )
    has_text = measures.needs_text(request.measure)
    return certify.losses(
      request.measure,
      ours=ours,
      full=self.decode(part),
      judged=judged,
      prompts=self.prompts(part),
      references=self._prompts.references,
      decode=self._model.tokenizer.decode if has_text else None,
    )

  def _decode(self, part: Part, policy: Policy) -> list[Continuation]:
    prompts, size = self.prompts(part), self._request.batch_size
    identity = self._identity(policy)
    keys = [
      bindings.hash_of([identity, prompts[first : first + size]])
      for first in range(0, len(prompts), size)
    ]
    known = {n: self._store.get(key) for n, key in enumerate(keys)}
    known_batches = {n: batch for n, batch in known.items() if batch}
    with self._progress.bar(
      _title(part, policy), total=len(prompts), unit='text'
    ) as bar:
      bar.start_at(sum(map(len, known_batches.values())))
      return certify.continue_prompts(
        self.prepared,
        config=self._model.config,
        prompts=prompts,
        policy=policy,
        max_new_tokens=self._request.max_new_tokens,
        batch_size=size,
        eos_ids=self._prompts.eos_ids,
        known=known_batches,
        on_batch=functools.partial(self._keep, keys, bar),
      )

  def _keep(
    self,
    keys: Sequence[str],
    bar: Bar,
    number: int,
    batch: list[Continuation],
  ) -> None:
    self._store.add(keys[number], batch)
    bar.update(len(batch))

  def _identity(self, policy: Policy) -> Mapping[str, object]:
    """Return everything but the prompts that decides a continuation."""
    request = self._request
    return {
      **bindings.bindings(
        policy, self._model, dtype=request.dtype, progress=self._progress
      ),
      'max_new_tokens': request.max_new_tokens,
      'eos_ids': self._prompts.eos_ids,
      'batch_size': request.batch_size,
      'dtype': request.dtype,
      'eejax': __version__,
      'jax': jax.__version__,
      'platform': jax.default_backend(),
    }


def _title(part: Part, policy: Policy) -> str:
  title = _TITLES[part]
  if policy == FULL_DEPTH:
    return f'{title}: texts of the full model'
  thresholds = format_thresholds(policy.thresholds)
  return f'{title}: {policy.criterion} at {thresholds}'
