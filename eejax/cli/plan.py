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
import pathlib
from typing import TYPE_CHECKING, Any

from eejax import formatting

if TYPE_CHECKING:
  from eejax.config import EarlyExitConfig
  from eejax.planner.choose import LayoutPlan, Layouts, PlanRequest

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
      'gigabytes a second from a device to another host (default: as fast as '
      f'its links on TPUs, {NETWORK_GB:g} elsewhere)'
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
  from eejax.planner import table

  question = _question(args)
  found = _choose(args, question)
  show(found, question, best=args.best)
  values = table.choice_values(found, question, best=args.best)
  if not found.fitting:
    raise output.NegativeResult(_nothing_fits(found.too_large[0]), values)
  return values


def _question(args: argparse.Namespace) -> 'PlanRequest':
  from eejax.hardware import read_hardware
  from eejax.ops.quant import Quantization
  from eejax.planner.choose import PlanRequest
  from eejax.planner.time import Machine
  from eejax.planner.workload import Learns, Workload

  _check_numbers(args)
  config = read_model(args.model, args.exits)
  regime = args.regime or ('joint' if config.exits else 'standard')
  hardware = read_hardware(args.hardware)
  int8 = args.backbone == 'int8'
  network = args.network
  if network is None and not hardware.name.startswith('TPU'):
    network = NETWORK_GB
  return PlanRequest(
    workload=Workload(
      config,
      Learns(regime),
      rows=args.batch,
      length=args.sequence_length,
      dtype=args.dtype,
      chunk_size=args.chunk_size,
      backbone=Quantization.INT8 if int8 else Quantization.NONE,
    ),
    machine=Machine(
      hardware,
      efficiency=args.efficiency,
      network=None if network is None else 1e9 * network,
    ),
    devices=args.devices,
    usable=args.usable,
    price=args.price,
  )


def _check_numbers(args: argparse.Namespace) -> None:
  from eejax.errors import ArgumentError

  for flag in ('devices', 'best'):
    if getattr(args, flag) < 1:
      raise ArgumentError(
        f'--{flag} must be at least 1, not {getattr(args, flag)}.'
      )
  for flag in ('efficiency', 'usable'):
    if not 0 < getattr(args, flag) <= 1:
      raise ArgumentError(
        f'--{flag} is a share in (0, 1], not {getattr(args, flag)}.'
      )
  for flag in ('network', 'price'):
    value = getattr(args, flag)
    if value is not None and value <= 0:
      raise ArgumentError(f'--{flag} must be above 0, not {value}.')


def read_model(source: str, exits: str | None) -> 'EarlyExitConfig':
  """Return the model that MODEL names, with exits.

  Args:
    source: a name in `configs/models`, a JSON file, or a folder.
    exits: a name in `configs/exits` or exits as the command line writes them;
      None keeps those of a checkpoint.
  """
  from eejax import architectures
  from eejax.checkpoint import huggingface, manifest
  from eejax.config import EarlyExitConfig, parse_exits

  folder = pathlib.Path(source)
  if folder.is_dir():
    if (folder / 'eejax.json').is_file():
      config = manifest.read_config(folder)
    else:
      config = huggingface.map_folder(folder).config
  else:
    config = EarlyExitConfig(architectures.read_model(source))
  if exits is None:
    return config
  as_written = ':' in exits or exits.isdigit()
  read = parse_exits if as_written else architectures.read_exits
  return EarlyExitConfig(config.model, read(exits))


def _choose(args: argparse.Namespace, question: 'PlanRequest') -> 'Layouts':
  from eejax.cli import output
  from eejax.parallel.mesh import parse_mesh
  from eejax.planner import choose

  if args.mesh is not None:
    mesh = parse_mesh(args.mesh).resolved(question.devices)
    return choose.choose(question, among=[mesh])
  every = tuple(choose.meshes(question.devices))
  tried = output.track(
    every, 'trying meshes', total=len(every), unit='arrangement'
  )
  return choose.choose(question, among=tried)


def show(found: 'Layouts', question: 'PlanRequest', *, best: int) -> None:
  """Print the plans, and what does not fit and why."""
  from eejax.cli import output
  from eejax.planner import table

  hardware = question.machine.hardware
  output.show(
    f'{question.devices} x {hardware.name}, {question.workload.rows} sequences '
    f'of {question.workload.length} tokens a step; of its '
    f'{hardware.memory_bytes / table.GIB:.3g} GiB a step may fill '
    f'{question.room / table.GIB:.3g}.'
  )
  output.show(
    f'Assumed: products at {question.machine.efficiency:g} of the peak, no '
    'overlap of messages with work.'
  )
  if found.fitting:
    fitting = found.fitting[:best]
    output.show('\n' + formatting.table(table.row(p) for p in fitting))
    output.show('\nGiB of each device')
    output.show(formatting.table(table.memory_rows(fitting)))
  if found.too_large:
    output.show(f'\n{len(found.too_large)} meshes do not fit')
    rows = [
      {
        'mesh': table.mesh_words(p.arrangement.mesh),
        'why': table.why_too_large(p),
      }
      for p in found.too_large[:best]
    ]
    output.show(formatting.table(rows))
  for refused in found.refused:
    meshes = '; '.join(refused.meshes[:3])
    more = len(refused.meshes) - 3
    tail = f' and {more} more' if more > 0 else ''
    output.show(f'\nout of the question: {meshes}{tail}: {refused.why}.')


def _nothing_fits(closest: 'LayoutPlan') -> str:
  from eejax.planner import table

  mesh = table.mesh_words(closest.arrangement.mesh)
  return (
    f'nothing fits; the closest, {mesh}, {table.why_too_large(closest)}; use '
    'more devices, a smaller batch or fewer exits with matrices of their own.'
  )
