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
"""`eejax bench`: how fast each strategy of decoding is, and what it changes."""

import argparse
from typing import TYPE_CHECKING, Any

from eejax import formatting, storage
from eejax.cli import mesh_flag, policy_flags, prompted_model
from eejax.cli.gin import policy as gin_policy
from eejax.decoding.policy import defaults
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.evaluation.strategies import Grid

HELP = 'time ways to decode, beside what the cost model predicts'
EXAMPLE = (
  'eejax bench runs/tuned/model --thresholds 0.5,0.9 --batch-sizes 1,8 '
  '--out runs/bench.json'
)

NUM_PROMPTS = 4
OUT = 'runs/bench.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  prompted_model.add_arguments(parser, num_prompts=NUM_PROMPTS, new_tokens=32)
  group = parser.add_argument_group('what is measured: all combinations')
  lists = (
    ('modes', 'early_exit,speculative', 'besides full'),
    ('criteria', None, 'gate where every exit has one, else max_prob'),
    ('thresholds', '0.5,0.8,0.95', 'of early exit, each for all exits'),
    ('draft-thresholds', '0.4', 'of speculation, each for all exits'),
    (
      'prompt-lookups',
      f'0,{defaults.PROMPT_LOOKUP}',
      'of speculation, tokens that must have stood before; 0 is none',
    ),
    ('kv-strategies', 'deferred', ', '.join(policy_flags.KV_STRATEGIES)),
    ('batchings', 'ride_along', ', '.join(policy_flags.BATCHINGS)),
  )
  for name, default, text in lists:
    shown = text if default is None else f'{default}; {text}'
    group.add_argument(
      f'--{name}',
      default=default,
      metavar='A[,B...]',
      help=f'(default: {shown})',
    )
  group.add_argument(
    '--batch-sizes',
    type=prompted_model.whole_numbers,
    default=(1, 4),
    metavar='N[,N...]',
    help='rows decoded together (default: 1,4)',
  )
  group.add_argument(
    '--window', type=int, default=8, metavar='N', help='(default: 8)'
  )
  gin_policy.add_arguments(parser)
  parser.add_argument(
    '--repeats',
    type=int,
    default=3,
    metavar='N',
    help='rounds that are timed; medians are reported (default: 3)',
  )
  parser.add_argument(
    '--peers',
    metavar='FILE',
    help='what benchmarks/peers.py measured of other decoders on this model',
  )
  parser.add_argument(
    '--out',
    default=OUT,
    metavar='FILE',
    help=(
      'results as JSON, a page beside them; what it holds already is not '
      f'measured again (default: {OUT})'
    ),
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output
  from eejax.recipes.bench import bench

  path = storage.as_path(args.out)
  grid = _grid(args, gin_policy.read_criterion(args))
  mesh = mesh_flag.devices(args)
  model = prompted_model.open_model(args, mesh=mesh)
  result = bench(
    model,
    prompts=prompted_model.read_prompts(args, model),
    grid=grid,
    batch_sizes=args.batch_sizes,
    max_new_tokens=args.max_new_tokens,
    repeats=args.repeats,
    window=args.window,
    out=path,
    dtype=args.dtype,
    mesh=mesh,
    peers=args.peers,
    name=args.checkpoint,
    progress=output.reporter(),
  )
  page = result.save(path.with_suffix('.html'))
  output.show(formatting.table(result.table()))
  for line in result.peer_rows():
    output.show(f'{line["decoder"]}: {line["tokens/s, prefill included"]}')
  output.show(f'\nwrote {path} and {page}')
  return {**result.to_json(), 'out': path, 'page': page}


def _grid(args: argparse.Namespace, own_criterion: str | None) -> 'Grid':
  """Return what the flags combine to."""
  from eejax.decoding.policy.batching import Batching
  from eejax.decoding.policy.policy import KVStrategy, Mode
  from eejax.decoding.policy.threshold_values import parse_thresholds
  from eejax.evaluation.strategies import Grid

  criteria = args.criteria or own_criterion
  return Grid(
    criteria=None if criteria is None else _names(criteria),
    thresholds=parse_thresholds(args.thresholds),
    draft_thresholds=parse_thresholds(args.draft_thresholds),
    prompt_lookups=_lookups(args.prompt_lookups),
    kv_strategies=_members(KVStrategy, args.kv_strategies, '--kv-strategies'),
    batchings=_members(Batching, args.batchings, '--batchings'),
    modes=_members(Mode, args.modes, '--modes'),
  )


def _lookups(text: str) -> tuple[int | None, ...]:
  """Read whole numbers of which 0 is none."""
  parts = _names(text)
  if not all(part.isdigit() for part in parts):
    raise ArgumentError(
      f'--prompt-lookups takes whole numbers such as 0,2, not {text!r}.'
    )
  return tuple(dict.fromkeys(int(part) or None for part in parts))


def _names(text: str) -> tuple[str, ...]:
  """Split at commas outside brackets, for `patience(2,3)` is one name."""
  parts, depth = [''], 0
  for letter in text:
    depth += (letter == '(') - (letter == ')')
    if letter == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += letter
  return tuple(part.strip() for part in parts)


def _members(kind: Any, text: str, flag: str) -> tuple[Any, ...]:
  known = [member.value for member in kind]
  names = _names(text)
  wrong = [name for name in names if name not in known]
  if wrong:
    raise ArgumentError(
      f'{flag} knows no {wrong[0]!r}; there are {", ".join(known)}.'
    )
  return tuple(kind(name) for name in names)
