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
"""Time transformers on a model, for `eejax bench --peers`.

  python benchmarks/peers.py models/Llama-3.2-1B --exits 4,8 --out peers.json
  eejax bench checkpoints/llama --peers peers.json

Greedy, float32, one prompt at a time and in batches: plain `generate`; and, for
they take one prompt at a time, `generate(assistant_early_exit=E)`, which drafts
with the first E blocks and the model's own head, and
`generate(prompt_lookup_num_tokens=7)`, which drafts what the text said before,
as far as eejax's own window does. Times are of whole calls,
prompts included. It needs the `parity` extra; prompts that are not given are
made of random tokens, so give those that `eejax bench` measures on.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from figures import described
from timing import interleaved

from eejax.checkpoint.huggingface import import_folder
from eejax.checkpoint.tree import backbone_hash
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError


def measure(
  folder: pathlib.Path,
  *,
  prompts: list[str],
  exits: list[int],
  batch_sizes: list[int],
  new_tokens: int,
  repeats: int,
) -> dict[str, Any]:
  """Return what is measured, as `eejax bench --peers` reads it."""
  import torch
  import transformers

  # It warns of its own ways to call itself.
  transformers.logging.set_verbosity_error()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )
  model.eval()
  ids = _prompt_ids(folder, prompts, vocab_size=model.config.vocab_size)
  lines = []
  for size in batch_sizes:
    runs = {'transformers generate': _runs(model, ids, size, new_tokens)}
    for depth in exits if size == 1 else ():
      runs[f'transformers assistant_early_exit={depth}'] = _runs(
        model, ids, size, new_tokens, assistant_early_exit=depth
      )
    if size == 1:
      runs['transformers prompt_lookup_num_tokens=7'] = _runs(
        model, ids, size, new_tokens, prompt_lookup_num_tokens=7
      )
    seconds = interleaved(runs, repeats=repeats)
    rows = size * -(-len(ids) // size)
    for name, values in seconds.items():
      speed = rows * new_tokens / statistics.median(values)
      print(f'{name}, batch {size}: {speed:.1f} tokens/s', file=sys.stderr)
      lines.append(
        {
          'decoder': name,
          'batch_size': size,
          'tokens_per_s_with_prefill': speed,
          'seconds': values,
        }
      )
  # As stored, and as `eejax bench` reads a folder in float32.
  held = (import_folder(folder, dtype=d).params for d in (None, np.float32))
  return {
    'backbone_hashes': [backbone_hash(params) for params in held],
    'lines': lines,
    'new_tokens': new_tokens,
    'prompts': len(ids),
    'torch_threads': torch.get_num_threads(),
    'versions': {
      'torch': torch.__version__,
      'transformers': transformers.__version__,
    },
    'environment': described(),
  }


def _prompt_ids(
  folder: pathlib.Path, prompts: list[str], *, vocab_size: int
) -> list[list[int]]:
  """Return prompts of one length, for transformers pads on the left."""
  if prompts:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode_batch(prompts, add_bos=tokenizer.adds_bos)
    length = min(map(len, ids))
    return [row[:length] for row in ids]
  random = np.random.default_rng(0)
  return random.integers(3, vocab_size, (4, 32)).tolist()


def _runs(
  model: Any, ids: list[list[int]], size: int, new_tokens: int, **settings: Any
) -> Callable[[], Any]:
  """Return a function that continues every prompt, in batches."""
  import torch

  count = len(ids)
  batches = [
    torch.tensor([ids[row % count] for row in range(first, first + size)])
    for first in range(0, count, size)
  ]

  def run() -> list[Any]:
    with torch.inference_mode():
      return [
        model.generate(
          batch,
          attention_mask=torch.ones_like(batch),
          max_new_tokens=new_tokens,
          min_new_tokens=new_tokens,
          do_sample=False,
          pad_token_id=0,
          **settings,
        ).numpy()
        for batch in batches
      ]

  return run


def _numbers(text: str) -> list[int]:
  return [int(part) for part in text.split(',') if part]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('model', type=pathlib.Path, help='Hugging Face folder')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--exits', type=_numbers, default=[], help='depths')
  parser.add_argument('--batch-sizes', type=_numbers, default=[1, 4])
  parser.add_argument('--prompts', type=pathlib.Path, help='a prompt a line')
  parser.add_argument('--max-new-tokens', type=int, default=32)
  parser.add_argument('--repeats', type=int, default=3)
  args = parser.parse_args()
  prompts = []
  if args.prompts:
    lines = args.prompts.read_text(encoding='utf-8').splitlines()
    prompts = [line for line in lines if line.strip()]
  try:
    found = measure(
      args.model,
      prompts=prompts,
      exits=args.exits,
      batch_sizes=args.batch_sizes,
      new_tokens=args.max_new_tokens,
      repeats=args.repeats,
    )
  except (OSError, ArgumentError) as error:
    parser.error(str(error))
  partial = args.out.with_name(f'.{args.out.name}.part')
  partial.write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
  os.replace(partial, args.out)


if __name__ == '__main__':
  main()
