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
"""Precisions and drafts from the text, on a model that people use.

Every figure is of the way that `eejax generate` goes: whole depth, greedy, one
prompt at a time. Texts are decoded once before, so that all is compiled.
"""

import argparse
import functools
import itertools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import families_prompts
import figures
import jax.numpy as jnp
from families_prompts import Prompt
from figures import Figure

import eejax
from eejax.decoding import window_costs
from eejax.decoding.generate import CHUNK_CAPACITY
from eejax.decoding.loop.cache import BatchSettings, cache_size
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.policy.batching import CPU
from eejax.decoding.policy.defaults import complete_policy
from eejax.decoding.policy.modes import Mode
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling
from eejax.recipes.generate import prepared

NEW_TOKENS = 128
_PROMPT = 'The history of the railway begins'
_TOKENS_OF_A_TEXT = 256

# How `eejax.generate` is told what to compute in.
PRECISIONS: dict[str, dict[str, Any]] = {
  'float32': {},
  'bfloat16': {'dtype': 'bfloat16'},
  'int8': {'weights': 'int8'},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of these figures."""
  parser.add_argument(
    '--model',
    default='smollm2',
    help='model without exits, as eejax.load takes it (default: smollm2)',
  )
  parser.add_argument(
    '--precision',
    choices=tuple(PRECISIONS),
    default='float32',
    help='what lossless_any_model computes in (default: float32)',
  )
  parser.add_argument(
    '--prompts',
    choices=('judged', 'others'),
    default='judged',
    help=(
      'prompts of lossless_any_model; others are those that settings are '
      'chosen by (default: judged)'
    ),
  )


@functools.cache
def _model(name: str) -> eejax.Model:
  return eejax.load(name)


def _generate(
  model: eejax.Model, prompt: Prompt, **options: Any
) -> tuple[float, tuple[int, ...]]:
  """Return the seconds of decoding a prompt, and the tokens."""
  result = eejax.generate(model, [prompt], max_new_tokens=NEW_TOKENS, **options)
  return result.timing.decode_s, result.rows[0].tokens


def _in_turn(
  runs: dict[str, Callable[[], tuple[float, tuple[int, ...]]]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, tuple[int, ...]]]:
  """Return the seconds of every repeat of every run, and what it returned."""
  texts = {name: run()[1] for name, run in runs.items()}
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      seconds[name].append(run()[0])
  return seconds, texts


# MARK: Precisions


@functools.cache
def _speeds(name: str, repeats: int) -> dict[str, list[float]]:
  """Return tokens a second by precision."""
  model = _model(name)
  runs = {
    precision: functools.partial(
      _generate, model, _PROMPT, ignore_eos=True, **options
    )
    for precision, options in PRECISIONS.items()
  }
  seconds, texts = _in_turn(runs, repeats)
  return {n: [len(texts[n]) / s for s in seconds[n]] for n in runs}


def _over_float32(precision: str) -> figures.Measure:
  def measure(args: argparse.Namespace) -> Figure:
    speeds = _speeds(args.model, args.repeats)
    pairs = zip(speeds[precision], speeds['float32'], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    medians = {n: statistics.median(s) for n, s in speeds.items()}
    return ratio, {'tokens_per_s': medians, 'wanted': 'see the README'}

  return measure


def window8_cost(args: argparse.Namespace) -> Figure:
  """What verifying a window of 8 tokens costs, of one token; the worst."""
  costs = {n: _window_costs(_model(args.model), n) for n in PRECISIONS}
  worst = max(costs[n][-1] for n in ('bfloat16', 'int8'))
  return worst, {'by_tokens_of_a_window': costs}


def _window_costs(model: eejax.Model, precision: str) -> list[float]:
  options = PRECISIONS[precision]
  params = prepared(
    model,
    dtype=options.get('dtype', 'float32'),
    weights=Quantization(options.get('weights', 'none')),
  )
  policy = complete_policy(model.config, mode=Mode.SPECULATIVE)
  plan, _ = make_plan(model.config, policy=policy, method=SamplingMethod.GREEDY)
  settings = BatchSettings(
    end_ids=jnp.zeros((1, 1), jnp.int32),
    thresholds=jnp.zeros((1, 0), jnp.float32),
    sampling=row_sampling(SamplingConfig(), seeds=[0]),
    window_costs=window_costs.for_rows(
      window_costs.stated(CPU, plan=plan, rows=1), 1
    ),
  )
  costs = window_costs.measure(
    params,
    settings,
    plan=plan,
    size=cache_size(plan, longest=_TOKENS_OF_A_TEXT),
    capacity=CHUNK_CAPACITY,
  )
  return [round(float(c), 3) for c in costs]


# MARK: Drafts from the text


@functools.cache
def _prompts(
  name: str, precision: str, prompts: str, repeats: int
) -> list[dict[str, Any]]:
  """Return for each prompt what plain decoding and drafts took."""
  model, options = _model(name), PRECISIONS[precision]
  kinds = getattr(families_prompts, prompts)()
  pairs = [(kind, prompt) for kind in kinds for prompt in kinds[kind]]
  done = []
  for number, (kind, prompt) in enumerate(pairs):
    runs = {
      mode: functools.partial(_generate, model, prompt, mode=mode, **options)
      for mode in ('full', 'speculative')
    }
    seconds, texts = _in_turn(runs, repeats)
    ratios = map(lambda a, b: a / b, seconds['full'], seconds['speculative'])
    median = {mode: statistics.median(s) for mode, s in seconds.items()}
    done.append(
      {
        'kind': kind,
        'tokens': len(texts['full']),
        'equal': texts['full'] == texts['speculative'],
        'speedup': statistics.median(ratios),
        **median,
      }
    )
    print(f'  {number + 1} of {len(pairs)}: {done[-1]}', file=sys.stderr)
  return done


def _lossless(args: argparse.Namespace) -> list[dict[str, Any]]:
  return _prompts(args.model, args.precision, args.prompts, args.repeats)


def lossless_any_model(args: argparse.Namespace) -> Figure:
  """How much faster all prompts are with drafts from the text."""
  rows = _lossless(args)
  total = lambda mode, rows: sum(row[mode] for row in rows)
  speedup = lambda rows: total('full', rows) / total('speculative', rows)
  by_kind = itertools.groupby(rows, key=lambda row: row['kind'])
  return speedup(rows), {
    'precision': args.precision,
    'prompts': rows,
    'by_kind': {kind: speedup(list(some)) for kind, some in by_kind},
    'equal': sum(row['equal'] for row in rows),
  }


def lossless_any_model_worst(args: argparse.Namespace) -> Figure:
  """How fast the worst of these prompts is, over plain decoding."""
  rows = _lossless(args)
  worst = min(rows, key=lambda row: row['speedup'])
  return worst['speedup'], {'prompt': worst, 'precision': args.precision}


FIGURES: dict[str, figures.Measure] = {
  'bf16_vs_own_f32': _over_float32('bfloat16'),
  'int8_vs_own_f32': _over_float32('int8'),
  'window8_cost': window8_cost,
  'lossless_any_model': lossless_any_model,
  'lossless_any_model_worst': lossless_any_model_worst,
}
