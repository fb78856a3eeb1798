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
"""eejax probe: does early exit pay on this model, and where?"""

import argparse
import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any

from eejax import formatting, serialization
from eejax.cli import measuring
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.analysis.agreement import NaturalExits
  from eejax.analysis.judging import CostFor
  from eejax.analysis.verdict import Verdict
  from eejax.checkpoint.model import Model
  from eejax.evaluation.part_times import PartTimes

HELP = 'say whether early exit pays on a model, at which exits, and how much'
EXAMPLE = 'eejax probe models/Llama-3.2-1B --data notes.txt --out probe.html'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  measuring.add_arguments(parser, max_tokens=8_000)
  group = parser.add_argument_group('what is asked')
  group.add_argument(
    '--loss',
    type=float,
    default=0.05,
    metavar='X',
    help=(
      'share of tokens that may differ from full decoding, in [0, 1) '
      '(default: 0.05)'
    ),
  )
  group.add_argument(
    '--max-exits',
    type=int,
    default=3,
    metavar='N',
    help='exits to choose at most (default: 3)',
  )
  group.add_argument(
    '--window',
    type=int,
    default=8,
    metavar='N',
    help='every N-th token at the latest goes to full depth (default: 8)',
  )
  group.add_argument(
    '--hardware',
    metavar='NAME',
    help=(
      'predict for a machine of configs/hardware, or a file like those '
      '(default: this one, whose parts are timed)'
    ),
  )
  parser.add_argument(
    '--out', metavar='FILE', help='write the verdict as a page (.html)'
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.analysis.part_costs import model_cost
  from eejax.cli import output
  from eejax.report import verdict_page

  question = Question(args.loss, args.max_exits, args.window, args.hardware)
  if args.out:
    serialization.check_writable(pathlib.Path(args.out))
  text = measuring.Text.of(args)
  model = measuring.open_model(args.checkpoint, dtype=args.dtype)
  found = probe(model, text, question, dtype=args.dtype)
  facts = {
    'checkpoint': args.checkpoint,
    'data': f'{text.data} ({text.part})',
    'tokens': f'{found.natural.tokens} in {found.natural.rows} rows',
    'dtype': args.dtype,
    'machine': found.machine,
  }
  output.show(
    f'{found.natural.tokens} tokens of {text.data} ({text.part}); every depth '
    "read with the model's own final norm and head\n"
  )
  output.show(formatting.table(depth_rows(found.natural)))
  output.show('\n' + formatting.table(verdict_page.way_rows(found)))
  output.show('\n' + found.headline())
  for sentence in found.sentences():
    output.show(f'- {sentence}')
  if args.out:
    page = verdict_page.render(found, facts)
    serialization.write_text(pathlib.Path(args.out), page)
    output.show(f'\nwrote {args.out}')
  return {
    'checkpoint': args.checkpoint,
    'data': text.data,
    'split': text.part,
    'dtype': args.dtype,
    **values(found),
    'head_in_bytes': model_cost(model.config.with_exits(())).head_in_blocks,
    'out': args.out,
  }


@dataclasses.dataclass(frozen=True)
class Question:
  """Say what is asked of a model.

  Attributes:
    loss: share of tokens that may differ, in [0, 1).
    max_exits: exits to choose at most.
    window: of the decoder.
    hardware: machine to predict for; None times this one.
  """

  loss: float = 0.05
  max_exits: int = 3
  window: int = 8
  hardware: str | None = None

  def __post_init__(self):
    if not 0 <= self.loss < 1:
      raise ArgumentError(f'--loss must lie in [0, 1), not {self.loss}.')
    if self.max_exits < 1 or self.window < 1:
      raise ArgumentError('--max-exits and --window must be at least 1.')
    if self.hardware is not None:
      from eejax.hardware import read_hardware

      read_hardware(self.hardware)


def probe(
  model: 'Model',
  text: measuring.Text,
  question: Question,
  *,
  dtype: str = 'float32',
) -> 'Verdict':
  """Return whether early exit pays on a model.

  Raises:
    EejaxError: the text cannot be read or is too short, or the model returns
      numbers that are not finite.
  """
  from eejax.analysis import judging
  from eejax.analysis.placement import Budget
  from eejax.capture.capture import capture
  from eejax.capture.settings import CaptureConfig
  from eejax.cli import output, probe_timing
  from eejax.data.batch import Packing

  if model.config.model.num_layers < 2:
    raise ArgumentError(
      'a model of one block has no depth to exit at; take a deeper one.'
    )
  batches = measuring.read_text(model, text, packing=Packing.ONE_PER_ROW)
  captured = capture(
    model.params,
    output.track(batches, 'probing', unit='step'),
    config=model.config,
    settings=CaptureConfig(
      fields=judging.FIELDS,
      num_candidates=judging.NUM_CANDIDATES,
      dtype=dtype,
    ),
  )
  cost_for, machine = costs(model, question, dtype=dtype)
  with output.waiting('judging'):
    found = judging.judge(
      captured,
      config=model.config,
      cost_for=cost_for,
      machine=machine,
      window=question.window,
      budget=Budget(1 - question.loss, question.max_exits),
    )
  if question.hardware is not None:
    return found
  with output.waiting('timing what should pay'):
    return probe_timing.with_times(
      found, model, captured, window=question.window, dtype=dtype
    )


def costs(
  model: 'Model', question: Question, *, dtype: str
) -> 'tuple[CostFor, str]':
  """Return what decoding costs, on the machine in question."""
  from eejax.analysis.cost_model import decode_cost
  from eejax.decoding.policy.policy import Mode, Policy
  from eejax.hardware import read_hardware

  if question.hardware is None:
    words = 'this machine'
    how: dict[str, Any] = {'times': _times(model, question, dtype=dtype)}
  else:
    machine = read_hardware(question.hardware)
    words = f'{machine.name} (roofline)'
    how = {'hardware': machine, 'dtype': dtype}

  @functools.cache
  def cost_for(config, criterion):
    asked = Policy(Mode.EARLY_EXIT, criterion, (0.5,), window=question.window)
    return decode_cost(config, asked, **how)

  return cost_for, words


def _times(model: 'Model', question: Question, *, dtype: str) -> 'PartTimes':
  """Return the times of parts, with one exit that reads the head."""
  from eejax.analysis.judging import natural_config
  from eejax.cli import output
  from eejax.decoding.loop.prepare import prepare
  from eejax.evaluation.part_times import part_times

  bare = model.config.model
  timed = natural_config(bare, [max(1, bare.num_layers // 4)])
  exit = timed.exits[0]
  params = {
    **model.params,
    'exits': {exit.name: {'norm': model.params['backbone']['final_norm']}},
  }
  with output.waiting('timing the parts of decoding'):
    return part_times(
      prepare(params, config=timed, dtype=dtype),
      config=timed,
      window=question.window,
    )


def values(found: 'Verdict') -> dict[str, Any]:
  """Return a verdict as plain values for JSON."""
  return {
    'natural_exits': found.natural,
    'head_in_blocks': found.head_in_blocks,
    'window_factor': found.window_factor,
    'machine': found.machine,
    'verdict': found.natural.verdict(),
    'answer': found.answer,
    'headline': found.headline(),
    'sentences': found.sentences(),
    'lossless': found.lossless,
    'lossy': found.lossy,
    'loss': found.loss,
    'needed': found.needed,
    'settled': found.settled,
    'sequences': found.sequences,
  }


def depth_rows(found: 'NaturalExits') -> list[dict[str, Any]]:
  """Return the lines of a table of every depth."""
  return [
    {
      'depth': d.depth,
      'loss': measuring.plus_minus(d.loss, digits=3),
      'agrees with final %': measuring.plus_minus(
        d.agreement, digits=1, scale=100
      ),
      'first match here %': 100 * d.first_match,
      'stable from here %': 100 * d.stable,
    }
    for d in found.depths
  ]
