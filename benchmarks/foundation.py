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
"""Measure the figures of the main job; print one JSON object.

  python benchmarks/foundation.py
  python benchmarks/foundation.py --only never_overhead,tune_memory_growth
  python benchmarks/foundation.py --quickstart runs/quickstart/summary.json

Ratios are of times taken in turn within this process, and medians. Memory is
what the compiler says a program needs, so it is exact. `quickstart_speedup`
is read from the summary of a quickstart, which is run first unless one is
given. `decode_vs_transformers` needs the `parity` extra.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import figures
import jax
import jax.numpy as jnp
import optax
from figures import Figure
from timing import interleaved, median_ratio, medians

from eejax.checkpoint.huggingface_export import export_folder
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.models import decoder
from eejax.models.exits import apply_exit_head, output_kernel
from eejax.ops.cross_entropy import cross_entropy
from eejax.training import freeze, state
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.step import StepConfig, compile_train_step, make_train_step

# A Llama of 43 million parameters.
LLAMA_43M = ModelConfig(
  vocab_size=8192,
  num_layers=12,
  embed_dim=512,
  num_heads=8,
  num_kv_heads=8,
  head_dim=64,
  mlp_dim=1408,
  max_length=512,
)
PROMPT = list(range(100, 116))
NEW_TOKENS = 100


def decode_vs_transformers(repeats: int) -> Figure:
  """Return eejax's tokens/s over transformers', greedy, whole calls."""
  import torch
  import transformers

  config = EarlyExitConfig(LLAMA_43M)
  params = decoder.init(config, jax.random.key(0))
  with tempfile.TemporaryDirectory() as folder:
    export_folder(Model(config, params), pathlib.Path(folder) / 'hf')
    model = transformers.AutoModelForCausalLM.from_pretrained(
      pathlib.Path(folder) / 'hf', dtype=torch.float32
    )
  ours = prepare(params, config=config)
  prompt = torch.tensor([PROMPT])

  def theirs():
    with torch.inference_mode():
      return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
      ).numpy()

  run = lambda: _decode(ours, config, Policy())
  same = list(run()) == theirs()[0, len(PROMPT) :].tolist()
  seconds = interleaved({'eejax': run, 'transformers': theirs}, repeats=repeats)
  detail = {
    'tokens_per_s': {k: NEW_TOKENS / v for k, v in medians(seconds).items()},
    'same_tokens': same,
    'torch_threads': torch.get_num_threads(),
    'versions': [torch.__version__, transformers.__version__],
  }
  return median_ratio(seconds, 'transformers', 'eejax'), detail


def never_overhead(repeats: int) -> Figure:
  """Return the time of `never` with 3 gated exits over plain decoding."""
  exits = parse_exits('3:norm:gate,6:norm:gate,9:norm:gate')
  config = EarlyExitConfig(LLAMA_43M, exits)
  model = prepare(decoder.init(config, jax.random.key(0)), config=config)
  never = Policy(Mode.EARLY_EXIT, 'gate', (None,))
  seconds = interleaved(
    {
      'never': lambda: _decode(model, config, never),
      'plain': lambda: _decode(model, config, Policy()),
    },
    repeats=repeats,
  )
  ratio = median_ratio(seconds, 'never', 'plain')
  return ratio, {'ms_per_token': _ms_per_token(seconds)}


def forced_exit_efficiency(repeats: int) -> Figure:
  """Return the worst speed-up over the bytes ideal of three forced depths."""
  exits = parse_exits('3:norm,6:norm,9:norm')
  config = EarlyExitConfig(LLAMA_43M, exits)
  model = prepare(decoder.init(config, jax.random.key(0)), config=config)
  policies = {'plain': Policy()}
  for e in exits:
    forced = Policy(Mode.EARLY_EXIT, 'max_prob', (0.0,), minimum_depth=e.depth)
    policies[f'depth {e.depth}'] = forced
  runs = {
    name: lambda p=p: _decode(model, config, p) for name, p in policies.items()
  }
  seconds = interleaved(runs, repeats=repeats)
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  head = size(model.kernels)
  block = size(model.blocks[0])
  plain_bytes = len(model.blocks) * block + head
  detail = {}
  for e in exits:
    ideal = plain_bytes / (e.depth * block + head)
    speedup = median_ratio(seconds, 'plain', f'depth {e.depth}')
    detail[f'depth {e.depth}'] = {
      'speedup': speedup,
      'bytes_ideal': ideal,
      'efficiency': speedup / ideal,
    }
  detail['ms_per_token'] = _ms_per_token(seconds)
  worst = min(detail[f'depth {e.depth}']['efficiency'] for e in exits)
  return worst, detail


def tune_step_ratio(repeats: int) -> Figure:
  """Return a `tune` step's time over that of its parts, measured apart."""
  model = dataclasses.replace(LLAMA_43M, vocab_size=4096, embed_dim=256)
  config = EarlyExitConfig(model, parse_exits('2:mlp,4:mlp,6:mlp,8:mlp'))
  params = decoder.init(config, jax.random.key(0))
  params = freeze.cut_to_depth(params, config=config, full_depth=False)
  exits, frozen = freeze.split(params, regime=Regime.TUNE)
  batch = _batch(config, rows=4, length=256)
  optimizer = clipped_adamw(1e-3)
  step = compile_train_step(
    make_train_step(
      config,
      objective=Objective(regime=Regime.TUNE),
      optimizer=optimizer,
      settings=StepConfig(),
    )
  )
  held = [state.create(jax.tree.map(jnp.copy, exits), optimizer=optimizer)]

  def whole():
    held[0], metrics = step(held[0], frozen, batch)
    return metrics

  forward, exits_alone, update = _parts_of_a_tune_step(config, batch, optimizer)
  inputs = forward(frozen['backbone'])
  opt_state = optimizer.init(exits)
  seconds = interleaved(
    {
      'step': whole,
      'forward': lambda: forward(frozen['backbone']),
      'exits': lambda: exits_alone(exits, frozen, inputs),
      'update': lambda: update(exits, opt_state),
    },
    repeats=repeats,
  )
  seconds['parts'] = [
    a + b + c
    for a, b, c in zip(
      seconds['forward'], seconds['exits'], seconds['update'], strict=True
    )
  ]
  return median_ratio(seconds, 'step', 'parts'), {'seconds': medians(seconds)}


def _parts_of_a_tune_step(config, batch, optimizer):
  """Return the forward pass, the exits' gradients and the update, jitted."""
  positions, segments = batch.positions, batch.segment_ids

  @jax.jit
  def forward(backbone):
    x = decoder.embed(
      backbone,
      batch.tokens,
      positions=positions,
      config=config.model,
      dtype=jnp.float32,
    )
    return decoder.run_blocks(
      backbone, x, config=config, positions=positions, segment_ids=segments
    ).exit_inputs

  def exit_loss(exits, frozen, inputs):
    total = jnp.zeros(())
    for e in config.exits:
      ready = apply_exit_head(
        exits['exits'][e.name],
        inputs[e.name],
        exit=e,
        config=config.model,
        positions=positions,
        segment_ids=segments,
      )
      whole = freeze.merge(exits, frozen)
      kernel = output_kernel(whole, exit=e, config=config.model)
      losses = cross_entropy(
        ready.hidden, kernel=kernel, targets=batch.targets
      ).loss
      total += jnp.mean(losses * batch.weights)
    return total

  @jax.jit
  def update(exits, opt_state):
    updates, opt_state = optimizer.update(exits, opt_state, exits)
    return optax.apply_updates(exits, updates), opt_state

  return forward, jax.jit(jax.value_and_grad(exit_loss)), update


def tune_memory_growth(repeats: int) -> Figure:
  """Return temp memory per frozen block, in activations of one block."""
  del repeats
  rows, length = 8, 256
  temp = {
    num_layers: _tune_temp_bytes(num_layers, rows=rows, length=length)
    for num_layers in (12, 24)
  }
  activation = rows * length * 256 * 4
  growth = (temp[24] - temp[12]) / activation
  return growth, {'temp_bytes': temp, 'one_activation_bytes': activation}


def _tune_temp_bytes(num_layers: int, *, rows: int, length: int) -> int:
  model = dataclasses.replace(
    LLAMA_43M, vocab_size=4096, embed_dim=256, num_layers=num_layers
  )
  exits = parse_exits(f'3:mlp,6:mlp,{num_layers}:norm')
  return _temp_bytes(EarlyExitConfig(model, exits), rows=rows, length=length)


def multi_exit_loss_memory(repeats: int) -> Figure:
  """Return peak temp memory of 8 exits over that of 1, V = 128,000."""
  del repeats
  model = dataclasses.replace(LLAMA_43M, vocab_size=128_000)
  temp = {}
  for count in (1, 8):
    depths = [12] if count == 1 else range(5, 13)
    exits = parse_exits(','.join(f'{d}:norm' for d in depths))
    config = EarlyExitConfig(model, exits)
    temp[count] = _temp_bytes(config, rows=4, length=512)
  return temp[8] / temp[1], {'temp_bytes': temp}


def _temp_bytes(config: EarlyExitConfig, *, rows: int, length: int) -> int:
  """Return what the compiler sets aside for one `tune` step."""
  optimizer = clipped_adamw(1e-3)
  step = compile_train_step(
    make_train_step(
      config,
      objective=Objective(regime=Regime.TUNE),
      optimizer=optimizer,
      settings=StepConfig(),
    )
  )
  shapes = jax.eval_shape(lambda k: decoder.init(config, k), jax.random.key(0))
  exits, frozen = freeze.split(shapes, regime=Regime.TUNE)
  start = jax.eval_shape(lambda e: state.create(e, optimizer=optimizer), exits)
  batch = jax.eval_shape(lambda: _batch(config, rows=rows, length=length))
  compiled = step.lower(start, frozen, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def quickstart_speedup(summary: pathlib.Path | None) -> Figure:
  """Return the speed-up of early exit that the quickstart measured."""
  if summary is None:
    folder = pathlib.Path(tempfile.mkdtemp()) / 'quickstart'
    command = [sys.executable, '-m', 'eejax', 'quickstart', '--out', folder]
    subprocess.run(command, check=True, stdout=sys.stderr)
    summary = folder / 'summary.json'
  values = json.loads(summary.read_text())
  verdict = values['stages']['verdict']['values']
  measured = [
    candidate
    for candidate in verdict['candidates']
    if candidate['promise'] != 'exact' and candidate['measured']
  ]
  best = max(measured, key=lambda c: c['measured']['speedup']['value'])
  detail = {'candidate': best, 'noise': verdict['noise']}
  return best['measured']['speedup']['value'], detail


def _decode(model, config: EarlyExitConfig, policy: Policy):
  result = generate(
    model,
    config=config,
    prompts=[PROMPT],
    policy=policy,
    max_new_tokens=NEW_TOKENS,
    eos_ids=(),
  )
  return result.rows[0].tokens


def _ms_per_token(seconds) -> dict[str, float]:
  return {k: 1e3 * v / NEW_TOKENS for k, v in medians(seconds).items()}


def _batch(config: EarlyExitConfig, *, rows: int, length: int) -> TokenBatch:
  shape = (rows, length)
  tokens = jax.random.randint(
    jax.random.key(1), shape, 0, config.model.vocab_size
  )
  return TokenBatch(
    tokens=tokens,
    targets=jnp.roll(tokens, -1, axis=1),
    weights=jnp.ones(shape, jnp.float32),
    positions=jnp.broadcast_to(jnp.arange(length), shape),
    segment_ids=jnp.ones(shape, jnp.int32),
  )


BY_REPEATS: dict[str, Callable[[int], Figure]] = {
  'decode_vs_transformers': decode_vs_transformers,
  'never_overhead': never_overhead,
  'forced_exit_efficiency': forced_exit_efficiency,
  'tune_step_ratio': tune_step_ratio,
  'tune_memory_growth': tune_memory_growth,
  'multi_exit_loss_memory': multi_exit_loss_memory,
}
FIGURES: dict[str, figures.Measure] = {
  name: lambda args, measure=measure: measure(args.repeats)
  for name, measure in BY_REPEATS.items()
} | {'quickstart_speedup': lambda args: quickstart_speedup(args.quickstart)}


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=9)
  parser.add_argument(
    '--quickstart', type=pathlib.Path, help='summary.json of a quickstart'
  )
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
