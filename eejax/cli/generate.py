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
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from eejax.cli import generate_arguments, generate_inputs
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.cli.generate_display import Listener
  from eejax.data.tokenizer import Tokenizer
  from eejax.decoding.loop.accounting import Accounting
  from eejax.decoding.loop.prepare import Prepared
  from eejax.decoding.policy.policy import Policy
  from eejax.decoding.results import GeneratedRow, GenerateResult
  from eejax.ops.sampling import SamplingConfig

HELP = 'continue prompts: at full depth, early, or faster and the same'
EXAMPLE = (
  "eejax generate runs/tuned/model --prompt 'def main' --criterion gate "
  '--threshold 0.9 --show-exits'
)

# Tokens between two looks at a stream.
STREAM_EVERY = 4

add_arguments = generate_arguments.add_arguments


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import generate_display, measuring, output
  from eejax.cli.exit_colours import Painter
  from eejax.decoding.loop.prepare import prepare
  from eejax.ops.quant import Quantization

  texts = generate_inputs.read_prompts(args)
  _check_numbers(args, len(texts))
  sampling = generate_inputs.sampling_config(args)
  clock = time.perf_counter()
  subject = generate_inputs.open_subject(args, method=sampling.method)
  generate_inputs.say_what_is_certified(
    subject.policy,
    temperature=args.temperature,
    max_new_tokens=args.max_new_tokens,
  )
  model = subject.model
  decoder = _Decoder(
    args,
    prepare(
      model.params,
      config=model.config,
      dtype=args.dtype,
      quantization=Quantization(args.weights or 'none'),
      kv_quantization=Quantization(args.kv or 'none'),
    ),
    subject,
    measuring.open_tokenizer(model),
    sampling,
  )
  load_s = time.perf_counter() - clock
  painter = Painter.of(subject.config) if args.show_exits else None
  found = []
  for first in range(0, len(texts), args.batch_size):
    batch = texts[first : first + args.batch_size]
    listener = generate_display.Listener(
      total=len(batch) * args.max_new_tokens,
      prompt=batch[0] if args.stream else None,
      painter=painter,
    )
    with listener:
      found.append(decoder.generate(batch, first=first, listener=listener))
  rows = [row for result in found for row in result.rows]
  for text, row in zip(texts, rows, strict=True):
    generate_display.show_row(text, row, painter, is_streamed=args.stream)
  if painter is not None:
    output.show(painter.legend([d for r in rows for d in r.exit_depths]))
  summary = _summarize(found, subject.policy, load_s=load_s)
  for line in generate_display.closing_lines(summary):
    output.say(line)
  return summary


def _check_numbers(args: argparse.Namespace, num_prompts: int) -> None:
  if args.batch_size < 1:
    raise ArgumentError(
      f'--batch-size must be at least 1, not {args.batch_size}.'
    )
  if args.stream and num_prompts != 1:
    raise ArgumentError(
      f'--stream shows one prompt, and there are {num_prompts}; leave it out.'
    )


@dataclasses.dataclass(frozen=True)
class _Decoder:
  """Hold what all batches share.

  Attributes:
    args: what was asked for.
    prepared: the blocks that run, ready for decoding.
    subject: the model and its policy.
    tokenizer: of the model.
    sampling: how tokens are chosen.
  """

  args: argparse.Namespace
  prepared: 'Prepared'
  subject: generate_inputs.Subject
  tokenizer: 'Tokenizer'
  sampling: 'SamplingConfig'

  def generate(
    self, prompts: list[str], *, first: int, listener: 'Listener'
  ) -> 'GenerateResult':
    """Decode one batch; `first` is the number of its first prompt."""
    from eejax.data.tokenizer import IncrementalDecoder
    from eejax.decoding.generate import generate
    from eejax.decoding.text import TextStream

    args, tokenizer = self.args, self.tokenizer
    ids = tokenizer.encode_batch(prompts, add_bos=tokenizer.adds_bos)
    texts = [
      TextStream(IncrementalDecoder(tokenizer, context=i), stop=args.stop)
      for i in ids
    ]
    return generate(
      self.prepared,
      config=self.subject.config,
      prompts=ids,
      policy=self.subject.policy,
      sampling=self.sampling,
      max_new_tokens=args.max_new_tokens,
      seeds=[args.seed + first + i for i in range(len(ids))],
      texts=texts,
      on_tokens=listener.take,
      tokens_per_call=STREAM_EVERY if args.stream else None,
    )


def _summarize(
  found: list['GenerateResult'], policy: 'Policy', *, load_s: float
) -> dict[str, Any]:
  """Return what `--json` prints."""
  from eejax.decoding.loop.accounting import Accounting, BatchAccounting
  from eejax.decoding.policy import policy as policy_lib
  from eejax.decoding.results import Timing

  timing = sum((r.timing for r in found), start=Timing())
  accounting = sum((r.accounting for r in found), start=Accounting())
  batch = sum((r.batch for r in found), start=BatchAccounting())
  return {
    'results': [_row_values(row) for r in found for row in r.rows],
    'timing': {'load_s': load_s, **dataclasses.asdict(timing)},
    'accounting': {
      **_work_values(accounting),
      **dataclasses.asdict(batch),
    },
    'mode': policy.mode,
    'policy': policy_lib.to_json(policy),
  }


def _row_values(row: 'GeneratedRow') -> dict[str, Any]:
  values = dataclasses.asdict(row)
  del values['pieces']
  return {**values, 'accounting': _work_values(row.accounting)}


def _work_values(work: 'Accounting') -> dict[str, Any]:
  return {**dataclasses.asdict(work), 'acceptance': work.acceptance}
