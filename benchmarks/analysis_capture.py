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
"""Measure captures: against closed forms, and against a plain forward.

  python benchmarks/analysis_capture.py
  python benchmarks/analysis_capture.py --only capture_ratio --repeats 15

`planted_error` is the largest difference between any metric of planted models
and its closed form. `capture_ratio` is the time of capturing everything at 12
depths over that of a plain forward with the likeliest token, on the embedded
default model (12 blocks, a vocabulary of 4,096), taken in turn; the detail
says what a longer text adds to the memory of the process.
"""

import argparse
import collections
import functools
import pathlib
import resource
import tempfile
from collections.abc import Iterator
from typing import Any

import figures
import jax
import jax.numpy as jnp
import numpy as np
from figures import Figure
from timing import interleaved, median_ratio, medians

from eejax.analysis.natural.alignment import alignment
from eejax.analysis.natural.curves import curves
from eejax.analysis.natural.depths import Ceiling, distribution
from eejax.analysis.natural.gates import detection, operation
from eejax.analysis.natural.sublayers import sublayer_exits
from eejax.capture.batch import read_batch
from eejax.capture.capture import capture
from eejax.capture.captured import Captured, ReadoutKind, compared_with
from eejax.capture.settings import CHEAP, EVERYTHING, EVERYWHERE, CaptureConfig
from eejax.checkpoint.huggingface import import_folder
from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.models import decoder
from eejax.models.exits import output_kernel
from eejax.resources import folder
from eejax.stats.bootstrap import Bootstrap
from eejax.testing import planted
from eejax.testing.planted import PlantedPlan
from eejax.types import Params

VOCABULARY, LAYERS = 61, 6
FIELDS = (
  'loss',
  'entropy',
  'kl_final',
  'js_final',
  'logit_cosine',
  'hidden_cosine',
  'js_previous',
  'hidden_cosine_previous',
)
# Estimates alone are compared; their intervals need no more draws.
FEW = Bootstrap(draws=20)
MODEL = 'stdlib-10m'
ROWS, LENGTH = 4, 256
DEPTHS = tuple(range(1, 13))


# MARK: Closed forms


def planted_error(_: argparse.Namespace) -> Figure:
  """Return the largest error of any metric on any planted model."""
  worst: dict[str, float] = {}
  by_plan: dict[str, float] = {}
  for name, plan in _plans().items():
    errors = _errors(plan)
    by_plan[name] = max(errors.values())
    for metric, error in errors.items():
      worst[metric] = max(worst.get(metric, 0.0), error)
  detail = {'by_model': by_plan, 'by_metric': worst}
  return max(worst.values()), detail


def _plans() -> dict[str, PlantedPlan]:
  random = np.random.default_rng(0)
  token = np.arange(VOCABULARY)

  def settle(depths, **fields) -> PlantedPlan:
    return PlantedPlan.settling(
      depths.tolist(),
      num_layers=LAYERS,
      exits=tuple(range(1, LAYERS)),
      **fields,
    )

  mixed = token % (LAYERS + 1)
  wavering = random.random((VOCABULARY, LAYERS + 1)) < 0.5
  return {
    'idle upper blocks': settle(np.minimum(token % LAYERS, 2)),
    'one decisive last block': settle(np.full(VOCABULARY, LAYERS)),
    'a known mix of depths': settle(mixed, attention_blocks=(2, 5)),
    'a known calibration error': settle(
      mixed, answer_confidence=0.63, guess_confidence=0.63
    ),
    'answers that come and go': PlantedPlan(
      settled=tuple(tuple(row) for row in wavering.tolist()),
      answers=tuple(((token + 1) % VOCABULARY).tolist()),
      guesses=tuple(((token + 5) % VOCABULARY).tolist()),
      attention_blocks=(3,),
      exits=tuple(range(1, LAYERS)),
    ),
  }


def _errors(plan: PlantedPlan) -> dict[str, float]:
  """Return the largest error of each metric on one planted model."""
  random = np.random.default_rng(1)
  tokens, targets = random.integers(0, VOCABULARY, (2, 8, 40))
  captured = capture(
    planted.planted_params(plan),
    [planted.token_batch(tokens, targets)],
    config=plan.config,
    settings=CaptureConfig(kinds=EVERYWHERE, num_candidates=4),
  )
  wanted = planted.expected(
    plan,
    tokens.reshape(-1),
    targets.reshape(-1),
    depths=[r.depth for r in captured.readouts],
    previous=compared_with(captured.readouts),
  )
  apart = lambda ours, theirs: float(
    np.max(np.abs(np.asarray(ours, float) - theirs))
  )
  errors = {}
  for name in FIELDS:
    there = ~np.isnan(wanted[name])
    errors[name] = apart(captured[name][there], wanted[name][there])
  errors['top1'] = apart(captured.top1, wanted['top1'])
  errors['top_log_probs'] = apart(
    captured.top_log_probs[..., 0], wanted['top1_log_prob']
  )
  exits = list(captured.facts.indices(ReadoutKind.EXIT))
  errors['gate_score'] = apart(
    captured.gate_score[exits], wanted['gate_score'][exits]
  )
  natural = captured.only(ReadoutKind.NATURAL)
  places = list(captured.facts.indices(ReadoutKind.NATURAL))
  says = wanted['top1'][places]
  confidence = np.exp(wanted['top1_log_prob'][places])
  errors |= _errors_of_depths(captured, natural, says, targets.reshape(-1))
  errors |= _errors_of_curves(natural, says, confidence)
  return errors | _errors_of_gate(captured, wanted['gate_score'][exits], says)


def _errors_of_depths(captured: Captured, natural, says, target):
  """Compare depths with those found by looking, position by position."""
  looked = {ceiling: [] for ceiling in Ceiling}
  for said, label in zip(says.T.tolist(), target.tolist(), strict=True):
    final = said[-1]
    looked[Ceiling.FIRST_MATCH].append(said.index(final))
    strayed = [i for i, s in enumerate(said) if s != final]
    looked[Ceiling.STABLE].append(strayed[-1] + 1 if strayed else 0)
    found = said.index(label) if label in said else LAYERS
    looked[Ceiling.LABEL].append(found)
  errors = {}
  for ceiling, depths in looked.items():
    found = distribution(natural, ceiling, bootstrap=FEW)
    skip = 1 - np.mean(depths) / LAYERS
    errors[f'{ceiling.value} skip'] = abs(found.skip.value - skip)
    shares = np.bincount(depths, minlength=LAYERS + 1) / len(depths)
    errors[f'{ceiling.value} shares'] = float(
      np.abs(np.array(found.shares) - shares).max()
    )
  halves = captured.only(ReadoutKind.NATURAL, ReadoutKind.ATTENTION)
  settled = np.argmax(halves.top1 == halves.top1[-1], axis=0)
  odd = np.mean(settled % 2 == 1)
  found = sublayer_exits(captured, Ceiling.FIRST_MATCH, bootstrap=FEW)
  errors['share at attention'] = abs(found.at_attention.value - odd)
  return errors


def _errors_of_curves(natural: Captured, says, confidence) -> dict[str, float]:
  """Compare agreement, kappa and calibration errors with counts."""
  errors: dict[str, float] = collections.defaultdict(float)
  aligned = alignment(natural, bootstrap=FEW)
  total = says.shape[1]
  for i, figure in enumerate(curves(natural, bootstrap=FEW)):
    agrees = says[i] == says[-1]
    ours, final = (collections.Counter(s.tolist()) for s in (says[i], says[-1]))
    chance = sum(ours[v] * final[v] for v in ours) / total**2
    kappa = (agrees.mean() - chance) / (1 - chance)
    # Each confidence is its own bin's.
    error = sum(
      abs((agrees - confidence[i])[confidence[i] == c].sum())
      for c in np.unique(confidence[i])
    )
    for name, found, value in (
      ('agreement', figure['agreement'], agrees.mean()),
      ('kappa', figure['kappa'], kappa),
      ('ece', aligned.readouts[i].ece, error / total),
    ):
      errors[name] = max(errors[name], abs(found.value - value))
  return dict(errors)


def _errors_of_gate(captured: Captured, scores, says) -> dict[str, float]:
  """Compare a gate as a detector with pairs that are counted."""
  exits = captured.only(ReadoutKind.EXIT)
  # What is a tie in exact arithmetic shall be one.
  rounded = {**exits.source, 'gate_score': exits.gate_score.round(5)}
  exits = Captured(exits.facts, rounded)
  inner = says[1:]  # exits stand at depths 1 to L - 1
  stays = np.logical_and.accumulate((inner == inner[-1])[::-1], axis=0)[::-1]
  positive, score = stays[:-1].reshape(-1), scores.reshape(-1)
  above = score[positive][:, None] > score[~positive]
  ties = score[positive][:, None] == score[~positive]
  auroc = float((above + ties / 2).mean()) if above.size else 0.5
  found = detection(exits, 'gate', bootstrap=FEW)
  takes = scores >= 0.5
  left = np.where(takes.any(axis=0), takes.argmax(axis=0), LAYERS - 1)
  run = operation(exits, 'gate', 0.5, bootstrap=FEW)
  right = np.take_along_axis(inner, left[None], axis=0)[0] == inner[-1]
  return {
    'auroc': abs(found.auroc.value - auroc),
    'gate skip': abs(run.skip.value - (1 - (left + 1).mean() / LAYERS)),
    'gate agreement': abs(run.agreement.value - right.mean()),
  }


# MARK: Time and memory


def capture_ratio(args: argparse.Namespace) -> Figure:
  """Return the time of a capture at 12 depths over a plain forward's."""
  model = import_folder(folder('assets') / MODEL, dtype='float32')
  params = jax.tree.map(jnp.asarray, model.params)
  batch = {k: jnp.asarray(v) for k, v in _batch(0).as_dict().items()}
  everything = CaptureConfig(depths=DEPTHS)

  def reading(settings: CaptureConfig):
    how = settings.batch_reading(model.config)
    return lambda: read_batch(params, batch, None, config=model.config, how=how)

  runs = {
    'plain': lambda: _plain(params, batch, config=model.config),
    'capture': reading(everything),
    'losses and likeliest tokens': reading(
      CaptureConfig(depths=DEPTHS, fields=CHEAP, num_candidates=1)
    ),
  }
  seconds = interleaved(runs, repeats=args.repeats)
  compiled = read_batch.lower(
    params,
    batch,
    None,
    config=model.config,
    how=everything.batch_reading(model.config),
  ).compile()
  tokens = ROWS * LENGTH
  detail = {
    'ms_per_batch': {k: 1000 * v for k, v in medians(seconds).items()},
    'tokens_per_s': {k: tokens / v for k, v in medians(seconds).items()},
    'ratio_of_losses_alone': median_ratio(
      seconds, 'losses and likeliest tokens', 'plain'
    ),
    'fields': EVERYTHING,
    'candidates': everything.num_candidates,
    'batch': [ROWS, LENGTH],
    'temporary_mib': compiled.memory_analysis().temp_size_in_bytes / 2**20,
    'logits_of_all_depths_mib': 4 * 4096 * tokens * len(DEPTHS) / 2**20,
    **_memory(params, model.config, everything),
  }
  return median_ratio(seconds, 'capture', 'plain'), detail


@functools.partial(jax.jit, static_argnames='config')
def _plain(params: Params, batch, *, config: EarlyExitConfig) -> jax.Array:
  """Return the full model's likeliest token at each position."""
  backbone = params['backbone']
  out = decoder.run_blocks(
    backbone,
    decoder.embed(
      backbone,
      batch['tokens'],
      positions=batch['positions'],
      config=config.model,
      dtype=jnp.float32,
    ),
    config=config.with_exits(()),
    positions=batch['positions'],
    segment_ids=batch['segment_ids'],
  )
  hidden = decoder.final_hidden(backbone, out.hidden, config=config.model)
  kernel = output_kernel(params, exit=None, config=config.model)
  logits = hidden @ kernel
  # Several times as fast on a CPU as argmax, so that nothing is gained by
  # comparing with that.
  best = jnp.max(logits, axis=-1, keepdims=True)
  token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  return jnp.min(jnp.where(logits >= best, token, logits.shape[-1]), axis=-1)


def _memory(
  params: Params, config: EarlyExitConfig, settings: CaptureConfig
) -> dict[str, Any]:
  """Return what twelve more batches add to the most that was resident."""
  peaks = []
  for count in (4, 16):
    with tempfile.TemporaryDirectory() as scratch:
      capture(
        params,
        _batches(count),
        config=config,
        settings=CaptureConfig(depths=DEPTHS, positions_per_part=2048),
        path=pathlib.Path(scratch) / 'captured',
      )
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
  return {'peak_mib_4_batches': peaks[0], 'peak_mib_16_batches': peaks[1]}


def _batches(count: int) -> Iterator[Batch]:
  return (_batch(seed) for seed in range(count))


def _batch(seed: int) -> Batch:
  random = np.random.default_rng(seed)
  ids = random.integers(3, 4096, (ROWS, LENGTH + 1)).astype(np.int32)
  ones = np.ones((ROWS, LENGTH), np.float32)
  return Batch(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    weights=ones,
    positions=(np.arange(LENGTH) * ones).astype(np.int32),
    segment_ids=ones.astype(np.int32),
  )


FIGURES: dict[str, figures.Measure] = {
  'planted_error': planted_error,
  'capture_ratio': capture_ratio,
}


def main() -> None:
  figures.run(figures.parser(__doc__.split('\n')[0], repeats=9), FIGURES)


if __name__ == '__main__':
  main()
