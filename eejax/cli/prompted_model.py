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
"""A model with exits and prompts, as `verify` and `bench` take them."""

import argparse
from typing import TYPE_CHECKING

from eejax.cli import generate_inputs, mesh_flag
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from eejax.checkpoint.model import Model
  from eejax.recipes.prompts import Prompts


def add_arguments(
  parser: argparse.ArgumentParser, *, num_prompts: int, new_tokens: int
) -> None:
  """Add the arguments that name a model, its exits and prompts.

  Args:
    parser: of the verb.
    num_prompts: taken from the standard library where none are given.
    new_tokens: generated after each, by default.
  """
  from eejax.config import parse_exits

  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='a checkpoint, a Hugging Face folder, a GGUF file, smollm2 or default',
  )
  parser.add_argument(
    '--exits',
    type=parse_exits,
    default=(),
    metavar='DEPTH:HEAD,...',
    help=(
      'exits to add in memory, as eejax add-exits takes them; a model that has '
      'none needs some'
    ),
  )
  group = parser.add_argument_group('prompts')
  group.add_argument(
    '--prompt',
    action='append',
    metavar='TEXT',
    help=(
      'a prompt; may be given several times (default: '
      f"{num_prompts} beginnings of the standard library's validation part)"
    ),
  )
  group.add_argument(
    '--prompts',
    metavar='FILE',
    help="a prompt a line, or JSON lines with 'prompt' (.jsonl)",
  )
  group.add_argument(
    '--max-new-tokens',
    type=int,
    default=new_tokens,
    metavar='N',
    help=f'tokens generated after each (default: {new_tokens})',
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in (default: float32)',
  )
  mesh_flag.add_argument(parser)


def open_model(
  args: argparse.Namespace, *, mesh: 'Mesh | None' = None
) -> 'Model':
  """Return the model that the arguments name, with exits.

  Args:
    args: of the command line.
    mesh: the devices; None is the default one.

  Raises:
    EejaxError: there is no such model, or it has no exits.
  """
  from eejax.checkpoint.load import load
  from eejax.cli import output
  from eejax.recipes.add_exits import add_exits
  from eejax.recipes.prompts import check_has_exits

  model = load(
    args.checkpoint,
    dtype=args.dtype,
    mesh=mesh,
    progress=output.reporter(),
  )
  if args.exits:
    model = add_exits(model, args.exits)
  check_has_exits(model)
  return model


def read_prompts(args: argparse.Namespace, model: 'Model') -> 'Prompts | None':
  """Return the prompts that were given, or None.

  Raises:
    ArgumentError: they cannot be read, or leave no room to continue.
  """
  from eejax.recipes.prompts import token_prompts

  if not (args.prompt or args.prompts):
    return None
  return token_prompts(
    model,
    generate_inputs.read_prompts(args),
    max_new_tokens=args.max_new_tokens,
    source=args.prompts or 'the command line',
  )


def whole_numbers(text: str) -> tuple[int, ...]:
  """Read positive whole numbers between commas, as flags write them.

  Raises:
    ArgumentError: there is something else.
  """
  parts = [part.strip() for part in text.split(',')]
  if not all(part.isdigit() and int(part) > 0 for part in parts):
    raise ArgumentError(
      f'{text!r} is no list of positive whole numbers such as 1,3,8.'
    )
  return tuple(dict.fromkeys(int(part) for part in parts))
