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
"""The quickstart's decoding stages: thresholds, wall clock, samples."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from eejax.analysis.cost_model import DecodeCost, decode_cost
from eejax.checkpoint.model import Model
from eejax.cli import measuring, output
from eejax.cli.quickstart_settings import Models, Settings
from eejax.cli.quickstart_speed import GRID, Found, Timing
from eejax.data.batch import Packing
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import (
  Mode,
  Policy,
  Threshold,
)
from eejax.errors import ArgumentError, EejaxError
from eejax.evaluation import scores, sweep
from eejax.evaluation.part_times import PartTimes, part_times
from eejax.recipes.calibrate import run_calibration
from eejax.recipes.calibration.result import CalibrationResult
from eejax.recipes.stages import Stages
from eejax.recipes.text import read_text

PROMPT_TOKENS = 32
POLICY = 'policy.json'
SAMPLES = 3


def run(settings: Settings, models: Models, stages: Stages) -> dict[str, Any]:
  """Run the decoding stages; return their part of the summary."""
  thresholds = stages.run(
    'thresholds',
    functools.partial(_thresholds, settings, models, models.folder),
    inputs=[settings.target, settings.window],
  )
  speed = stages.run(
    'speed',
    functools.partial(_speed, settings, models, thresholds),
    inputs=[settings.prompts, settings.new_tokens, settings.repeats],
  )
  samples = stages.run(
    'samples', functools.partial(_samples, settings, models, thresholds)
  )
  return {'sweep': thresholds, 'speed': speed, 'samples': samples}


# MARK: Thresholds


def _thresholds(
  settings: Settings, models: Models, folder: pathlib.Path
) -> dict[str, Any]:
  """Certify thresholds, and measure them and others on held-out text."""
  model = models.tuned
  found, times, words = certify(settings, model, folder / POLICY)
  policy = None if found is None else found.certified
  exits = len(model.config.exits)
  never: tuple[Threshold, ...] = (None,) * exits
  batches = measuring.read_text(
    model, settings.text('validation'), packing=Packing.ONE_PER_ROW
  )
  logged = scores.collect_scores(
    model.params,
    output.track(batches, 'scoring', unit='step'),
    config=model.config,
    criteria=measuring.usable_criteria(model),
  )

  def cost_of(name: str) -> DecodeCost:
    asked = Policy(Mode.EARLY_EXIT, name, (0.5,), window=settings.window)
    return decode_cost(model.config, asked, times=times)

  chosen = {} if found is None else {p.criterion: p for p in found.paths}
  best = next(iter(logged)) if found is None else found.paths[0].criterion

  def point(name: str, thresholds: Sequence[Threshold]) -> sweep.SweepPoint:
    (measured,) = sweep.evaluate_settings(
      logged[name],
      [thresholds],
      window=settings.window,
      speedup=cost_of(name).speedup,
    )
    if any(t is not None for t in thresholds):
      return measured
    # Where no exit is taken, none is compiled in: that is full decoding.
    return dataclasses.replace(measured, predicted_speedup=1.0)

  thresholds = never if policy is None else policy.thresholds
  return {
    'criterion': best,
    'window': settings.window,
    'part_times': times,
    'window_factor': times.window_factor,
    'tokens': logged[best].num_tokens,
    'exit_depths': logged[best].depths,
    'points': sweep.sweep(
      logged[best],
      window=settings.window,
      speedup=cost_of(best).speedup,
      grid=GRID,
    ),
    'certified': words,
    'calibrated': {
      'target': settings.target,
      'thresholds': thresholds,
      'held_out': point(best, thresholds),
    },
    'criteria': [
      {
        'criterion': name,
        'calibrated': {
          'held_out': point(
            name, chosen[name].decisive if name in chosen else never
          )
        },
        'coverage': sweep.coverage(logged[name], precision=settings.target),
      }
      for name in logged
    ],
  }


def certify(
  settings: Settings, model: Model, out: pathlib.Path
) -> tuple[CalibrationResult | None, PartTimes, dict[str, Any]]:
  """Certify thresholds for what the target lets differ.

  Returns:
    What was found, None where there is too little text or nothing saves time;
    the times of the parts of decoding; and what `--json` of `calibrate` has.
  """
  with output.waiting('timing the parts of decoding'):
    times = part_times(
      prepare(model.params, config=model.config),
      config=model.config,
      window=settings.window,
    )
  out.unlink(missing_ok=True)
  try:
    request = settings.calibration(model.config.model.max_length)
    found = run_calibration(
      model,
      read_text(settings.data, split='validation', unit=settings.unit),
      request,
      folder=out.with_name(f'.{out.name}.decoded'),
      times=times,
      progress=output.reporter(),
    )
  except EejaxError as error:
    return None, times, {'certified': False, 'sentence': str(error)}
  if found.certified is not None:
    found.certified.save(out)
  return found, times, found.to_json()


def _speed(
  settings: Settings, models: Models, result: dict[str, Any]
) -> dict[str, Any]:
  timing = Timing(
    models.tuned,
    Found.of(result),
    prompts=held_out_prompts(models.tuned, settings),
    new_tokens=settings.new_tokens,
  )
  timing.run(repeats=settings.repeats)
  return {**timing.result(), 'repeats': settings.repeats}


# MARK: Samples


def held_out_prompts(model: Model, settings: Settings) -> list[list[int]]:
  """Return the beginnings of pieces of text that nothing was tuned on.

  Raises:
    ArgumentError: no piece is long enough.
  """
  room = model.config.model.max_length - settings.new_tokens
  length = min(PROMPT_TOKENS, room)
  if length < 1:
    raise ArgumentError(
      f'the context of the model is {model.config.model.max_length} tokens; '
      'give fewer --new-tokens.'
    )
  batches = measuring.read_text(
    model, settings.text('test'), packing=Packing.ONE_PER_ROW
  )
  rows = [
    row[:length].tolist()
    for batch in batches
    for row, weights in zip(batch.tokens, batch.weights, strict=True)
    if weights.sum() >= length
  ]
  if not rows:
    raise ArgumentError(
      f'no held-out text has {length} tokens to begin with; give longer '
      'documents, for example with --unit file.'
    )
  chosen = np.linspace(0, len(rows) - 1, min(settings.prompts, len(rows)))
  return [rows[int(i)] for i in chosen.round()]


def sample_thresholds(found: Found) -> tuple[Threshold, ...]:
  """Return the calibrated thresholds, or loose ones where none pay."""
  if found.uses_exits:
    return found.calibrated
  return (GRID[0],) * len(found.calibrated)


def _samples(
  settings: Settings, models: Models, result: dict[str, Any]
) -> dict[str, Any]:
  model, found = models.tuned, Found.of(result)
  thresholds = sample_thresholds(found)
  policy = found.policy(thresholds)
  tokenizer = measuring.open_tokenizer(model)
  prompts = held_out_prompts(model, settings)[:SAMPLES]
  go_on = functools.partial(
    generate,
    prepare(model.params, config=model.config),
    config=model.config,
    max_new_tokens=settings.new_tokens,
  )
  samples = []
  for prompt in output.track(prompts, 'writing', unit='text'):
    early = go_on(prompts=[prompt], policy=policy).rows[0]
    full = go_on(prompts=[prompt]).rows[0]
    samples.append(
      {
        'prompt': tokenizer.decode(prompt),
        'pieces': tokenizer.pieces(early.tokens, context=prompt),
        'depths': early.exit_depths,
        'scores': early.scores,
        'full_text': ''.join(tokenizer.pieces(full.tokens, context=prompt)),
        'same_tokens': _same_start(early.tokens, full.tokens),
      }
    )
  return {'thresholds': thresholds, 'texts': samples}


def _same_start(ours: Sequence[int], theirs: Sequence[int]) -> int:
  """Return how many tokens two texts have in common from the start."""
  for place, (a, b) in enumerate(zip(ours, theirs, strict=False)):
    if a != b:
      return place
  return min(len(ours), len(theirs))
