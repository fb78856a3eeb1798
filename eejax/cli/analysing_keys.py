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
"""Generate with every stand-in for keys and values, to see what it does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

from eejax.analysis.sections import SectionSettings
from eejax.cli import output

if TYPE_CHECKING:
  from eejax.capture.captured import Captured
  from eejax.checkpoint.model import Model
  from eejax.decoding.policy.policy import KVStrategy

BUDGET = 0.05


def key_damage(
  model: 'Model',
  captured: 'Captured',
  settings: SectionSettings,
  *,
  dtype: str,
  rows: int = 8,
  new_tokens: int = 64,
  stretch: int = 16,
  strategies: Sequence['KVStrategy'] | None = None,
) -> dict[str, Any]:
  """Return what leaving early, and each stand-in, does to generated text.

  A model without exits gets natural ones at a quarter, a half and three
  quarters of its depth. The gate is the largest probability, its threshold
  the one that changes 5 % of the tokens of the captured text; where none does,
  a sentence says so.

  Args:
    model: the model.
    captured: a text read by it.
    settings: how sections are computed.
    dtype: what is decoded in.
    rows: prompts.
    new_tokens: generated of each.
    stretch: tokens whose agreement is given together.
    strategies: to be compared; None is every one that stands in.
  """
  from eejax.analysis.natural.kv_damage import kv_damage
  from eejax.analysis.suitability.gate_scores import Gate
  from eejax.analysis.suitability.skip import SweepSettings, skip_at, sweep
  from eejax.capture.captured import ReadoutKind
  from eejax.cli.analysing_capture import beginnings
  from eejax.decoding.policy.policy import KVStrategy, Mode, Policy

  config, params = _with_exits(model)
  natural = not model.config.exits
  kind = ReadoutKind.NATURAL if natural else ReadoutKind.EXIT
  read = captured.only(kind)
  if natural:
    last = len(read.readouts) - 1
    at = [
      i
      for i, r in enumerate(read.readouts)
      if r.depth in config.exit_depths and i != last
    ]
    read = read.at_readouts((*at, last))
  swept = sweep(read, settings=SweepSettings((Gate.MAX_PROB,), readouts=kind))
  found = skip_at(swept, BUDGET, bootstrap=settings.bootstrap)
  if found.skip.value == 0:
    return {
      'nothing': (
        f'No threshold lets a token leave early with at most {BUDGET:.0%} of '
        'them changed, so there is no damage to measure.'
      )
    }
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (found.threshold,))
  with output.waiting('generating with each stand-in for keys and values'):
    damage = kv_damage(
      params,
      config=config,
      prompts=beginnings(captured, rows=rows),
      policy=policy,
      new_tokens=new_tokens,
      stretch=stretch,
      strategies=strategies
      or (KVStrategy.PROPAGATE, KVStrategy.COPY, KVStrategy.MASK),
      dtype=dtype,
      bootstrap=settings.bootstrap,
    )
  return {
    'wrong_tokens': damage.wrong_tokens,
    'by_strategy': damage.by_strategy,
    'wrong_keys_and_values': damage.wrong_keys_and_values,
    'new_tokens': damage.new_tokens,
    'exits': 'natural' if natural else 'trained',
    'exit_depths': config.exit_depths,
    'threshold': found.threshold,
    'prompts': rows,
  }


def _with_exits(model: 'Model'):
  """Return a model's exits, or natural ones where it has none."""
  from eejax.checkpoint import surgery
  from eejax.config import parse_exits

  if model.config.exits:
    return model.config, model.params
  layers = model.config.model.num_layers
  depths = sorted({max(layers * k // 4, 1) for k in (1, 2, 3)})
  # A norm exit starts as a copy of the final norm before the same matrix.
  exits = parse_exits(','.join(f'{d}:norm' for d in depths))
  config = model.config.with_exits(exits)
  params, _ = surgery.add_exits(
    model.params, model.config, exits, key=jax.random.key(0)
  )
  return config, params
