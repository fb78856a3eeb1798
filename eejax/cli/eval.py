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
"""eejax eval: loss and perplexity at every exit, speed against quality."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eejax import formatting
from eejax.cli import measuring

if TYPE_CHECKING:
  from eejax.checkpoint.model import Model
  from eejax.evaluation.perplexity import Evaluation
  from eejax.evaluation.sweep import SweepPoint, ThresholdSearchResult

HELP = 'measure every exit on a text; --sweep adds speed against quality'
EXAMPLE = 'eejax eval checkpoints/tuned --data notes.txt --sweep'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  measuring.add_arguments(parser, max_tokens=20_000)
  group = parser.add_argument_group('sweep')
  group.add_argument(
    '--sweep',
    action='store_true',
    help='agreement, exits and predicted speed for many thresholds',
  )
  group.add_argument(
    '--criterion',
    choices=('gate', 'max_prob', 'margin', 'entropy'),
    help='the score (default: gate where every exit has one, else max_prob)',
  )
  group.add_argument(
    '--target',
    type=float,
    default=0.97,
    metavar='SHARE',
    help='agreement that thresholds for each exit are searched for',
  )
  group.add_argument(
    '--window',
    type=int,
    default=8,
    metavar='N',
    help='of the decoder: every N-th token goes through the whole model',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output
  from eejax.data.batch import Packing
  from eejax.evaluation import perplexity

  text = measuring.Text.of(args)
  search = _search(args) if args.sweep else None
  model = measuring.open_model(args.checkpoint, dtype=args.dtype)
  batches = measuring.read_text(model, text, packing=Packing.PACKED)
  found = perplexity.evaluate(
    model.params,
    output.track(batches, 'evaluating', unit='step'),
    config=model.config,
    dtype=args.dtype,
  )
  output.show(
    f'{found.tokens} tokens of {text.data} ({text.part}), {found.rows} rows\n'
  )
  output.show(formatting.table(quality_rows(found)))
  output.show(
    f'\n{found.confidence:.0%} intervals: {found.intervals}; agreement with '
    'the final head is teacher-forced.'
  )
  result = {
    'checkpoint': args.checkpoint,
    'data': text.data,
    'split': text.part,
    'dtype': args.dtype,
    'quality': found,
  }
  if args.sweep:
    result['sweep'] = _sweep(args, model, text, search)
  return result


def quality_rows(found: 'Evaluation') -> list[dict[str, Any]]:
  """Return the lines of a table of every head."""
  interval = measuring.plus_minus
  return [
    {
      'head': head.name,
      'depth': head.depth,
      'loss': interval(head.loss, digits=3),
      'perplexity': head.perplexity.value,
      'top-1 %': interval(head.accuracy, digits=1, scale=100),
      'agrees with final %': interval(head.agreement, digits=1, scale=100),
      'loss above final': interval(head.loss_gap, digits=3),
    }
    for head in found.heads
  ]


def point_rows(
  points: 'Sequence[SweepPoint]', depths: Sequence[int]
) -> list[dict[str, Any]]:
  """Return the lines of a table of settings; `depths` end with L."""
  return [
    {
      'threshold': measuring.thresholds_text(
        p.thresholds[:1] if len(set(p.thresholds)) == 1 else p.thresholds
      ),
      'agreement %': measuring.plus_minus(p.agreement, digits=2, scale=100),
      **{
        f'% at {depth}': 100 * share
        for depth, share in zip(depths, p.exit_shares, strict=True)
      },
      'mean depth': p.mean_depth,
      'predicted speed-up': p.predicted_speedup,
    }
    for p in points
  ]


def _search(args: argparse.Namespace):
  from eejax.evaluation.sweep import Search

  return Search(target=args.target)


def _sweep(args, model: 'Model', text, search) -> dict[str, Any]:
  from eejax.analysis.cost_model import decode_cost
  from eejax.cli import output
  from eejax.data.batch import Packing
  from eejax.decoding.policy.criteria import default_criterion
  from eejax.decoding.policy.policy import Mode, Policy
  from eejax.evaluation import scores, sweep

  criterion = args.criterion or default_criterion(model.config)
  batches = measuring.read_text(model, text, packing=Packing.ONE_PER_ROW)
  logged = scores.collect_scores(
    model.params,
    output.track(batches, 'scoring', unit='step'),
    config=model.config,
    criteria=(criterion,),
    dtype=args.dtype,
  )[criterion]
  asked = Policy(Mode.EARLY_EXIT, criterion, (0.5,), window=args.window)
  speedup = decode_cost(model.config, asked).speedup
  points = sweep.sweep(logged, window=args.window, speedup=speedup)
  with output.waiting('searching thresholds'):
    best = sweep.calibrate(
      logged, window=args.window, speedup=speedup, search=search
    )
  depths = (*logged.depths, logged.num_layers)
  output.show(f'\ncriterion {criterion}, one threshold for all exits\n')
  output.show(formatting.table(point_rows(points, depths)))
  output.show(f'\n{calibration_sentence(best)}')
  return {
    'criterion': criterion,
    'window': args.window,
    'tokens': logged.num_tokens,
    'exit_depths': logged.depths,
    'points': points,
    'calibrated': best,
  }


def calibration_sentence(found: 'ThresholdSearchResult') -> str:
  """Return in words what a search for thresholds found."""
  point = found.held_out
  return (
    f'cheapest thresholds for {found.target:.1%} agreement: '
    f'{measuring.thresholds_text(found.thresholds)}. On text they were not '
    'chosen on they agree at '
    f'{measuring.plus_minus(point.agreement, digits=2, scale=100)} % of the '
    f'tokens, emit at depth {point.mean_depth:.1f} on average, and should '
    f'decode {point.predicted_speedup:.2f} times as fast at batch 1 (by bytes '
    'read; empirical, teacher-forced).'
  )
