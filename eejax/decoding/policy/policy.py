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
"""Policies: when to leave the model early, and what becomes of the rest."""

import dataclasses
import enum
import os
from typing import Any

import numpy as np

from eejax import serialization
from eejax.config import EarlyExitConfig, ExitConfig
from eejax.config.field_types import check_fields
from eejax.decoding.policy import certificate as certificate_lib
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.certificate import Certificate
from eejax.decoding.policy.criteria import get_criterion
from eejax.decoding.policy.modes import KVStrategy, Mode
from eejax.decoding.policy.scored_vocabulary import (
  Scored,
  parse_scored_vocabulary,
)
from eejax.decoding.policy.threshold_values import (
  NEVER,
  Threshold,
  parse_threshold,
  threshold_values,
)
from eejax.decoding.policy.thresholds import parse_threshold_rule
from eejax.errors import ArgumentError
from eejax.types import Float

_ENUMS = {'mode': Mode, 'kv_strategy': KVStrategy, 'batching': Batching}

# A compiled step compares so many tokens with the whole text, one by one.
MOST_LOOKED_UP = 64

# Fields that had another name in files that were written before.
_FORMER_NAMES = {'draft_lookup': 'prompt_lookup'}


@dataclasses.dataclass(frozen=True)
class Policy:
  """When a row of a batch takes an exit.

  Attributes:
    mode: what is done with exits.
    criterion: name of the score, see `eejax.decoding.policy.criteria`.
    thresholds: a row exits iff its score >= the exit's threshold, in [0, 1];
      one for all exits or one an exit, shallowest first. 0 always exits, so
      the model ends there; None never does.
    minimum_depth: exits at this depth or deeper alone are used.
    window: every `window`-th token at the latest goes through the whole
      model; it bounds how many tokens wait for their deeper keys and values.
    kv_strategy: what stands in for keys and values of skipped blocks.
    batching: which rows of a batch wait for which.
    draft_depth: the exit that drafts in `SPECULATIVE`; None chooses among all
      exits as acceptance shows.
    draft_length: tokens drafted at most before they are verified; None
      chooses as acceptance shows, fewer than `window`. Drafting also stops
      where the score is below the exit's threshold.
    prompt_lookup: how many tokens at the end of a text must have stood in it
      before for what followed there to be drafted, see
      `eejax.decoding.drafting.prompt_lookup`; None looks nothing up, and 64
      is the most.
    threshold_rule: how thresholds change while a row is decoded, see
      `eejax.decoding.policy.thresholds`.
    scored_vocabulary: which tokens a score is computed over, see
      `eejax.decoding.policy.scored_vocabulary`.
    backbone_hash: the model that thresholds were fitted for, or None; see
      `eejax.decoding.policy.bindings.backbone_identity`.
    certificate: what the thresholds were certified for, or None; see
      `eejax.decoding.policy.check_use`.
    note: what whoever made the policy says of it, for people.

  Example:
    >>> policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.9, None))
    >>> Policy.from_json(policy.to_json()) == policy
    True
  """

  mode: Mode = Mode.FULL
  criterion: str = 'max_prob'
  thresholds: tuple[Threshold, ...] = (None,)
  minimum_depth: int = 0
  window: int = 8
  kv_strategy: KVStrategy = KVStrategy.DEFERRED
  batching: Batching = Batching.RIDE_ALONG
  draft_depth: int | None = None
  draft_length: int | None = None
  prompt_lookup: int | None = None
  threshold_rule: str = 'constant'
  scored_vocabulary: str = 'whole'
  backbone_hash: str | None = None
  certificate: Certificate | None = None
  note: str = ''

  def __post_init__(self):
    check_fields(self)
    numbers = tuple(None if t is None else float(t) for t in self.thresholds)
    object.__setattr__(self, 'thresholds', numbers)
    self._check_criterion()
    if not self.thresholds:
      raise ArgumentError('a policy needs a threshold, or never.')
    for threshold in self.thresholds:
      if threshold is not None and not 0 <= threshold <= 1:
        raise ArgumentError(
          f'a threshold must lie in [0, 1] or be never, not {threshold}.'
        )
    if self.window < 1:
      raise ArgumentError(f'window must be at least 1, not {self.window}.')
    if self.minimum_depth < 0:
      raise ArgumentError(
        f'minimum depth must be at least 0, not {self.minimum_depth}.'
      )

    self._check_modes()

  def _check_criterion(self) -> None:
    reads = get_criterion(self.criterion).reads
    parse_threshold_rule(self.threshold_rule)
    vocabulary = parse_scored_vocabulary(self.scored_vocabulary)
    is_read = reads.asks_head or self.mode is Mode.SPECULATIVE
    if vocabulary.kind is not Scored.WHOLE and not is_read:
      raise ArgumentError(
        f'criterion {self.criterion} reads no logits, so the scored vocabulary '
        f'{vocabulary.notation} changes nothing; leave it out.'
      )

  def _check_modes(self) -> None:
    if self.draft_length is not None and self.draft_length < 1:
      raise ArgumentError(
        f'draft length must be at least 1, not {self.draft_length}.'
      )
    lookup = self.prompt_lookup
    if lookup is not None and not 1 <= lookup <= MOST_LOOKED_UP:
      raise ArgumentError(
        f'prompt lookup must be from 1 to {MOST_LOOKED_UP}, not {lookup}.'
      )
    self._check_batching()
    if self.threshold_rule.startswith('adaptive'):
      self._check_learning()
    if self.mode is Mode.SPECULATIVE:
      self._check_speculation()

  def _check_batching(self) -> None:
    if self.batching is not Batching.DEPTH_QUEUE:
      return
    if self.kv_strategy is KVStrategy.RECOMPUTE:
      raise ArgumentError(
        'the kv strategy recompute starts every token from the embedding, so '
        'rows cannot wait halfway; use another batching than depth_queue.'
      )
    if self.threshold_rule.startswith('adaptive'):
      raise ArgumentError(
        'adaptive thresholds learn from tokens that pass all exits at once; '
        'use another batching than depth_queue.'
      )

  def _check_learning(self) -> None:
    if not self.kv_strategy.is_exact:
      raise ArgumentError(
        'adaptive thresholds learn from tokens at full depth, which the kv '
        f'strategy {self.kv_strategy.value} does not force; use deferred or '
        'recompute.'
      )

  def _check_speculation(self) -> None:
    if get_criterion(self.criterion).reads.remembers:
      raise ArgumentError(
        f'criterion {self.criterion} compares exits, and speculative decoding '
        'asks the one that drafts; use another criterion.'
      )
    vocabulary = parse_scored_vocabulary(self.scored_vocabulary)
    if vocabulary.kind is Scored.CANDIDATES:
      raise ArgumentError(
        'candidates are settled by the first exit, and speculative decoding '
        'asks the one that drafts; use another scored vocabulary.'
      )
    if self.kv_strategy is not KVStrategy.DEFERRED:
      raise ArgumentError(
        'speculative decoding verifies with exact keys and values; use the '
        f'kv strategy deferred, not {self.kv_strategy.value}.'
      )
    if self.batching is Batching.REFERENCE:
      raise ArgumentError(
        'speculative decoding knows the batchings ride_along and '
        f'depth_queue, not {self.batching.value}.'
      )
    if self.threshold_rule != 'constant':
      raise ArgumentError(
        'speculative decoding loses nothing by a wrong draft, so its '
        f'thresholds stay constant; {self.threshold_rule} is for early_exit.'
      )

  @property
  def drafts_from_text(self) -> bool:
    """Return whether texts draft, so that a model needs no exits."""
    is_speculative = self.mode is Mode.SPECULATIVE
    return is_speculative and self.prompt_lookup is not None

  def usable_exits(
    self, config: EarlyExitConfig
  ) -> tuple[tuple[ExitConfig, Threshold], ...]:
    """Return the exits a row may take with their thresholds, in order.

    Raises:
      ArgumentError: there is none and the text does not draft, the thresholds
        are not one an exit, or the criterion cannot be used.
    """
    exits = config.exits
    if not exits and self.drafts_from_text:
      return ()
    if not exits:
      raise ArgumentError(
        'this model has no exits; add some with eejax add-exits, or decode '
        'with mode full.'
      )
    thresholds = self.thresholds
    if len(thresholds) == 1:
      thresholds = thresholds * len(exits)
    if len(thresholds) != len(exits):
      depths = ', '.join(str(e.depth) for e in exits)
      raise ArgumentError(
        f'there are {len(thresholds)} thresholds for {len(exits)} exits (at '
        f'depths {depths}); give one for all or one an exit.'
      )
    usable = tuple(
      (e, t)
      for e, t in zip(exits, thresholds, strict=True)
      if e.depth >= self.minimum_depth
    )
    if not usable:
      raise ArgumentError(
        f'no exit is as deep as the minimum depth {self.minimum_depth}; the '
        f'deepest is at {config.deepest_exit}.'
      )
    get_criterion(self.criterion).check(tuple(e for e, _ in usable))
    vocabulary = parse_scored_vocabulary(self.scored_vocabulary)
    vocabulary.check_size(config.model.vocab_size)
    return usable

  def resolve(self, config: EarlyExitConfig) -> Float[np.ndarray, 'E']:
    """Return the threshold of every exit of a model as a number.

    Args:
      config: the model with its E exits.

    Returns:
      One an exit, shallowest first. Infinity, which no score reaches, where
      the policy says never or the exit is above the minimum depth.

    Raises:
      ArgumentError: as of `usable_exits`.
    """
    usable = {e.depth: t for e, t in self.usable_exits(config)}
    return threshold_values([usable.get(d) for d in config.exit_depths])

  # MARK: Other policies

  def with_mode(self, mode: Mode | str | None) -> 'Policy':
    """Return the policy in another mode, or as it is for None.

    A certificate speaks of the mode it was made in, and is left out.

    Raises:
      ArgumentError: there is no such mode, or it does not go with the rest.
    """
    if mode is None:
      return self
    try:
      mode = Mode(mode)
    except ValueError:
      known = ', '.join(m.value for m in Mode)
      raise ArgumentError(
        f'mode must be one of {known}, not {mode!r}.'
      ) from None
    if mode is self.mode:
      return self
    return dataclasses.replace(self, mode=mode, certificate=None)

  def without_certificate(self) -> 'Policy':
    """Return the same policy, of which nothing is promised."""
    return dataclasses.replace(self, certificate=None)

  # MARK: Files

  def to_json(self) -> dict[str, Any]:
    """Return the policy as plain values that `json` can write."""
    values = {
      f.name: serialization.plain(getattr(self, f.name))
      for f in dataclasses.fields(self)
    }
    values['thresholds'] = [NEVER if t is None else t for t in self.thresholds]
    if self.certificate is None:
      del values['certificate']
    return values

  @classmethod
  def from_json(
    cls, values: dict[str, Any], *, certified: bool = True
  ) -> 'Policy':
    """Rebuild a policy that `to_json` wrote.

    Args:
      values: its fields; those that are not there take their defaults, but a
        certified policy must have all.
      certified: whether its certificate is read; False leaves it out.

    Raises:
      ArgumentError: a field is unknown, missing or out of range, or the
        certificate is of an earlier version of eejax.
    """
    fields = {_FORMER_NAMES.get(k, k): v for k, v in values.items()}
    if not certified:
      fields.pop('certificate', None)
    _check_names(fields)
    try:
      for name, kind in _ENUMS.items():
        if name in fields:
          fields[name] = _member(kind, name, fields[name])
      if 'thresholds' in fields:
        fields['thresholds'] = tuple(map(parse_threshold, fields['thresholds']))
      if fields.get('certificate') is not None:
        certificate = certificate_lib.from_json(fields['certificate'])
        fields['certificate'] = certificate
      return cls(**fields)
    except (TypeError, ValueError) as error:
      if isinstance(error, ArgumentError):
        raise
      raise ArgumentError(f'the policy is broken: {error}.') from error

  def save(self, path: str | os.PathLike) -> None:
    """Write the policy as a JSON file, whole or not at all."""
    serialization.write_json(path, self.to_json())

  @classmethod
  def load(cls, path: str | os.PathLike, *, certified: bool = True) -> 'Policy':
    """Read a policy file.

    Whether it fits a model is checked where it is used.

    Args:
      path: the file.
      certified: whether its certificate is read; False leaves it out.

    Raises:
      ArgumentError: it is not there, no JSON object, or no policy.
    """
    values = serialization.read_object(path, what='policy')
    return cls.from_json(values, certified=certified)


def _member(kind: type[enum.Enum], name: str, value: Any) -> enum.Enum:
  known = [member.value for member in kind]
  if value not in known:
    raise ArgumentError(
      f'the policy has {name.replace("_", " ")} {value!r}, which this version '
      f'of eejax does not know; calibrate again, or take one of '
      f'{", ".join(known)}.'
    )
  return kind(value)


def _check_names(fields: dict[str, Any]) -> None:
  """Check that all fields are a policy's and, certified, all are there."""
  known = {f.name for f in dataclasses.fields(Policy)}
  unknown = sorted(set(fields) - known)
  if unknown:
    raise ArgumentError(
      f'a policy has no field {unknown[0]!r}; it has '
      f'{", ".join(sorted(known))}.'
    )
  missing = sorted(known - set(fields))
  if fields.get('certificate') is not None and missing:
    raise ArgumentError(
      f'the policy has a certificate and no {missing[0]}, so it was changed '
      'after it was certified; calibrate again, or leave its certificate out.'
    )
