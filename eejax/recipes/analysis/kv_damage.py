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
"""Damage of approximate keys and values, measured on generated text."""

from collections.abc import Sequence
from typing import Any

import jax

from eejax.analysis.natural.kv_damage import kv_damage
from eejax.analysis.sections import SectionSettings
from eejax.analysis.suitability.skip import (
  Skip,
  SweepSettings,
  skip_at,
  sweep,
)
from eejax.capture.captured import Captured, ReadoutKind
from eejax.checkpoint import surgery
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, parse_exits
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.progress import SILENT, Progress
from eejax.recipes.analysis.captures import row_prefixes
from eejax.types import Params

# Share of the tokens of the captured text that the gate's threshold changes.
BUDGET = 0.05
APPROXIMATIONS = (KVStrategy.PROPAGATE, KVStrategy.COPY, KVStrategy.MASK)
NO_THRESHOLD = (
  f'No threshold lets a token exit early with at most {BUDGET:.0%} of the '
  'tokens changed, so there is no damage to measure.'
)

HAS_STATES = (
  'Blocks of this model keep states, and the damage of stand-ins is measured '
  'for keys and values alone.'
)


def damage_by_strategy(
  model: Model,
  captured: Captured,
  settings: SectionSettings,
  *,
  dtype: str = 'float32',
  prompts: Sequence[Sequence[int]] | None = None,
  rows: int = 8,
  new_tokens: int = 64,
  stretch: int = 16,
  strategies: Sequence[KVStrategy] = APPROXIMATIONS,
  progress: Progress = SILENT,
) -> dict[str, Any]:
  """Return what early exit and each approximation of K/V do to text.

  The exits are those of the model, or natural ones at a quarter, a half and
  three quarters of its depth where it has none. The gate is the largest
  probability, with the threshold that changes 5 % of the tokens of the
  captured text; where there is none, the result has a sentence, `nothing`.

  Args:
    model: generates.
    captured: a text that it read; rows of it begin the prompts.
    settings: how sections are computed.
    dtype: compute dtype.
    prompts: token ids, in place of beginnings of rows.
    rows: prompts at most.
    new_tokens: tokens generated of each.
    stretch: tokens whose agreement is given together.
    strategies: what is written for the keys and values of skipped blocks.
    progress: is told while the model generates.
  """
  if model.config.model.state_space is not None:
    return {'nothing': HAS_STATES}
  config, params = _with_exits(model)
  is_natural = not model.config.exits
  best = _skip_at_budget(captured, config, settings, is_natural=is_natural)
  if best.threshold is None or best.skip.value == 0:
    return {'nothing': NO_THRESHOLD}
  if prompts is None:
    prompts = row_prefixes(captured, rows=rows)
  prompts = prompts[:: max(len(prompts) // rows, 1)][:rows]
  with progress.waiting('generating with approximate keys and values'):
    damage = kv_damage(
      params,
      config=config,
      prompts=prompts,
      policy=Policy(Mode.EARLY_EXIT, 'max_prob', (best.threshold,)),
      new_tokens=new_tokens,
      stretch=stretch,
      strategies=strategies,
      dtype=dtype,
      bootstrap=settings.bootstrap,
    )
  return {
    'wrong_tokens': damage.wrong_tokens,
    'by_strategy': damage.by_strategy,
    'wrong_keys_and_values': damage.wrong_keys_and_values,
    'new_tokens': damage.new_tokens,
    'exits': 'natural' if is_natural else 'trained',
    'exit_depths': config.exit_depths,
    'threshold': best.threshold,
    'prompts': len(prompts),
  }


def _skip_at_budget(
  captured: Captured,
  config: EarlyExitConfig,
  settings: SectionSettings,
  *,
  is_natural: bool,
) -> Skip:
  """Return the largest skip of the gate at the exits within the budget."""
  kind = ReadoutKind.NATURAL if is_natural else ReadoutKind.EXIT
  at_exits = captured.only(kind)
  if is_natural:
    last = len(at_exits.readouts) - 1
    chosen = [
      i
      for i, r in enumerate(at_exits.readouts)
      if r.depth in config.exit_depths and i != last
    ]
    at_exits = at_exits.at_readouts((*chosen, last))
  swept = sweep(at_exits, settings=SweepSettings(('max_prob',), readouts=kind))
  return skip_at(swept, BUDGET, bootstrap=settings.bootstrap)


def _with_exits(model: Model) -> tuple[EarlyExitConfig, Params]:
  """Return a model with its exits, or with natural ones if it has none."""
  if model.config.exits:
    return model.config, model.params
  layers = model.config.model.num_layers
  depths = sorted({max(layers * k // 4, 1) for k in (1, 2, 3)})
  # A norm exit starts as a copy of the final norm before the same matrix.
  exits = parse_exits(','.join(f'{d}:norm' for d in depths))
  params, _ = surgery.add_exits(
    model.params, model.config, exits, key=jax.random.key(0)
  )
  return model.config.with_exits(exits), params
