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
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from eejax.cli import generate_inputs, measuring
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.checkpoint.model import Model

# Tokens of a prompt that is taken from the standard library.
PROMPT_TOKENS = 32


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
    help='an eejax checkpoint or a Hugging Face folder',
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


def open_model(args: argparse.Namespace) -> 'Model':
  """Return the model that the arguments name, with exits.

  Raises:
    EejaxError: there is no such model, it has no tokenizer or no exits.
  """
  import jax

  from eejax.checkpoint import surgery

  model = measuring.open_model(args.checkpoint, dtype=args.dtype)
  if args.exits:
    params, config = surgery.add_exits(
      model.params, model.config, args.exits, key=jax.random.key(0)
    )
    model = dataclasses.replace(model, params=params, config=config)
  if not model.config.exits:
    raise ArgumentError(
      f'{args.checkpoint} has no exits; try some with --exits 2:norm, say, or '
      'add and tune them with eejax add-exits and eejax tune.'
    )
  return model


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Hold prompts.

  Attributes:
    source: where they come from.
    tokens: ids of each.
  """

  source: str
  tokens: tuple[tuple[int, ...], ...]


def read_prompts(
  args: argparse.Namespace, model: 'Model', *, count: int
) -> Prompts:
  """Return the prompts that were given, or some of the standard library.

  Args:
    args: of the command line.
    model: what is to continue them.
    count: how many are taken of the standard library.

  Raises:
    ArgumentError: they cannot be read or leave no room to continue.
  """
  from eejax.decoding.generate import check_prompts

  room = model.config.model.max_length - args.max_new_tokens
  if args.max_new_tokens < 1 or room < 1:
    raise ArgumentError(
      '--max-new-tokens must be at least 1 and leave room for a prompt in the '
      f'context of {model.config.model.max_length} tokens, so it cannot be '
      f'{args.max_new_tokens}.'
    )
  if args.prompt or args.prompts:
    tokenizer = measuring.open_tokenizer(model)
    texts = generate_inputs.read_prompts(args)
    source = args.prompts or 'the command line'
    found = tokenizer.encode_batch(texts, add_bos=tokenizer.adds_bos)
  else:
    source = "the standard library's validation part"
    found = _held_out(model, length=min(PROMPT_TOKENS, room), count=count)
  found = check_prompts(found, config=model.config.model)
  longest = max(map(len, found))
  if longest > room:
    raise ArgumentError(
      f'a prompt of {longest} tokens and {args.max_new_tokens} new ones are '
      'more than the context of the model, '
      f'{model.config.model.max_length}; shorten it or lower --max-new-tokens.'
    )
  return Prompts(source, tuple(map(tuple, found)))


def _held_out(model: 'Model', *, length: int, count: int) -> list[list[int]]:
  """Return pieces of the library's validation part, spread over it."""
  from eejax.data.batch import Packing

  text = measuring.Text(sequence_length=length, max_tokens=4 * count * length)
  batches = measuring.read_text(model, text, packing=Packing.ONE_PER_ROW)
  rows = [
    row.tolist()
    for batch in batches
    for row, weights in zip(batch.tokens, batch.weights, strict=True)
    if weights.all()
  ]
  if not rows:
    raise ArgumentError(
      f'no held-out text has {length} tokens; give --prompt or --prompts.'
    )
  chosen = np.linspace(0, len(rows) - 1, min(count, len(rows)))
  return [rows[int(i)] for i in chosen.round()]


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
