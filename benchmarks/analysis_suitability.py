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
"""Measure how well suitability is estimated, and what training does to it.

  python benchmarks/analysis_suitability.py
  python benchmarks/analysis_suitability.py --only bootstrap_coverage

`joint_vs_plain` and `dynamics` train two models of one shape on the same
batches of the standard library: plain, with the final loss alone, and joint,
with an exit behind every block. They are read on text of held-out files. The
first figure is 1 where the paper's claim holds here, else 0, with the table in
the detail; the second is the change of the plain model's ceiling over its
training. `bootstrap_coverage` is the coverage furthest from the nominal 95 %.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import figures
import jax
import jax.numpy as jnp
import numpy as np
from figures import Figure

from eejax import serialization
from eejax.analysis.dynamics import Dynamics, dynamics
from eejax.analysis.natural.joint import joint_against_plain
from eejax.analysis.suitability.score import ScoreSettings
from eejax.capture.capture import capture
from eejax.capture.captured import Captured, ReadoutKind
from eejax.capture.settings import CaptureConfig
from eejax.cli import output
from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.data.batch import Batch, PackedBatches
from eejax.data.batches import pieces, tokenize
from eejax.data.corpus import Split, standard_library_documents
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.data.tokenizer import train_bpe
from eejax.evaluation.rows import spread_rows
from eejax.models import decoder
from eejax.stats.bootstrap import (
  Bootstrap,
  difference_interval,
  function_interval,
  ratio_interval,
)
from eejax.training import freeze, state
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Objective
from eejax.training.optimizers import clipped_adamw, warmup_cosine
from eejax.training.step import StepConfig, compile_train_step, make_train_step
from eejax.training.weight_schedules import ExitWeights
from eejax.types import Params

MODEL = ModelConfig(
  vocab_size=512,
  num_layers=8,
  embed_dim=64,
  num_heads=4,
  num_kv_heads=4,
  head_dim=16,
  mlp_dim=192,
  max_length=128,
)
EXIT_WEIGHT = 0.3
# Files of the library that are read, so that reading them takes seconds.
FILES = 240
LENGTH, ROWS = 128, 16
HELD_OUT_TOKENS = 12_000
# Steps of the training that are kept, as shares of it.
KEPT = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model at some steps of its training.

  Attributes:
    config: with its exits.
    steps: number and parameters, the last one at the end.
    loss: of the final head, smoothed, at the end.
  """

  config: EarlyExitConfig
  steps: tuple[tuple[int, Params], ...]
  loss: float


def joint_vs_plain(args: argparse.Namespace) -> Figure:
  """Return 1 where joint training helps the gate and not the ceiling."""
  detail: dict[str, Any] = {'steps': args.steps, 'seeds': []}
  held = []
  for seed in range(args.seeds):
    plain, joint, text = trained_pair(args.steps, seed)
    found = joint_against_plain(
      _captured(plain, text, ReadoutKind.NATURAL),
      _captured(joint, text, ReadoutKind.EXIT),
    )
    natural = joint_against_plain(
      _captured(plain, text, ReadoutKind.NATURAL),
      _captured(joint, text, ReadoutKind.NATURAL),
    )
    held.append(found.verdict.startswith('The claim holds'))
    detail['seeds'].append(
      {
        'training_loss': {'plain': plain.loss, 'joint': joint.loss},
        'joint_read_at_its_exits': serialization.plain(found),
        'joint_read_naturally': serialization.plain(natural),
      }
    )
  return float(np.mean(held)), detail


def _captured(model: Trained, text: list[Batch], kind: ReadoutKind) -> Captured:
  captured = capture(
    jax.tree.map(jnp.asarray, model.steps[-1][1]),
    text,
    config=model.config,
    settings=CaptureConfig(
      kinds=(kind,),
      # Both models are read where the joint one has exits, and at depth L.
      depths=tuple(range(1, MODEL.num_layers)),
      fields=('top_tokens', 'top_log_probs', 'loss', 'entropy'),
    ),
  )
  return captured.only(kind)


def training_dynamics(args: argparse.Namespace) -> Figure:
  """Return how far training moves the plain model's ceiling, and the map."""
  plain, joint, text = trained_pair(args.steps, 0)
  found = {
    name: dynamics(model.steps, text, config=model.config)
    for name, model in (('plain', plain), ('joint', joint))
  }
  change = found['plain'].saved_change
  assert change is not None
  detail = {name: _heat_map(d) for name, d in found.items()}
  detail['settings'] = ScoreSettings().words()
  return change.value, detail


def _heat_map(found: Dynamics) -> dict[str, Any]:
  return serialization.plain(
    {
      'depths': found.depths,
      'change_of_ceiling': found.saved_change,
      'steps': [
        {
          'step': s.step,
          'loss': s.loss,
          'eas': s.score.eas,
          'stable': s.headroom.stable,
          'similarity': s.score.similarity,
        }
        for s in found.steps
      ],
    }
  )


@functools.cache
def trained_pair(steps: int, seed: int) -> tuple[Trained, Trained, list[Batch]]:
  """Return a plain and a joint model, and text that neither has seen."""
  documents, held_out = _corpus()
  make = lambda docs, passes: PackedBatches(
    InMemoryDocuments(docs, passes=passes, seed=seed),
    sequence_length=LENGTH,
    batch_size=ROWS,
  )
  cut = [p for d in documents for p in pieces(d, length=LENGTH)]
  text = spread_rows(
    make(held_out, Passes.ONCE), max_tokens=HELD_OUT_TOKENS, batch_size=ROWS
  )
  depths = range(1, MODEL.num_layers)
  exits = parse_exits(','.join(f'{d}:norm' for d in depths))
  configs = {
    Regime.STANDARD: EarlyExitConfig(MODEL),
    Regime.JOINT: EarlyExitConfig(MODEL, exits),
  }
  plain, joint = (
    train(config, regime, make(cut, Passes.ENDLESS), steps=steps, seed=seed)
    for regime, config in configs.items()
  )
  return plain, joint, text


@functools.cache
def _corpus():
  """Return documents to train on and held-out ones, as ids."""
  some = lambda split: [
    text
    for i, text in enumerate(standard_library_documents(split))
    if i < FILES
  ]
  train_texts = some(Split.TRAIN)
  words = train_bpe(train_texts[: FILES // 4], vocab_size=MODEL.vocab_size)
  ids = lambda texts: list(tokenize(iter(texts), tokenizer=words))
  return ids(train_texts), ids(some(Split.VALIDATION))


def train(
  config: EarlyExitConfig, regime: Regime, batches, *, steps: int, seed: int
) -> Trained:
  """Train a model from random parameters and keep some of its steps."""
  optimizer = clipped_adamw(
    warmup_cosine(3e-3, steps=steps, warmup_steps=max(steps // 20, 1))
  )
  step = compile_train_step(
    make_train_step(
      config,
      objective=Objective(
        regime=regime, exit_weights=ExitWeights(weights=EXIT_WEIGHT)
      ),
      optimizer=optimizer,
      settings=StepConfig(),
    )
  )
  # Of equal seeds the backbones start equal, with exits or without.
  params = jax.jit(lambda key: decoder.init(config, key))(jax.random.key(seed))
  trainable, frozen = freeze.split(params, regime=regime)
  held = state.create(trainable, optimizer=optimizer)
  wanted = {round(share * steps) for share in KEPT}
  kept, losses = [], []
  for number in output.track(range(steps + 1), regime.value, unit='step'):
    if number in wanted:
      copy = jax.device_get(freeze.merge(held.trainable, frozen))
      kept.append((number, {'exits': {}, **copy}))
    if number < steps:
      held, metrics = step(held, frozen, _on_device(next(batches)))
      if number >= int(0.9 * steps):
        losses.append(_final_loss(metrics))
  return Trained(config, tuple(kept), float(np.mean(losses)))


def _on_device(batch: Batch) -> TokenBatch:
  arrays = batch.as_dict()
  return TokenBatch(**{k: jnp.asarray(v) for k, v in arrays.items()})


def _final_loss(metrics) -> float:
  return float(metrics.sums.final.loss / metrics.sums.final.tokens)


# MARK: Coverage


def bootstrap_coverage(args: argparse.Namespace) -> Figure:
  """Return the coverage of 95 % intervals that is furthest from 95 %."""
  found = {
    f'{case}, {rows} rows': _covered(draw, rows, draws=args.draws)
    for case, draw in CASES.items()
    for rows in (32, 96)
  }
  worst = max(found.values(), key=lambda share: abs(share - 0.95))
  return worst, {'coverage': found, 'draws': args.draws}


def _covered(draw: Callable, rows: int, *, draws: int) -> float:
  random = np.random.default_rng(0)
  hits = 0
  for seed in range(draws):
    interval, truth = draw(random, rows, Bootstrap(seed=seed))
    hits += not interval.excludes(truth)
  return hits / draws


def _shares(random, rows: int, bootstrap: Bootstrap):
  """Agreement: tokens of a row share its difficulty, rows differ in length."""
  counts = random.integers(100, 256, rows)
  hits = random.binomial(counts, random.beta(4.5, 0.5, rows))
  found = ratio_interval(hits.astype(float), counts * 1.0, bootstrap=bootstrap)
  return found, 0.9


def _losses(random, rows: int, bootstrap: Bootstrap):
  """Loss: skewed to the right."""
  counts = random.integers(100, 256, rows) * 1.0
  losses = random.gamma(4.0, 0.75, rows)
  return ratio_interval(losses * counts, counts, bootstrap=bootstrap), 3.0


def _gaps(random, rows: int, bootstrap: Bootstrap):
  """A paired difference: what rows have in common cancels."""
  counts = random.integers(100, 256, rows) * 1.0
  hard = random.gamma(4.0, 0.75, rows)
  gap = random.normal(0.1, 0.3, rows)
  found = difference_interval(
    (hard + gap) * counts, hard * counts, counts, bootstrap=bootstrap
  )
  return found, 0.1


LAYERS = 8


def _similarities(random, rows: int) -> np.ndarray:
  """Return a row's similarity at each depth: it rises, sooner in easy rows."""
  ease = random.beta(2.0, 2.0, (rows, 1))
  depth = np.arange(1, LAYERS) / LAYERS
  return depth ** (2 * (1 - ease))


def _eas(means: np.ndarray) -> np.ndarray:
  skip = 1 - np.arange(1, LAYERS) / LAYERS
  return np.sqrt(means * skip).mean(axis=1)


@functools.cache
def _true_eas() -> float:
  many = _similarities(np.random.default_rng(1), 400_000)
  return float(_eas(many.mean(axis=0, keepdims=True))[0])


def _scores(random, rows: int, bootstrap: Bootstrap):
  """EAS: a function of a similarity at every depth."""
  counts = random.integers(100, 256, rows) * 1.0
  values = _similarities(random, rows) * counts[:, None]
  found = function_interval(values, counts, _eas, bootstrap=bootstrap)
  return found, _true_eas()


CASES: Mapping[str, Callable] = {
  'agreement': _shares,
  'loss': _losses,
  'paired gap': _gaps,
  'score': _scores,
}

FIGURES: dict[str, figures.Measure] = {
  'joint_vs_plain': joint_vs_plain,
  'dynamics': training_dynamics,
  'bootstrap_coverage': bootstrap_coverage,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add what these figures take."""
  parser.add_argument(
    '--steps', type=int, default=500, help='of each training (default: 500)'
  )
  parser.add_argument(
    '--seeds', type=int, default=1, help='pairs of models (default: 1)'
  )
  parser.add_argument(
    '--draws', type=int, default=500, help='of a population (default: 500)'
  )


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=1)
  add_arguments(parser)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
