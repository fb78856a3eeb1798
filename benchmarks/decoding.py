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
"""Measure the decoding engine: prints one JSON object.

  python benchmarks/decoding.py --model runs/quickstart/tuning/model
  python benchmarks/decoding.py --only never_overhead_b8,depth_queue_gain
  python benchmarks/decoding.py --only bandwidth_share --hardware h200_141g

Ratios are of times taken in turn within this process, and medians; counts are
exact. Figures that need a trained model are skipped, by name, without one;
that of the memory's bandwidth wants to be told which accelerator it runs on.
`assistant` needs the `parity` extra.
"""

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import figures
import jax
import jax.numpy as jnp
import numpy as np
from figures import Figure
from foundation import LLAMA_43M, forced_exit_efficiency

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint.huggingface_export import export_folder
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.data import batches as data_batches
from eejax.data.corpus import Split
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer
from eejax.decoding.generate import generate
from eejax.decoding.loop import programs
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.batching import Batching, head_in_blocks
from eejax.decoding.policy.criteria import Criterion, Evidence, Reads, register
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.hardware import Hardware, read_hardware
from eejax.models import decoder
from eejax.models.exits import output_matrix_name

NEW_TOKENS = 96
# 1.1 billion parameters.
LLAMA_1B = ModelConfig(
  vocab_size=32000,
  num_layers=22,
  embed_dim=2048,
  num_heads=32,
  num_kv_heads=4,
  head_dim=64,
  mlp_dim=5632,
  max_length=2048,
)


@dataclasses.dataclass(frozen=True)
class Coin(Criterion):
  """Score tokens evenly over [0, 1], whatever they are.

  A random model has no easy tokens; this says which ones leave where, so
  that the speed of a given mixture can be measured.

  score = frac(0.618 (position + 1) + 0.377 depth).
  """

  name = 'coin'
  reads = Reads.POSITIONS

  def score(self, evidence: Evidence):
    """Return the score; see the class."""
    phase = 0.377 * evidence.depth
    return jnp.mod((evidence.positions + 1) * 0.6180339 + phase, 1.0)


COIN = register(Coin())


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model to decode with, and prompts for it."""

  config: EarlyExitConfig
  params: Prepared
  prompts: list[list[int]]

  def run(self, policy: Policy, *, batch_size: int = 1, tokens=NEW_TOKENS):
    """Decode the prompts in batches; return the results."""
    return [
      generate(
        self.params,
        config=self.config,
        prompts=self.prompts[i : i + batch_size],
        policy=policy,
        max_new_tokens=tokens,
        eos_ids=(),
      )
      for i in range(0, len(self.prompts), batch_size)
    ]


def random_llama(
  exits: str = '',
  *,
  rows: int = 1,
  model: ModelConfig = LLAMA_43M,
  dtype: str = 'float32',
) -> Subject:
  """Return a Llama with random weights and prompts of mixed lengths."""
  heads = parse_exits(exits) if exits else ()
  config = EarlyExitConfig(model, heads)
  params = jax.jit(lambda key: decoder.init(config, key))(jax.random.key(0))
  rng = np.random.default_rng(0)
  prompts = [
    rng.integers(1, model.vocab_size, size=12 + 5 * (i % 7)).tolist()
    for i in range(rows)
  ]
  return Subject(config, prepare(params, config=config, dtype=dtype), prompts)


def trained(path: pathlib.Path, *, count: int = 6) -> Subject:
  """Return a tuned model with the beginnings of files it never saw."""
  held = checkpoint_folder.load(path)
  words = Tokenizer.load(held.tokenizer_folder)
  data = DataConfig(corpus='stdlib')
  texts = data_batches.read_texts(data, split=Split.TEST)
  encoded = (words.encode(t, add_bos=True) for t in texts)
  prompts = [ids[:48] for ids in encoded if len(ids) > 200][:count]
  params = prepare(held.params, config=held.config)
  return Subject(held.config, params, prompts)


def seconds_in_turn(
  runs: dict[str, Callable[[], list]], repeats: int
) -> dict[str, list[float]]:
  """Return decoding seconds of every repeat of every run, taken in turn."""
  for run in runs.values():
    run()
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      seconds[name].append(sum(r.timing.decode_s for r in run()))
  return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
  """Return the median over repeats of one run's time over another's."""
  pairs = zip(seconds[above], seconds[below], strict=True)
  return statistics.median(a / b for a, b in pairs)


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
  """Return each run's median, in seconds."""
  return {name: statistics.median(s) for name, s in seconds.items()}


# MARK: Figures


def never_overhead(repeats: int, *, rows: int) -> Figure:
  """Return the time of `never` with 3 gated exits over plain decoding."""
  subject = random_llama('3:norm:gate,6:norm:gate,9:norm:gate', rows=rows)
  never = Policy(Mode.EARLY_EXIT, 'gate', (None,))
  seconds = seconds_in_turn(
    {
      'never': lambda: subject.run(never, batch_size=rows),
      'plain': lambda: subject.run(Policy(), batch_size=rows),
    },
    repeats,
  )
  return ratio(seconds, 'never', 'plain'), {'seconds': medians(seconds)}


def policy_efficiency(repeats: int) -> Figure:
  """Return the worst measured speed-up over that of the reads saved.

  With exact keys and values; in the detail, too, where blocks are skipped
  for good, their keys and values projected or left out.
  """
  subject = random_llama('3:norm,6:norm,9:norm')
  policies = {
    (kv.value, f'{1 - t:.0%} leave at each exit'): Policy(
      Mode.EARLY_EXIT, COIN, (t,), kv_strategy=kv
    )
    for kv in (KVStrategy.DEFERRED, KVStrategy.PROPAGATE, KVStrategy.MASK)
    for t in (0.3, 0.5, 0.8)
  }
  runs = {'plain': lambda: subject.run(Policy())}
  runs |= {str(n): lambda p=p: subject.run(p) for n, p in policies.items()}
  seconds = seconds_in_turn(runs, repeats)
  detail: dict[str, dict[str, dict[str, float]]] = {}
  for name, policy in policies.items():
    ideal = _speedup_by_reads(subject, policy)
    speedup = ratio(seconds, 'plain', str(name))
    detail.setdefault(name[0], {})[name[1]] = {
      'speedup': speedup,
      'reads_ideal': ideal,
      'efficiency': speedup / ideal,
    }
  worst = {
    kv: min(d['efficiency'] for d in by_mixture.values())
    for kv, by_mixture in detail.items()
  }
  return worst['deferred'], {'worst': worst, **detail}


def _speedup_by_reads(subject: Subject, policy: Policy) -> float:
  """Return the speed-up if blocks and heads cost what is read of them."""
  head = head_in_blocks(subject.config)
  work = subject.run(policy)[0]
  reads = work.batch.block_reads + head * work.batch.head_reads
  full = subject.config.model.num_layers + head
  return full * len(work.rows[0].tokens) / reads


def depth_queue_gain(repeats: int) -> Figure:
  """Return tokens/s of `depth_queue` over those of `ride_along`, batch 16."""
  subject = random_llama('3:norm', rows=16)
  detail: dict[str, Any] = {}
  gains = []
  for strategy in (KVStrategy.DEFERRED, KVStrategy.PROPAGATE):
    policies = {
      b: Policy(Mode.EARLY_EXIT, COIN, (0.3,), batching=b, kv_strategy=strategy)
      for b in (Batching.RIDE_ALONG, Batching.DEPTH_QUEUE)
    }
    runs = {
      b.value: lambda p=p: subject.run(p, batch_size=16)
      for b, p in policies.items()
    }
    seconds = seconds_in_turn(runs, repeats)
    gain = ratio(seconds, 'ride_along', 'depth_queue')
    queued = subject.run(policies[Batching.DEPTH_QUEUE], batch_size=16)[0]
    single = subject.run(policies[Batching.DEPTH_QUEUE])
    same = [
      a.tokens == b.rows[0].tokens
      for a, b in zip(queued.rows, single, strict=True)
    ]
    detail[strategy.value] = {
      'gain': gain,
      'seconds': medians(seconds),
      'rows_as_alone': sum(same) / len(same),
    }
    gains.append(gain)
  return gains[0], detail


def deferred_block_passes(repeats: int) -> Figure:
  """Return the greatest distance of passes a token from L, over thresholds."""
  del repeats
  subject = random_llama('3:norm,6:norm,9:norm')
  layers = subject.config.model.num_layers
  detail = {}
  for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
    policy = Policy(Mode.EARLY_EXIT, COIN, (threshold,))
    depths = subject.run(policy)[0].rows[0].exit_depths
    # Up to its last token at full depth, no keys and values are missing.
    complete = len(depths) - depths[::-1].index(layers)
    row = subject.run(policy, tokens=complete)[0].rows[0]
    detail[str(threshold)] = row.accounting.blocks_run / complete
  worst = max(detail.values(), key=lambda x: abs(x - layers))
  return worst, {'passes_per_token': detail, 'num_layers': layers}


def lossless_speedup(repeats: int, model: pathlib.Path) -> Figure:
  """Return the best lossless setting's speed over plain decoding."""
  subject = trained(model)
  first = subject.config.exit_depths[0]
  settings = {
    f'{"all exits" if depth is None else f"exit {depth}"} >= {threshold}': (
      lossless(threshold, depth)
    )
    for threshold in (0.2, 0.4, 0.6)
    for depth in (None, first)
  }
  settings |= {
    f'exit {first} >= 0.4, lookup {shortest}': lossless(0.4, first, shortest)
    for shortest in (1, 2, 3)
  }
  settings['lookup 2 alone'] = lossless(None, first, 2)
  runs = {'plain': lambda: subject.run(Policy())}
  runs |= {n: lambda p=p: subject.run(p) for n, p in settings.items()}
  plain = [r.rows[0].tokens for r in runs['plain']()]
  seconds = seconds_in_turn(runs, repeats)
  detail = {}
  for name, policy in settings.items():
    results = subject.run(policy)
    work = sum((r.accounting for r in results[1:]), results[0].accounting)
    detail[name] = {
      'speedup': ratio(seconds, 'plain', name),
      'acceptance': work.acceptance,
      'drafted': work.drafted,
      'looked_up': work.looked_up,
      'same_tokens': [r.rows[0].tokens for r in results] == plain,
    }
  return max(d['speedup'] for d in detail.values()), detail


def lossless(
  threshold: float | None, depth: int | None, lookup: int | None = None
) -> Policy:
  """Return a policy of lossless decoding."""
  return Policy(
    Mode.SPECULATIVE,
    'max_prob',
    (threshold,),
    draft_depth=depth,
    prompt_lookup=lookup,
  )


def lossless_vs_assistant(repeats: int, model: pathlib.Path) -> Figure:
  """Return the speed of lossless decoding over `assistant_early_exit`.

  What looks drafts up in the text stands beside it in the detail, against
  the same in transformers; the figure is that of exits alone.
  """
  subject = trained(model)
  theirs = _in_transformers(model)
  detail = {}
  for depth in subject.config.exit_depths[:2]:
    detail[f'exit {depth}'] = _against(
      theirs,
      subject,
      lossless(0.4, depth),
      repeats=repeats,
      assistant_early_exit=depth,
    )
  figure = min(d['ratio'] for d in detail.values())
  detail['prompt lookup'] = _against(
    theirs,
    subject,
    lossless(0.4, subject.config.exit_depths[0], 2),
    repeats=repeats,
    prompt_lookup_num_tokens=7,
  )
  return figure, detail


def _in_transformers(model: pathlib.Path):
  """Return the backbone of an eejax checkpoint as its peer's model."""
  import torch
  import transformers

  held = checkpoint_folder.load(model)
  plain = Model(held.config.with_exits(()), {**held.params, 'exits': {}})
  with tempfile.TemporaryDirectory() as scratch:
    export_folder(plain, pathlib.Path(scratch) / 'hf')
    return transformers.AutoModelForCausalLM.from_pretrained(
      pathlib.Path(scratch) / 'hf', dtype=torch.float32
    )


def _against(
  theirs, subject: Subject, policy: Policy, *, repeats: int, **options
) -> dict[str, Any]:
  """Return the peer's median seconds over ours, and whether texts agree."""
  import time

  import torch

  def decode(prompt):
    ids = torch.tensor([prompt])
    with torch.inference_mode():
      return theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        **options,
      )[0, len(prompt) :].tolist()

  texts = [decode(p) for p in subject.prompts]
  subject.run(policy)
  ratios = []
  for _ in range(repeats):
    # The peer's time has the prompt in it, too.
    timings = [r.timing for r in subject.run(policy)]
    ours = sum(t.prefill_s + t.decode_s for t in timings)
    clock = time.perf_counter()
    for prompt in subject.prompts:
      decode(prompt)
    ratios.append((time.perf_counter() - clock) / ours)
  plain = [list(r.rows[0].tokens) for r in subject.run(Policy())]
  return {'ratio': statistics.median(ratios), 'same_tokens': texts == plain}


def bandwidth_share(
  repeats: int,
  hardware: Hardware,
  *,
  model: ModelConfig = LLAMA_1B,
  dtype: str = 'bfloat16',
) -> Figure:
  """Return which share of a device's memory bandwidth full decoding takes.

  What a token reads are the blocks' weights and the output matrix; the cache
  of so short a text is left out.
  """
  subject = random_llama(
    '4:norm:gate,8:norm:gate,10:norm:gate', model=model, dtype=dtype
  )
  never = Policy(Mode.EARLY_EXIT, 'gate', (None,))
  seconds = seconds_in_turn(
    {
      'never': lambda: subject.run(never),
      'plain': lambda: subject.run(Policy()),
    },
    repeats,
  )
  params = subject.params
  matrix = params.kernels[output_matrix_name(None, config=model)]
  read = sum(leaf.nbytes for leaf in jax.tree.leaves((params.blocks, matrix)))
  per_token = statistics.median(seconds['plain']) / NEW_TOKENS
  return read / per_token / hardware.memory_bandwidth, {
    'hardware': hardware.name,
    'device': jax.devices()[0].device_kind,
    'bytes_per_token': read,
    'ms_per_token': 1e3 * per_token,
    'never_over_plain': ratio(seconds, 'never', 'plain'),
  }


def on_hardware(args: argparse.Namespace) -> Figure:
  """Return `bandwidth_share`, skipped where no device is named."""
  if args.hardware is None:
    reason = 'no --hardware was given; the figure is for an accelerator'
    return None, {'skipped': reason}
  return bandwidth_share(args.repeats, read_hardware(args.hardware))


def compile_seconds(repeats: int) -> Figure:
  """Return the seconds of compiling all modes of a model with 4 exits."""
  del repeats
  subject = random_llama('2:norm:gate,4:norm:gate,6:norm:gate,9:norm:gate')
  detail = {}
  for name, policy in {
    'full': Policy(),
    'early_exit': Policy(Mode.EARLY_EXIT, 'max_prob', (0.9,)),
    'speculative': Policy(Mode.SPECULATIVE, 'max_prob', (0.5,)),
  }.items():
    programs.decode_chunk.clear_cache()
    programs.prefill.clear_cache()
    detail[name] = subject.run(policy, tokens=2)[0].timing.compile_s
  return sum(detail.values()), detail


BY_REPEATS: dict[str, Callable[[int], Figure]] = {
  'never_overhead_b1': lambda n: never_overhead(n, rows=1),
  'never_overhead_b8': lambda n: never_overhead(n, rows=8),
  'forced_exit_efficiency': forced_exit_efficiency,
  'policy_efficiency': policy_efficiency,
  'depth_queue_gain': depth_queue_gain,
  'deferred_block_passes': deferred_block_passes,
  'compile_seconds': compile_seconds,
}
WITH_MODEL: dict[str, Callable[[int, pathlib.Path], Figure]] = {
  'lossless_speedup': lossless_speedup,
  'lossless_vs_assistant': lossless_vs_assistant,
}


def with_model(measure: Callable[[int, pathlib.Path], Figure]):
  """Return a measurement that is skipped, by name, without `--model`."""

  def run(args: argparse.Namespace) -> Figure:
    if args.model is None:
      return None, {'skipped': 'no --model was given'}
    return measure(args.repeats, args.model)

  return run


FIGURES: dict[str, figures.Measure] = {
  name: lambda args, measure=measure: measure(args.repeats)
  for name, measure in BY_REPEATS.items()
} | {name: with_model(measure) for name, measure in WITH_MODEL.items()}
FIGURES['bandwidth_share'] = on_hardware


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=7)
  parser.add_argument(
    '--model', type=pathlib.Path, help='eejax checkpoint with tuned exits'
  )
  parser.add_argument(
    '--hardware', help='the accelerator here, as in configs/hardware'
  )
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
