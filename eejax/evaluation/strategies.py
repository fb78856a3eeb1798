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
"""Strategies of decoding that a benchmark compares, and grids of them."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from eejax.config import EarlyExitConfig
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.criteria import default_criterion
from eejax.decoding.policy.policy import (
  KVStrategy,
  Mode,
  Policy,
  Threshold,
)
from eejax.ops.sampling import SamplingMethod

_SPECULATIVE_BATCHINGS = (Batching.RIDE_ALONG, Batching.DEPTH_QUEUE)


@dataclasses.dataclass(frozen=True)
class Strategy:
  """A policy and how many rows are decoded together.

  Attributes:
    policy: when exits are used.
    batch_size: rows decoded together.
  """

  policy: Policy
  batch_size: int = 1

  @property
  def is_full(self) -> bool:
    """Return whether this is full decoding, which uses no exits."""
    return self.policy.mode is Mode.FULL

  def values(self) -> dict[str, Any]:
    """Return the strategy as plain values, which identify its measurement."""
    policy = self.policy.to_json()
    del policy['backbone_hash']
    return {**policy, 'batch_size': self.batch_size}

  def check(self, config: EarlyExitConfig) -> None:
    """Check that a model can be decoded like this.

    Raises:
      ArgumentError: its exits do not fit the policy.
    """
    make_plan(config, policy=self.policy, method=SamplingMethod.GREEDY)


@dataclasses.dataclass(frozen=True)
class Grid:
  """All combinations of settings that make sense together.

  Attributes:
    criteria: scores; None is `gate` where every exit has one, else `max_prob`.
    thresholds: of early exit, each for all exits.
    draft_thresholds: of speculation, each for all exits.
    kv_strategies: of early exit.
    batchings: where there is more than one row.
    prompt_lookups: of speculation, see `Policy.prompt_lookup`.
    modes: besides full decoding, which is always measured.
  """

  criteria: tuple[str, ...] | None = None
  thresholds: tuple[Threshold, ...] = (0.5, 0.8, 0.95)
  draft_thresholds: tuple[Threshold, ...] = (0.4,)
  kv_strategies: tuple[KVStrategy, ...] = (KVStrategy.DEFERRED,)
  batchings: tuple[Batching, ...] = (Batching.RIDE_ALONG,)
  prompt_lookups: tuple[int | None, ...] = (None, 2)
  modes: tuple[Mode, ...] = (Mode.EARLY_EXIT, Mode.SPECULATIVE)

  def strategies(
    self,
    config: EarlyExitConfig,
    *,
    batch_sizes: Sequence[int] = (1, 4),
    window: int = 8,
  ) -> tuple[Strategy, ...]:
    """Return the strategies, full decoding first for each batch size.

    Args:
      config: of the model.
      batch_sizes: rows decoded together.
      window: every `window`-th token at the latest goes to full depth.

    Raises:
      ArgumentError: a value cannot be used, or values not with one another.
    """
    criteria = self.criteria or (default_criterion(config),)
    strategies = []
    for size in batch_sizes:
      strategies.append(Strategy(Policy(), size))
      # Alone, a row waits for nobody.
      batchings = self.batchings if size > 1 else self.batchings[:1]
      for mode in self.modes:
        strategies += [
          Strategy(policy, size)
          for policy in self._policies(mode, criteria, batchings, window)
        ]
    return tuple(dict.fromkeys(strategies))

  def _policies(
    self,
    mode: Mode,
    criteria: tuple[str, ...],
    batchings: tuple[Batching, ...],
    window: int,
  ) -> list[Policy]:
    if mode is Mode.FULL:
      return []
    kv_strategies, thresholds = self.kv_strategies, self.thresholds
    lookups: tuple[int | None, ...] = (None,)
    if mode is Mode.SPECULATIVE:
      kv_strategies = (KVStrategy.DEFERRED,)
      thresholds, lookups = self.draft_thresholds, self.prompt_lookups
      batchings = tuple(b for b in batchings if b in _SPECULATIVE_BATCHINGS)
    return [
      Policy(
        mode,
        criterion,
        (threshold,),
        window=window,
        kv_strategy=kv_strategy,
        batching=batching,
        prompt_lookup=lookup,
      )
      for criterion, kv_strategy, batching, lookup, threshold in (
        itertools.product(
          criteria, kv_strategies, batchings, lookups, thresholds
        )
      )
    ]
