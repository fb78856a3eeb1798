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
"""`eejax verify`: is speculative decoding lossless here."""

import argparse
from typing import Any

from eejax import formatting
from eejax.cli import mesh_flag, policy_flags, prompted_model
from eejax.cli.gin import policy as gin_policy

HELP = "check that speculative decoding gives the whole model's text"
EXAMPLE = 'eejax verify runs/tuned/model --prompts prompts.txt --batch-size 1,8'

NUM_PROMPTS = 8
BATCH_SIZES = (1, 3, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  prompted_model.add_arguments(parser, num_prompts=NUM_PROMPTS, new_tokens=48)
  policy_flags.add_drafting_arguments(parser.add_argument_group('drafts'))
  gin_policy.add_arguments(parser)
  group = parser.add_argument_group('what is tried')
  group.add_argument(
    '--batch-size',
    type=prompted_model.whole_numbers,
    default=BATCH_SIZES,
    metavar='N[,N...]',
    help='prompts decoded together, each number in turn (default: 1,3,8)',
  )
  group.add_argument(
    '--temperature',
    type=float,
    default=0.0,
    metavar='X',
    help='0 is greedy; above, both modes sample with equal seeds (default: 0)',
  )
  group.add_argument(
    '--seeds',
    type=int,
    metavar='N',
    help='how many seeds are tried with a temperature (default: 1)',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output
  from eejax.recipes.verify import verify

  mesh = mesh_flag.devices(args, processes=mesh_flag.Processes.SEVERAL)
  model = prompted_model.open_model(args, mesh=mesh)
  policy = policy_flags.chosen_policy(
    argparse.Namespace(**vars(args), mode=policy_flags.SPECULATIVE),
    model.config,
  )
  result = verify(
    model,
    prompted_model.read_prompts(args, model),
    policy=policy,
    batch_sizes=args.batch_size,
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    seeds=args.seeds,
    dtype=args.dtype,
    mesh=mesh,
    progress=output.reporter(),
  )
  output.show(result.work())
  if rows := result.table():
    output.show(f'\n{formatting.table(rows)}\n')
  values = {'checkpoint': args.checkpoint, **result.to_json()}
  if not result.is_lossless:
    raise output.NegativeResult(result.verdict, values)
  output.show(result.verdict)
  return values
