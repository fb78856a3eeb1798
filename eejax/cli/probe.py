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
"""eejax probe: does early exit pay on this model, before any training?"""

import argparse
from typing import TYPE_CHECKING, Any

from eejax.cli import measuring

if TYPE_CHECKING:
  from eejax.analysis.agreement import NaturalExits

HELP = 'say what early exit could save on a model as it is'
EXAMPLE = 'eejax probe models/Llama-3.2-1B --data notes.txt'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  measuring.add_arguments(parser, max_tokens=8_000)


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.analysis import agreement
  from eejax.analysis.cost_model import model_cost
  from eejax.cli import output
  from eejax.data.batch import Packing

  text = measuring.Text.of(args)
  model = measuring.open_model(args.checkpoint, dtype=args.dtype)
  batches = measuring.read_text(model, text, packing=Packing.PACKED)
  found = agreement.natural_exits(
    model.params,
    output.track(batches, 'probing', unit='step'),
    config=model.config.model,
    dtype=args.dtype,
  )
  head = model_cost(model.config.with_exits(())).head_in_blocks
  output.show(
    f'{found.tokens} tokens of {text.data} ({text.part}); every depth read '
    "with the model's own final norm and head\n"
  )
  output.show(output.table(depth_rows(found)))
  output.show(f'\n{found.verdict()}')
  output.show(f'Reading the head once costs as much as {head:.1f} blocks.')
  return {
    'checkpoint': args.checkpoint,
    'data': text.data,
    'split': text.part,
    'dtype': args.dtype,
    'natural_exits': found,
    'head_in_blocks': head,
    'verdict': found.verdict(),
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
