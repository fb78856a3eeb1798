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
from collections.abc import Sequence
from typing import Any

from eejax import serialization
from eejax.config import EarlyExitConfig, ExitConfig
from eejax.decoding.policy import certificate as certificate_lib
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.certificate import Certificate
from eejax.decoding.policy.criteria import Reads, get_criterion
from eejax.decoding.policy.thresholds import parse_threshold_rule
from eejax.decoding.policy.vocabulary import Scored, parse_scored_vocabulary
from eejax.errors import ArgumentError
from eejax.types import Params

NEVER = 'never'

# None stands for `never`: no score, however high, takes the exit.
Threshold = float | None


class Mode(enum.Enum):
  """What decoding does with exits.

  FULL: exits are not compiled in.
  EARLY_EXIT: a row that is confident enough takes an exit's token.
  SPECULATIVE: exits draft and the whole model verifies; what is emitted is
  what the whole model would have emitted.
  """

  FULL = 'full'
  EARLY_EXIT = 'early_exit'
  SPECULATIVE = 'speculative'


class KVStrategy(enum.Enum):
  """What stands in for keys and values of blocks a token skipped.

  DEFERRED: they are computed later, exactly; see `eejax.decoding.loop.step`.
  RECOMPUTE: exactly, too, by running every token since the last one at full
  depth from the embedding on (EE-LLM, arXiv 2312.04916, KV recomputation).
  PROPAGATE: each skipped block projects the stream at the exit (CALM, arXiv
  2207.07061, section 2.2).
  COPY: those of the last block that ran.
  MASK: nothing does; later tokens do not see the token there.
  MONOTONE: nothing needs to, for no later token goes deeper (SkipDecode,
  arXiv 2307.02628).
  """

  DEFERRED = 'deferred'
  RECOMPUTE = 'recompute'
  PROPAGATE = 'propagate'
  COPY = 'copy'
  MASK = 'mask'
  MONOTONE = 'monotone'

  @property
  def is_exact(self) -> bool:
    """Return whether keys and values are those of a full-depth pass."""
    return self in (KVStrategy.DEFERRED, KVStrategy.RECOMPUTE)

  @property
  def fills(self) -> bool:
    """Return whether a stand-in is written where a token skips a block."""
    return self in (KVStrategy.PROPAGATE, KVStrategy.COPY, KVStrategy.MASK)


@dataclasses.dataclass(frozen=True)
class Policy:
  """Say when a row takes an exit.

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
    draft_lookup: how many tokens at the end of a text must have stood in it
      before for what followed there to be drafted, see
      `eejax.decoding.drafting.prompt_lookup`; None looks nothing up.
    threshold_rule: how thresholds change while a row is decoded, see
      `eejax.decoding.policy.thresholds`.
    scored_vocabulary: which tokens a score is computed over, see
      `eejax.decoding.policy.vocabulary`.
    backbone_hash: the model that thresholds were fitted for, or None.
    certificate: what the thresholds were certified for, or None.
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
  draft_lookup: int | None = None
  threshold_rule: str = 'constant'
  scored_vocabulary: str = 'whole'
  backbone_hash: str | None = None
  certificate: Certificate | None = None

  def __post_init__(self):
    object.__setattr__(self, 'thresholds', tuple(self.thresholds))
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
    is_oracle = reads & Reads.FINAL and self.mode is not Mode.FULL
    if is_oracle and self.batching is not Batching.REFERENCE:
      raise ArgumentError(
        f'criterion {self.criterion} is an oracle, which needs the final '
        'output beforehand; use it with the batching reference.'
      )

  def _check_modes(self) -> None:
    if self.draft_length is not None and self.draft_length < 1:
      raise ArgumentError(
        f'draft length must be at least 1, not {self.draft_length}.'
      )
    if self.draft_lookup is not None and self.draft_lookup < 1:
      raise ArgumentError(
        f'draft lookup must be at least 1, not {self.draft_lookup}.'
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
    if get_criterion(self.criterion).reads & Reads.FINAL:
      raise ArgumentError(
        f'criterion {self.criterion} is an oracle and has nothing to learn; '
        'use it with the threshold rule constant.'
      )
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
    if self.batching in (Batching.REFERENCE, Batching.ALL_AGREE):
      raise ArgumentError(
        'speculative decoding knows the batchings ride_along and '
        f'depth_queue, not {self.batching.value}.'
      )
    if self.threshold_rule != 'constant':
      raise ArgumentError(
        'speculative decoding loses nothing by a wrong draft, so its '
        f'thresholds stay constant; {self.threshold_rule} is for early_exit.'
      )

  def usable_exits(
    self, config: EarlyExitConfig
  ) -> tuple[tuple[ExitConfig, Threshold], ...]:
    """Return the exits a row may take with their thresholds, in order.

    Raises:
      ArgumentError: there is none, the thresholds are not one an exit, or the
        criterion cannot be used.
    """
    exits = config.exits
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


_ENUMS = {'mode': Mode, 'kv_strategy': KVStrategy, 'batching': Batching}


def parse_thresholds(text: str) -> tuple[Threshold, ...]:
  """Read thresholds as the command line writes them.

  Example:
    >>> parse_thresholds('0.9,0.8,never')
    (0.9, 0.8, None)

  Raises:
    ArgumentError: a part is neither a number nor `never`.
  """
  return tuple(_parse_threshold(part.strip()) for part in text.split(','))


def format_thresholds(thresholds: Sequence[Threshold]) -> str:
  """Return thresholds as `parse_thresholds` reads them, to six digits."""
  return ','.join(NEVER if t is None else f'{t:.6g}' for t in thresholds)


def _parse_threshold(text: str) -> Threshold:
  if text == NEVER:
    return None
  try:
    return float(text)
  except ValueError:
    raise ArgumentError(
      f'{text!r} is not a threshold; give a number in [0, 1], or never.'
    ) from None


def with_mode(policy: Policy, mode: str | None) -> Policy:
  """Return `policy` in another mode, or as it is for None."""
  if mode is None:
    return policy
  return dataclasses.replace(policy, mode=Mode(mode))


def to_json(policy: Policy) -> dict[str, Any]:
  """Return `policy` as plain values that `json` can write."""
  values = dataclasses.asdict(policy)
  for name, value in values.items():
    if isinstance(value, enum.Enum):
      values[name] = value.value
  values['thresholds'] = [NEVER if t is None else t for t in policy.thresholds]
  if policy.certificate is None:
    del values['certificate']
  return values


def from_json(values: dict[str, Any]) -> Policy:
  """Rebuild a policy that `to_json` wrote; keys it does not know are errors.

  Raises:
    ArgumentError: a field is unknown or out of range.
  """
  known = {f.name for f in dataclasses.fields(Policy)}
  unknown = sorted(set(values) - known)
  if unknown:
    raise ArgumentError(
      f'a policy has no field {unknown[0]!r}; it has '
      f'{", ".join(sorted(known))}.'
    )
  fields = dict(values)
  try:
    for name, kind in _ENUMS.items():
      if name in fields:
        fields[name] = kind(fields[name])
    if 'thresholds' in fields:
      fields['thresholds'] = tuple(
        None if t == NEVER else float(t) for t in fields['thresholds']
      )
    if fields.get('certificate') is not None:
      fields['certificate'] = certificate_lib.from_json(fields['certificate'])
    return Policy(**fields)
  except (TypeError, ValueError) as error:
    if isinstance(error, ArgumentError):
      raise
    raise ArgumentError(f'the policy is broken: {error}.') from error


def save_policy(policy: Policy, path: str | os.PathLike) -> None:
  """Write a policy as a JSON file, as it was before or whole."""
  serialization.write_json(path, to_json(policy))


def load_policy(path: str | os.PathLike) -> Policy:
  """Read a policy file.

  Raises:
    ArgumentError: it is not there, no JSON object, or no policy.
  """
  return from_json(serialization.read_object(path, what='policy'))


def check_policy_fits(policy: Policy, backbone_hash: str | None) -> None:
  """Check that a policy was fitted for the model with this hash.

  Raises:
    ArgumentError: it was fitted for another one.
  """
  if policy.backbone_hash is None or backbone_hash is None:
    return
  if policy.backbone_hash != backbone_hash:
    raise ArgumentError(
      f'the policy was fitted for another model (its backbone is '
      f'{policy.backbone_hash[:12]}, this one {backbone_hash[:12]}); '
      'calibrate again on this one.'
    )


def check_certified_use(
  policy: Policy, params: Params, *, config: EarlyExitConfig, dtype: str
) -> None:
  """Check that a policy with a certificate is used as it was certified.

  Only early exit loses anything, so other modes are not looked at.

  Args:
    policy: to be followed.
    params: the model, exits beyond where it always ends left out.
    config: with the exits that `params` holds.
    dtype: what is computed in; `int8` where weights or caches are rounded.

  Raises:
    ArgumentError: it is used otherwise.
  """
  if policy.certificate is None or policy.mode is not Mode.EARLY_EXIT:
    return
  certificate_lib.check_certificate(
    policy.certificate,
    values=to_json(policy),
    params=params,
    config=config,
    dtype=dtype,
  )
