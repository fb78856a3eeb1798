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
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eejax import formatting
from eejax.cli import gin_policy, policy_flags, prompted_model
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.data.tokenizer import Tokenizer
  from eejax.evaluation.lossless import LosslessSummary, RowCheck

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
  from eejax.cli import measuring, output
  from eejax.decoding.policy import policy as policy_lib
  from eejax.evaluation import lossless
  from eejax.ops.sampling import SamplingConfig

  _check_seeds(args)
  sampling = SamplingConfig(temperature=args.temperature)
  model = prompted_model.open_model(args)
  policy = policy_flags.chosen_policy(
    argparse.Namespace(**vars(args), mode=policy_flags.SPECULATIVE),
    model.config,
  )
  policy_lib.check_policy_fits(policy, model.backbone_hash)
  prompts = prompted_model.read_prompts(args, model, count=NUM_PROMPTS)
  trials = lossless.plan_trials(
    len(prompts.tokens),
    batch_sizes=args.batch_size,
    num_seeds=args.seeds or 1,
  )
  check = lossless.LosslessCheck(
    model.params,
    config=model.config,
    prompts=prompts.tokens,
    policy=policy,
    sampling=sampling,
    max_new_tokens=args.max_new_tokens,
    dtype=args.dtype,
  )
  tracked = output.track(trials, 'verifying', unit='trial')
  rows = [row for found in check.run(tracked) for row in found]
  verdict = lossless.LosslessSummary.of(rows)
  tokenizer = measuring.open_tokenizer(model)
  _show(rows, verdict, tokenizer, args)
  result = {
    'checkpoint': args.checkpoint,
    'prompts': prompts.source,
    'dtype': args.dtype,
    'temperature': args.temperature,
    'batch_sizes': args.batch_size,
    'policy': policy_lib.to_json(policy),
    **dataclasses.asdict(verdict),
    'acceptance': verdict.acceptance,
    'is_lossless': verdict.is_lossless,
    'verdict': sentence(verdict),
    'differences': [row for row in rows if row.difference is not None],
  }
  if not verdict.is_lossless:
    raise output.NegativeResult(sentence(verdict), result)
  return result


def _check_seeds(args: argparse.Namespace) -> None:
  if args.seeds is None:
    return
  if args.seeds < 1:
    raise ArgumentError(f'--seeds must be at least 1, not {args.seeds}.')
  if args.temperature == 0:
    raise ArgumentError(
      'greedy decoding knows no seeds; give a --temperature, or leave --seeds '
      'out.'
    )


def _show(
  rows: 'Sequence[RowCheck]',
  verdict: 'LosslessSummary',
  tokenizer: 'Tokenizer',
  args: argparse.Namespace,
) -> None:
  from eejax.cli import output

  acceptance = verdict.acceptance
  kept = '' if acceptance is None else f' ({acceptance:.0%} kept)'
  output.show(
    f'{verdict.rows} rows in batches of '
    f'{", ".join(map(str, args.batch_size))}, {verdict.tokens} tokens, '
    f'{verdict.drafted} drafts verified{kept}; {args.dtype}'
  )
  differences = difference_rows(rows, tokenizer)
  if differences:
    output.show(f'\n{formatting.table(differences)}\n')
  if verdict.non_finite:
    output.show(
      f'{verdict.non_finite} rows ended because the logits of the model were '
      'no finite numbers any more.'
    )
  if verdict.is_lossless:
    output.show(sentence(verdict))


def difference_rows(
  rows: 'Sequence[RowCheck]', tokenizer: 'Tokenizer'
) -> list[dict[str, Any]]:
  """Return the lines of a table of the rows that part."""
  word = lambda token: (
    'end' if token is None else repr(tokenizer.decode([token]))
  )
  return [
    {
      'prompt': row.prompt,
      'batch': row.batch_size,
      'seed': row.seed,
      'equal tokens': found.place,
      'full': word(found.full_token),
      'speculative': word(found.speculative_token),
      'top-2 gap': found.gap,
      'bound': found.bound,
      'kind': found.kind.value.replace('_', ' '),
    }
    for row in rows
    if (found := row.difference) is not None
  ]


def sentence(verdict: 'LosslessSummary') -> str:
  """Return the verdict in words."""
  if verdict.real_differences:
    return (
      f'not lossless here: {verdict.real_differences} of {verdict.rows} rows '
      "part from the whole model's text where rounding does not decide; please "
      'report this with the command.'
    )
  if not verdict.drafted:
    return (
      'nothing was tested: no draft was verified; lower --threshold, or give '
      '--draft-depth and --draft-length.'
    )
  if verdict.near_ties:
    return (
      f'Lossless here up to rounding: {verdict.near_ties} of {verdict.rows} '
      'rows part at a near tie, all others are token for token those of the '
      'whole model.'
    )
  return (
    f"Lossless here: all {verdict.rows} rows are the whole model's, token for "
    'token.'
  )
