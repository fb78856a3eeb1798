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
"""The arguments of `eejax generate`."""

import argparse

from eejax.cli import conversations, mesh_flag, policy_flags
from eejax.cli.gin import policy as gin_policy
from eejax.decoding.policy import defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='a checkpoint, a Hugging Face folder, a GGUF file, smollm2 or default',
  )
  group = parser.add_argument_group('prompts')
  group.add_argument(
    '--prompt',
    action='append',
    metavar='TEXT',
    help='a prompt; may be given several times',
  )
  group.add_argument(
    '--prompts',
    metavar='FILE',
    help="a prompt a line, or JSON lines with 'prompt' (.jsonl)",
  )
  group.add_argument(
    '--batch-size',
    type=int,
    default=8,
    metavar='N',
    help='prompts decoded together (default: 8)',
  )
  conversations.add_arguments(parser)
  group = parser.add_argument_group('exits')
  policy_flags.add_mode_argument(group)
  policy_flags.add_drafting_arguments(group)
  policy_flags.add_policy_arguments(group)
  gin_policy.add_arguments(parser)
  _add_sampling_arguments(parser.add_argument_group('tokens'))
  group = parser.add_argument_group('display')
  group.add_argument(
    '--stream',
    action='store_true',
    help='show the text as it grows; takes one prompt',
  )
  group.add_argument(
    '--show-exits',
    action='store_true',
    help='colour tokens by the depth they were emitted at',
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in (default: float32)',
  )
  mesh_flag.add_argument(
    parser,
    more='; stage=4 or stage=2,model=2 lays blocks over a pipeline, where a '
    'token that exits starts the next one at once; JAX_NUM_CPU_DEVICES=4 in '
    'the environment simulates devices',
  )
  for flag, what in (
    ('--weights', 'weights of the blocks'),
    ('--kv', 'caches'),
  ):
    parser.add_argument(
      flag,
      choices=('int8',),
      help=f'keep the {what} in a byte a number, not in the dtype',
    )


def _add_sampling_arguments(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    '--max-new-tokens',
    type=int,
    metavar='N',
    help=(
      f'tokens to generate at most (default: {defaults.MAX_NEW_TOKENS}, or as '
      'many as the policy was certified for)'
    ),
  )
  numbers = (
    ('--temperature', float, 0.0, '0 is greedy'),
    ('--top-k', int, 0, 'choose among this many; 0 is all'),
    ('--top-p', float, 1.0, 'choose among the likeliest with this share'),
    ('--min-p', float, 0.0, 'drop tokens below this share of the likeliest'),
    ('--seed', int, 0, 'of the first prompt; the next has one more'),
  )
  for flag, kind, default, text in numbers:
    group.add_argument(
      flag,
      type=kind,
      default=default,
      metavar='N' if kind is int else 'X',
      help=f'{text} (default: {default})',
    )
  group.add_argument(
    '--stop',
    action='append',
    default=[],
    metavar='TEXT',
    help='end before this text; may be given several times',
  )
