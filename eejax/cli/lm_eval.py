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
"""`eejax lm-eval`: lm-eval's own command on a model with exits."""

import argparse
import json
import pathlib
import tempfile
from typing import Any

from eejax import storage
from eejax.cli import mesh_flag, policy_flags
from eejax.cli.gin import policy as gin_policy
from eejax.errors import ArgumentError, EejaxError

HELP = "lm-eval's own command on a model with exits, under a policy"
EXAMPLE = (
  'eejax lm-eval runs/tuned/model --tasks hellaswag,gsm8k --policy policy.json '
  '--limit 100'
)
# What is not known here is lm-eval's.
PASSES_ON = True

_OURS = ('--model', '-M', '--model_args', '-a', '--device')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.usage = f'{parser.prog} CKPT --tasks TASK[,TASK...] [ARGUMENTS]'
  parser.description = (
    f'{HELP}. The checkpoint comes first. Every other argument that is not '
    'listed here is one of `lm-eval run`, such as --tasks, --limit, '
    '--num_fewshot, --batch_size, --apply_chat_template, --include_path, '
    '--output_path, --log_samples, --use_cache or --gen_kwargs.'
  )
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='a checkpoint, a Hugging Face folder, a GGUF file, smollm2 or default',
  )
  group = parser.add_argument_group('exits')
  group.add_argument(
    '--exit',
    type=int,
    metavar='DEPTH',
    help='judge and generate every token at the exit at this depth',
  )
  policy_flags.add_mode_argument(group)
  policy_flags.add_drafting_arguments(group)
  policy_flags.add_policy_arguments(group)
  gin_policy.add_arguments(parser)
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in (default: float32)',
  )
  mesh_flag.add_argument(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint.load import load
  from eejax.cli import output

  stock = _stock_arguments(args.rest)
  progress = output.reporter()
  mesh = mesh_flag.devices(args)
  model = load(args.checkpoint, dtype=args.dtype, progress=progress)
  policy = policy_flags.chosen_policy(args, model.config)
  from eejax.recipes.evaluate_tasks import exit_sentence, task_model

  if args.exit is not None and policy.mode.value != policy_flags.FULL:
    raise ArgumentError('--exit takes one exit always; leave the policy out.')
  lm = task_model(
    model,
    policy=None if args.exit is not None else policy,
    exit=args.exit,
    dtype=args.dtype,
    batch_size=getattr(stock, 'batch_size', 8),
    mesh=mesh,
    progress=progress,
  )
  stock.model = lm
  stock.model_args = {'pretrained': args.checkpoint, 'dtype': args.dtype}
  results = _run_stock(stock)
  exits = results['config']['eejax']
  output.say(exit_sentence(exits))
  return {
    'checkpoint': args.checkpoint,
    'results': results['results'],
    'eejax': exits,
    'config': {k: v for k, v in results['config'].items() if k != 'eejax'},
    'versions': results.get('versions', {}),
  }


def _stock_arguments(rest: list[str]) -> argparse.Namespace:
  """Return what lm-eval makes of arguments.

  Raises:
    EejaxError: lm-eval is not installed.
    ArgumentError: it does not know one, or one is ours to give.
  """
  for word in rest:
    if word.split('=')[0] in _OURS:
      raise ArgumentError(
        f'{word} is given by eejax; name the checkpoint first and leave it out.'
      )
  try:
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig
  except ImportError as error:
    raise EejaxError(
      f'lm-eval needs packages that are missing ({error}); run: pip install '
      "'eejax[eval]'"
    ) from error
  stock = HarnessCLI()._parser.parse_args(['run', *rest])
  if not stock.tasks and not stock.config:
    raise ArgumentError('there is no task; give --tasks.')
  if not stock.config:
    try:
      EvaluatorConfig.from_cli(stock)
    except ValueError as error:
      raise ArgumentError(
        f'lm-eval takes no such arguments: {error}'
      ) from error
  return stock


def _run_stock(stock: argparse.Namespace) -> dict[str, Any]:
  """Run lm-eval's own command and return what it writes."""
  with tempfile.TemporaryDirectory() as folder:
    if stock.output_path is None:
      stock.output_path = folder
    given = storage.local_path(stock.output_path)
    before = _results(given)
    try:
      stock.func(stock)
    except EejaxError:
      raise
    except (KeyError, ValueError) as error:
      raise EejaxError(f'lm-eval stopped: {error}') from error
    (written,) = _results(given) - before
    return json.loads(written.read_text(encoding='utf-8'))


def _results(given: pathlib.Path) -> set[pathlib.Path]:
  """Return the files of results that lm-eval wrote to a path."""
  if given.suffix == '.json':
    return set(given.parent.glob(f'{given.stem}_*.json'))
  return set(given.rglob('results_*.json'))
