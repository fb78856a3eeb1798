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
"""`eejax plan`: how to lay a training run over devices."""

import argparse
from typing import Any

HELP = 'predict mesh, memory, step time and cost of a training run'
EXAMPLE = (
  'eejax plan llama_2_7b --exits 8:mlp:untied --regime tune --hardware '
  'h100_80g --devices 8 --batch 16 --sequence-length 2048'
)

REGIMES = ('standard', 'joint', 'tune')
DTYPES = ('bfloat16', 'float32')
BACKBONES = ('compute', 'int8')
# 400 Gb/s for each device, as hosts of eight GPUs often have.
NETWORK_GB = 50.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'model',
    metavar='MODEL',
    help=(
      'a name in configs/models (as llama_2_7b), a JSON file like those, an '
      'eejax checkpoint or a Hugging Face folder'
    ),
  )
  parser.add_argument(
    '--exits',
    metavar='EXITS',
    help=(
      'a name in configs/exits, or DEPTH:HEAD,... as eejax add-exits takes '
      'them (default: those of the checkpoint)'
    ),
  )
  parser.add_argument(
    '--regime',
    choices=REGIMES,
    help='what is trained (default: joint with exits, standard without)',
  )
  _add_step(parser.add_argument_group('a step'))
  _add_machine(parser.add_argument_group('devices'))
  parser.add_argument(
    '--best',
    type=int,
    default=5,
    metavar='N',
    help='how many layouts to show (default: 5)',
  )
  parser.add_argument(
    '--check',
    type=int,
    nargs='?',
    const=1,
    default=0,
    metavar='N',
    help=(
      "compile the N fastest layouts with the machine's own compiler, in "
      "minutes and with no device (default: 1; pip install 'eejax[ahead]')"
    ),
  )


def _add_step(group: argparse._ArgumentGroup) -> None:
  numbers = (
    ('--batch', 256, 'sequences of a step, over all devices'),
    ('--sequence-length', 2048, 'tokens of a sequence'),
    ('--chunk-size', 1024, 'tokens whose logits stand at once'),
  )
  for flag, default, words in numbers:
    group.add_argument(
      flag,
      type=int,
      default=default,
      metavar='N',
      help=f'{words} (default: {default})',
    )
  group.add_argument(
    '--dtype',
    choices=DTYPES,
    default=DTYPES[0],
    help='what is computed in (default: bfloat16)',
  )
  group.add_argument(
    '--backbone',
    choices=BACKBONES,
    default=BACKBONES[0],
    help=(
      'how a frozen backbone is held: in the compute dtype or in int8 '
      '(default: compute)'
    ),
  )


def _add_machine(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    '--hardware',
    default='h100_80g',
    metavar='NAME',
    help='in configs/hardware, or a JSON file like those (default: h100_80g)',
  )
  group.add_argument(
    '--devices',
    type=int,
    default=8,
    metavar='N',
    help='how many (default: 8)',
  )
  group.add_argument(
    '--slices',
    type=int,
    default=1,
    metavar='N',
    help='of TPUs, which the mesh axis data lies over (default: 1)',
  )
  group.add_argument(
    '--mesh',
    metavar='MESH',
    help='only this one: data=2,model=4, or a name in configs/meshes',
  )
  group.add_argument(
    '--efficiency',
    type=float,
    default=0.5,
    metavar='X',
    help='share of the peak that products reach; assumed (default: 0.5)',
  )
  group.add_argument(
    '--network',
    type=float,
    metavar='GB',
    help=(
      'gigabytes a second from a device to another host, of TPUs to another '
      f'slice (default: what the maker states, or {NETWORK_GB:g})'
    ),
  )
  group.add_argument(
    '--usable',
    type=float,
    default=0.9,
    metavar='X',
    help='share of the memory that a step may fill (default: 0.9)',
  )
  group.add_argument(
    '--price',
    type=float,
    metavar='X',
    help='of a device for an hour, to have costs',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output
  from eejax.recipes.plan import plan

  result = plan(
    args.model,
    exits=args.exits,
    regime=args.regime,
    hardware=args.hardware,
    devices=args.devices,
    slices=args.slices,
    mesh=args.mesh,
    batch_size=args.batch,
    sequence_length=args.sequence_length,
    chunk_size=args.chunk_size,
    dtype=args.dtype,
    backbone=args.backbone,
    efficiency=args.efficiency,
    network=args.network,
    usable=args.usable,
    price=args.price,
    best=args.best,
    check=args.check,
    progress=output.reporter(),
  )
  output.show(str(result))
  if not result.fits:
    raise output.NegativeResult(str(result.verdict()), result.to_json())
  return result.to_json()
