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
"""Time the ways to decode that `probe` predicts to pay."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eejax.analysis.judging import natural_config
from eejax.analysis.verdict import Answer, Verdict, Way
from eejax.capture.captured import Captured
from eejax.checkpoint.model import Model
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.evaluation.wall_clock import interleaved
from eejax.stats.bootstrap import Interval

PROMPTS, PROMPT_TOKENS, NEW_TOKENS, REPEATS = 4, 24, 48, 4


def with_times(
  found: Verdict,
  model: Model,
  captured: Captured,
  *,
  window: int,
  dtype: str,
) -> Verdict:
  """Return a verdict whose ways that should pay have been timed.

  Args:
    found: the verdict.
    model: that it is about.
    captured: prompts are beginnings of its rows.
    window: of the decoder.
    dtype: compute dtype.
  """
  prompts = _prompts(captured, model.config.model.max_length)
  if not prompts:
    return found
  timed = functools.partial(
    _timed, model=model, prompts=prompts, window=window, dtype=dtype
  )
  return dataclasses.replace(
    found, lossless=timed(found.lossless), lossy=timed(found.lossy)
  )


def _timed(
  way: Way,
  *,
  model: Model,
  prompts: Sequence[list[int]],
  window: int,
  dtype: str,
) -> Way:
  if way.answer is Answer.NO or not way.depths:
    return way
  params, config = model.params, model.config
  if way.source == 'natural exits':
    config = natural_config(config.model, way.depths)
    norm = params['backbone']['final_norm']
    exits: dict[str, Any] = {e.name: {'norm': norm} for e in config.exits}
  else:
    chosen = tuple(e for e in config.exits if e.depth in way.depths)
    config = config.with_exits(chosen)
    exits = {e.name: params['exits'].get(e.name, {}) for e in chosen}
  ready = prepare({**params, 'exits': exits}, config=config, dtype=dtype)
  if way.drafts:
    policy = Policy(
      Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=way.drafts
    )
  else:
    policy = Policy(
      Mode.EARLY_EXIT, way.criterion, way.thresholds, window=window
    )

  def decode(prompt: list[int], how: Policy) -> float:
    result = generate(
      ready,
      config=config,
      prompts=[prompt],
      policy=how,
      max_new_tokens=NEW_TOKENS,
      eos_ids=(-1,) * len(config.model.eos_ids),
    )
    return result.timing.decode_s

  full, ours = [], []
  for prompt in prompts:
    seconds = interleaved(
      {
        'full': functools.partial(decode, prompt, Policy()),
        'ours': functools.partial(decode, prompt, policy),
      },
      repeats=REPEATS,
    )
    full.append(min(seconds['full']))
    ours.append(min(seconds['ours']))
  ratios = [a / b for a, b in zip(full, ours, strict=True)]
  measured = Interval(sum(full) / sum(ours), min(ratios), max(ratios))
  return dataclasses.replace(way, measured=measured)


def _prompts(captured: Captured, max_length: int) -> list[list[int]]:
  """Return the beginnings of a few rows that are long enough."""
  if PROMPT_TOKENS + NEW_TOKENS > max_length:
    return []
  found = []
  for row in np.unique(captured.row):
    tokens = captured.token[captured.row == row][:PROMPT_TOKENS]
    if len(tokens) == PROMPT_TOKENS:
      found.append(tokens.tolist())
  chosen = np.linspace(0, len(found) - 1, min(PROMPTS, len(found)))
  return [found[int(i)] for i in chosen.round()]
