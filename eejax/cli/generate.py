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
"""eejax generate: continue prompts, early or at full depth."""

import argparse
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from eejax.cli import generate_inputs
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.cli.exit_colours import Painter
  from eejax.data.tokenizer import Tokenizer
  from eejax.decoding.policy import Policy
  from eejax.decoding.prepare import Prepared
  from eejax.decoding.results import GeneratedRow, GenerateResult, TokenUpdate
  from eejax.ops.sampling import SamplingConfig

HELP = 'continue prompts, early or at full depth'
EXAMPLE = (
  "eejax generate runs/tuned/model --prompt 'def main' --criterion gate "
  '--threshold 0.9 --show-exits'
)

# Tokens between two looks at a stream.
STREAM_EVERY = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='an eejax checkpoint or a Hugging Face folder',
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
  _add_policy_arguments(parser.add_argument_group('early exit'))
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


def _add_policy_arguments(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    '--mode',
    choices=('full', 'early_exit'),
    help='whether exits are used (default: full, unless a flag below is given)',
  )
  group.add_argument(
    '--policy', metavar='FILE', help='a policy that was saved as JSON'
  )
  group.add_argument(
    '--criterion',
    metavar='NAME',
    help=(
      'gate, max_prob, margin or entropy (default: gate where every exit has '
      'one, else max_prob)'
    ),
  )
  group.add_argument(
    '--threshold',
    metavar='T[,T...]',
    help=(
      'exit iff the score reaches it: a number in [0, 1] or never, for all '
      f'exits or one an exit (default: {generate_inputs.DEFAULT_THRESHOLD})'
    ),
  )
  group.add_argument(
    '--window',
    type=int,
    metavar='N',
    help='every N-th token at the latest goes to full depth (default: 8)',
  )
  group.add_argument(
    '--minimum-depth',
    type=int,
    metavar='N',
    help='exits shallower than this are not used (default: 0)',
  )


def _add_sampling_arguments(group: argparse._ArgumentGroup) -> None:
  numbers = (
    ('--max-new-tokens', int, 128, 'tokens to generate at most'),
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


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import measuring, output
  from eejax.cli.exit_colours import Painter
  from eejax.decoding.policy import check_policy_fits
  from eejax.decoding.prepare import prepare

  texts = generate_inputs.read_prompts(args)
  _check_numbers(args, len(texts))
  sampling = generate_inputs.sampling_config(args)
  clock = time.perf_counter()
  model = generate_inputs.open_model(args)
  policy = generate_inputs.chosen_policy(args, model.config)
  check_policy_fits(policy, model.backbone_hash)
  tokenizer = measuring.open_tokenizer(model)
  prepared = prepare(model.params, config=model.config, dtype=args.dtype)
  load_s = time.perf_counter() - clock
  painter = Painter.of(model.config) if args.show_exits else None
  found = []
  for first in range(0, len(texts), args.batch_size):
    batch = texts[first : first + args.batch_size]
    listener = _Listener(
      total=len(batch) * args.max_new_tokens,
      prompt=batch[0] if args.stream else None,
      painter=painter,
    )
    found.append(
      _generate(
        args, prepared, tokenizer, batch, policy, sampling, first, listener
      )
    )
  rows = [row for result in found for row in result.rows]
  for text, row in zip(texts, rows, strict=True):
    _show(text, row, painter, is_shown=args.stream)
  if painter is not None:
    output.show(painter.legend([d for r in rows for d in r.exit_depths]))
  summary = _summarize(found, policy, load_s=load_s)
  output.say(_closing_line(summary))
  return summary


def _show(
  prompt: str,
  row: 'GeneratedRow',
  painter: 'Painter | None',
  *,
  is_shown: bool,
) -> None:
  """Print a row's text, unless it was streamed, and its exits."""
  from eejax.cli import output

  text = row.text or ''
  if painter is not None:
    text = painter.paint(row.pieces, row.exit_depths)
  if not is_shown:
    output.show(prompt + text)
  if painter is not None and not painter.has_colours:
    output.show(f'exit depths: {" ".join(map(str, row.exit_depths))}')


def _check_numbers(args: argparse.Namespace, num_prompts: int) -> None:
  if args.batch_size < 1:
    raise ArgumentError(
      f'--batch-size must be at least 1, not {args.batch_size}.'
    )
  if args.stream and num_prompts != 1:
    raise ArgumentError(
      f'--stream shows one prompt, and there are {num_prompts}; leave it out.'
    )


def _summarize(
  found: list['GenerateResult'], policy: 'Policy', *, load_s: float
) -> dict[str, Any]:
  """Return what `--json` prints."""
  from eejax.decoding import policy as policy_lib
  from eejax.decoding.accounting import Accounting, BatchAccounting
  from eejax.decoding.results import Timing

  timing = sum((r.timing for r in found), start=Timing())
  accounting = sum((r.accounting for r in found), start=Accounting())
  batch = sum((r.batch for r in found), start=BatchAccounting())
  rows = [dataclasses.asdict(row) for r in found for row in r.rows]
  for row in rows:
    del row['pieces']
  return {
    'results': rows,
    'timing': {'load_s': load_s, **dataclasses.asdict(timing)},
    'accounting': {
      **dataclasses.asdict(accounting),
      **dataclasses.asdict(batch),
    },
    'mode': policy.mode,
    'policy': policy_lib.to_json(policy),
  }


def _closing_line(summary: dict[str, Any]) -> str:
  timing, work = summary['timing'], summary['accounting']
  tokens = sum(len(r['tokens']) for r in summary['results'])
  share = work['blocks_run'] / max(work['blocks_full'], 1)
  return (
    f'{tokens} tokens, {timing["tokens_per_s"]:.1f} tokens/s (prefill '
    f'{timing["prefill_s"]:.2f} s, compilation {timing["compile_s"]:.1f} s); '
    f'{share:.0%} of the block-passes of full decoding'
  )


def _generate(
  args: argparse.Namespace,
  prepared: 'Prepared',
  tokenizer: 'Tokenizer',
  prompts: list[str],
  policy: 'Policy',
  sampling: 'SamplingConfig',
  first: int,
  listener: '_Listener',
) -> 'GenerateResult':
  """Decode one batch; `first` is the number of its first prompt."""
  from eejax.data.tokenizer import IncrementalDecoder
  from eejax.decoding.generate import generate
  from eejax.decoding.text import TextStream

  ids = tokenizer.encode_batch(prompts, add_bos=tokenizer.adds_bos)
  texts = [
    TextStream(IncrementalDecoder(tokenizer, context=i), stop=args.stop)
    for i in ids
  ]
  with listener:
    return generate(
      prepared,
      config=prepared.config,
      prompts=ids,
      policy=policy,
      sampling=sampling,
      max_new_tokens=args.max_new_tokens,
      seeds=[args.seed + first + i for i in range(len(ids))],
      texts=texts,
      on_tokens=listener.take,
      tokens_per_call=STREAM_EVERY if args.stream else None,
    )


class _Listener:
  """Tell a person what happens: compiling, then tokens as they come."""

  def __init__(
    self, *, total: int, prompt: str | None, painter: 'Painter | None'
  ):
    """Start to listen.

    Args:
      total: tokens there will be at most.
      prompt: begins the text that is streamed; None shows progress instead.
      painter: colours what is streamed, or None.
    """
    self._total, self._prompt, self._painter = total, prompt, painter
    self._compiling = contextlib.ExitStack()
    self._progress: Any = None

  def __enter__(self) -> None:
    from eejax.cli import output

    # Until the first tokens come, programs are compiled.
    self._compiling.enter_context(output.waiting('compiling'))

  def take(self, update: 'TokenUpdate') -> None:
    """Show what a row emitted."""
    from eejax.cli import output

    self._compiling.close()
    if self._prompt is None:
      if self._progress is None:
        self._progress = output.progress(
          'generating', total=self._total, unit='token'
        )
      self._progress.update(len(update.tokens))
      return
    text = ''.join(update.pieces)
    if self._painter is not None:
      text = self._painter.paint(update.pieces, update.exit_depths)
    print(self._prompt + text, end='', flush=True)
    self._prompt = ''

  def __exit__(self, *_: object) -> None:
    self._compiling.close()
    if self._progress is not None:
      self._progress.close()
    if self._prompt == '':
      print()
