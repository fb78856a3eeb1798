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

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eejax.analysis.cost_model import DecodeCost, model_cost
from eejax.checkpoint.folder import Checkpoint
from eejax.cli import measuring, output
from eejax.cli.quickstart_settings import Models, Settings
from eejax.cli.stages import Stages
from eejax.data.batch import Batch, Packing
from eejax.decoding.criteria import Reads, criterion_names, get_criterion
from eejax.decoding.generate import generate
from eejax.decoding.policy import Mode, Policy, Threshold
from eejax.decoding.prepare import Prepared, prepare
from eejax.decoding.replay import Work, replay
from eejax.decoding.results import GeneratedRow
from eejax.errors import ArgumentError
from eejax.evaluation import scores, sweep, wall_clock
from eejax.evaluation.sweep import Search

# Timed besides the calibrated setting.
GRID: tuple[Threshold, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, None)
PROMPT_TOKENS = 32
SAMPLES = 3


def run(settings: Settings, models: Models, stages: Stages) -> dict[str, Any]:
  """Run the decoding stages; return their part of the summary."""
  thresholds = stages.run(
    'thresholds',
    functools.partial(_thresholds, settings, models),
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


def _thresholds(settings: Settings, models: Models) -> dict[str, Any]:
  model = models.tuned
  batches = measuring.read_text(
    model, settings.text('validation'), packing=Packing.ONE_PER_ROW
  )
  logged = scores.collect_scores(
    model.params,
    output.track(batches, 'scoring', unit='step'),
    config=model.config,
    criteria=usable_criteria(model),
  )
  with output.waiting('measuring windows'):
    factor = wall_clock.window_factor(
      prepare(model.params, config=model.config),
      config=model.config.model,
      window=settings.window,
    )
  found = {}
  for name in output.track(logged, 'searching', unit='score'):
    found[name] = sweep.calibrate(
      logged[name],
      window=settings.window,
      speedup=_cost(model, name, factor).speedup,
      search=Search(target=settings.target),
    )
  # Chosen on the same half as the thresholds.
  best = max(found, key=lambda name: found[name].tuned.predicted_speedup)
  points = sweep.sweep(
    logged[best].halves()[1],
    window=settings.window,
    speedup=_cost(model, best, factor).speedup,
    grid=GRID,
  )
  return {
    'criterion': best,
    'window': settings.window,
    'window_factor': factor,
    'tokens': logged[best].num_tokens,
    'exit_depths': logged[best].depths,
    'points': points,
    'calibrated': found[best],
    'criteria': [
      {'criterion': name, 'calibrated': one} for name, one in found.items()
    ],
  }


def usable_criteria(model: Checkpoint) -> tuple[str, ...]:
  """Return the criteria that every exit of a model can be asked by."""
  usable = []
  for name in criterion_names():
    with contextlib.suppress(ArgumentError):
      get_criterion(name).check(model.config.exits)
      usable.append(name)
  return tuple(usable)


def _cost(model: Checkpoint, criterion: str, factor: float) -> DecodeCost:
  return DecodeCost(
    model_cost(model.config),
    reads_logits=get_criterion(criterion).reads is Reads.LOGITS,
    window_factor=factor,
  )


def calibrated_thresholds(found: dict[str, Any]) -> tuple[Threshold, ...]:
  """Return the thresholds of the stage's result."""
  return tuple(found['calibrated']['tuned']['thresholds'])


# MARK: Wall clock


@dataclasses.dataclass
class _Timed:
  """Gather what one setting did.

  Attributes:
    thresholds: of every exit; None for full decoding.
    seconds: of each prompt, several times.
    rows: the last continuation of each prompt.
  """

  thresholds: tuple[Threshold, ...] | None
  seconds: list[list[float]]
  rows: list[GeneratedRow]


def _speed(
  settings: Settings, models: Models, found: dict[str, Any]
) -> dict[str, Any]:
  model = models.tuned
  prompts = held_out_prompts(model, settings)
  prepared = prepare(model.params, config=model.config)
  calibrated = calibrated_thresholds(found)
  exits = len(model.config.exits)
  settings_of = {
    'full': None,
    **{_name(t): (t,) * exits for t in GRID},
    'calibrated': calibrated,
  }
  timed = {k: _Timed(t, [], []) for k, t in settings_of.items()}
  with output.waiting('compiling the decoder'):
    for policy in (_policy(None, found), _policy(calibrated, found)):
      generate(
        prepared,
        config=model.config,
        prompts=prompts[:1],
        policy=policy,
        max_new_tokens=settings.new_tokens,
        eos_ids=(),
      )
  rounds = settings.repeats + 1
  total = len(prompts) * rounds * len(timed)
  with output.progress('timing', total=total, unit='run') as shown:
    for prompt in prompts:
      contestants = {
        name: functools.partial(
          _time_one, prepared, model, prompt, one, settings, found, shown
        )
        for name, one in timed.items()
      }
      seconds = wall_clock.interleaved(contestants, repeats=settings.repeats)
      for name, values in seconds.items():
        timed[name].seconds.append(values)
  cost = _cost(model, found['criterion'], found['window_factor'])
  full = timed.pop('full')
  points = {tuple(p['thresholds']): p for p in found['points']}
  own = _own_text(model, full.rows, list(timed.values()), found, cost)
  described = []
  for (name, one), own_point in zip(timed.items(), own, strict=True):
    is_calibrated = name == 'calibrated'
    point = found['calibrated']['held_out'] if is_calibrated else None
    assert one.thresholds is not None
    described.append(
      {
        **_describe(one, full, model, cost, found['window']),
        'calibrated': is_calibrated,
        'point': point or points[one.thresholds],
        'own_agreement': own_point.agreement,
      }
    )
  return {
    'prompts': len(prompts),
    'new_tokens': len(full.rows[0].tokens),
    'repeats': settings.repeats,
    'full_tokens_per_s': _tokens_per_s(full),
    'settings': described,
    'calibrated': described[-1],
  }


def _time_one(
  prepared: Prepared,
  model: Checkpoint,
  prompt: Sequence[int],
  one: _Timed,
  settings: Settings,
  found: dict[str, Any],
  shown: output.Progress,
) -> float:
  result = generate(
    prepared,
    config=model.config,
    prompts=[prompt],
    policy=_policy(one.thresholds, found),
    max_new_tokens=settings.new_tokens,
    # Every run has to be of one length to be compared.
    eos_ids=(),
  )
  is_first = len(one.rows) == len(one.seconds)
  if is_first:
    one.rows.append(result.rows[0])
  shown.update()
  return result.timing.decode_s / len(result.rows[0].tokens)


def _own_text(
  model: Checkpoint,
  rows: Sequence[GeneratedRow],
  settings: Sequence[_Timed],
  found: dict[str, Any],
  cost: DecodeCost,
) -> list[sweep.Point]:
  """Return what settings would do along the full model's own continuations."""
  begin = len(rows[0].prompt_tokens) - 1
  ids = np.array([r.prompt_tokens + r.tokens for r in rows], np.int32)
  shape = ids[:, :-1].shape
  batch = Batch(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    weights=np.ones(shape, np.float32),
    positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    segment_ids=np.ones(shape, np.int32),
  )
  name = found['criterion']
  logged = scores.collect_scores(
    model.params, [batch], config=model.config, criteria=(name,)
  )[name]
  return sweep.evaluate_settings(
    logged.after(begin),
    [one.thresholds for one in settings if one.thresholds is not None],
    window=found['window'],
    speedup=cost.speedup,
  )


def _describe(
  one: _Timed, full: _Timed, model: Checkpoint, cost: DecodeCost, window: int
) -> dict[str, Any]:
  levels = [*model.config.exit_depths, model.config.model.num_layers]
  depths = np.array([r.exit_depths for r in one.rows])
  work = work_of_depths(depths, levels, window=window)
  same = [
    sum(a == b for a, b in zip(x.tokens, y.tokens, strict=True)) / len(x.tokens)
    for x, y in zip(one.rows, full.rows, strict=True)
  ]
  return {
    'thresholds': one.thresholds,
    'measured': wall_clock.speed_ratio(one.seconds, full.seconds),
    'predicted': cost.speedup(work),
    'tokens_per_s': _tokens_per_s(one),
    'mean_depth': float(depths.mean()),
    'exit_shares': [float((depths == d).mean()) for d in levels],
    'same_place_same_token': float(np.mean(same)),
  }


def work_of_depths(
  depths: np.ndarray, levels: Sequence[int], *, window: int
) -> Work:
  """Return the work behind tokens emitted at known depths.

  Args:
    depths: of each token, a row a generation.
    levels: the depths of the exits, and L.
    window: of the decoder.
  """
  exits = len(levels) - 1
  sure = np.stack([depths == d for d in levels[:-1]]).astype(np.float32)
  return replay(
    sure,
    counted=np.ones(depths.shape, bool),
    thresholds=np.full((1, exits), 0.5, np.float32),
    window=window,
  ).work[0]


def _tokens_per_s(one: _Timed) -> float:
  return 1 / float(np.mean([np.median(s) for s in one.seconds]))


def _policy(
  thresholds: tuple[Threshold, ...] | None, found: dict[str, Any]
) -> Policy:
  if thresholds is None:
    return Policy(Mode.FULL)
  return Policy(
    Mode.EARLY_EXIT,
    found['criterion'],
    thresholds,
    window=found['window'],
  )


def _name(threshold: Threshold) -> str:
  return 'never' if threshold is None else f'{threshold:g}'


# MARK: Samples


def held_out_prompts(model: Checkpoint, settings: Settings) -> list[list[int]]:
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


def _samples(
  settings: Settings, models: Models, found: dict[str, Any]
) -> list[dict[str, Any]]:
  model = models.tuned
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
    policy = _policy(calibrated_thresholds(found), found)
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
  return samples


def _same_start(ours: Sequence[int], theirs: Sequence[int]) -> int:
  """Return how many tokens two texts have in common from the start."""
  for place, (a, b) in enumerate(zip(ours, theirs, strict=False)):
    if a != b:
      return place
  return min(len(ours), len(theirs))
