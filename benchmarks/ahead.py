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
"""Figures that the compilers of TPUs and GPUs give without a device.

The decode loop of the shapes of Llama-2-7B and Llama-3-8B, bfloat16, three
exits with gates, is compiled as `eejax generate` compiles it, from shapes
alone, in every mode. What a figure keeps is the worst of all cases.

The compiler for TPUs comes with `pip install 'eejax[ahead]'`; that for GPUs
needs an environment of its own, see `launch/gpu_compiler.sh`. Figures of a
compiler that is not installed are None. Training steps are in
`ahead_planner.py` (the planner's memory) and `ahead_pods.py` (all large runs).
"""

import functools
import math
import sys
import time
from typing import Any

import ahead_planner
import ahead_pods
import figures
import jax
from figures import Figure

from eejax.config import (
  EarlyExitConfig,
  ModelConfig,
  architectures,
  parse_exits,
)
from eejax.decoding import ahead_of_time
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import EejaxError
from eejax.parallel import topologies
from eejax.testing.rewritten_arrays import rewritten_arrays

MODELS = ('llama_2_7b', 'llama_3_8b')
ROWS = (1, 8)
SLOTS = 2048
TPU, GPU = 'v5e-8', 'H100'
_EARLY = {'criterion': 'gate', 'thresholds': (0.9, 0.9, 0.9)}
POLICIES = {
  'full': Policy(),
  'deferred': Policy(Mode.EARLY_EXIT, **_EARLY),
  'propagate': Policy(
    Mode.EARLY_EXIT, kv_strategy=KVStrategy.PROPAGATE, **_EARLY
  ),
  'speculative': Policy(Mode.SPECULATIVE, **_EARLY),
}


@functools.cache
def compiled_cases(
  machine: str, blocks: int, modes: tuple[str, ...] = tuple(POLICIES)
) -> dict[str, dict[str, Any]]:
  """Return what the compiler says of every case, by its name.

  At full depth the model has no exits, whose weights would not be read.

  Args:
    machine: see `eejax.parallel.topologies`.
    blocks: of each model; 0 is all of them.
    modes: some of `POLICIES`.
  """
  device = topologies.devices_of(machine)[0]
  found = {}
  for name in MODELS:
    config = _with_exits(name, blocks)
    for mode in modes:
      asked = config.with_exits(()) if mode == 'full' else config
      for rows in ROWS:
        case = f'{name} {mode} batch {rows}'
        found[case] = _described(asked, POLICIES[mode], device, rows)
        print(f'  {case}: {found[case]}', file=sys.stderr, flush=True)
  return found


def _with_exits(name: str, blocks: int) -> EarlyExitConfig:
  model = architectures.read_model(name)
  if blocks:
    model = model.with_depth(blocks)
  quarter = model.num_layers // 4
  depths = (quarter, 2 * quarter, 3 * quarter)
  exits = parse_exits(','.join(f'{d}:mlp:gate' for d in depths))
  return EarlyExitConfig(model, exits)


def _described(
  config: EarlyExitConfig, policy: Policy, device: jax.Device, rows: int
) -> dict[str, Any]:
  clock = time.perf_counter()
  compiled = ahead_of_time.compile_ahead(
    config, policy=policy, device=device, rows=rows, slots=SLOTS
  )
  seconds = time.perf_counter() - clock
  weights = jax.tree.leaves(ahead_of_time.abstract_weights(compiled))
  numbers = {math.prod(x.shape) for x in weights} - {0}
  cache = _cache_numbers(config.model, rows)
  looped = [
    r for r in rewritten_arrays(compiled.as_text(), at_least=10**6) if r.looped
  ]
  of = lambda r: math.prod(r.shape)
  return {
    'temp_bytes': compiled.memory_analysis().temp_size_in_bytes,
    'weight_bytes': sum(math.prod(x.shape) * x.dtype.itemsize for x in weights),
    'caches_bytes': 2 * 2 * cache * config.model.num_layers,
    'rewritten_weights': sum(r.size for r in looped if of(r) in numbers),
    'rewritten_caches': sum(of(r) == cache for r in looped),
    'bytes_accessed': (compiled.cost_analysis() or {}).get('bytes accessed'),
    'compile_s': seconds,
  }


def _cache_numbers(model: ModelConfig, rows: int) -> int:
  return rows * model.num_kv_heads * SLOTS * model.head_dim


def _measured(machine: str, args, key) -> Figure:
  try:
    cases = compiled_cases(machine, args.blocks)
  except EejaxError as error:
    return None, {'missing': str(error)}
  return max(map(key, cases.values())), cases


def decode_temp(machine: str, args) -> Figure:
  """Return the temporary memory of the loop over the weights."""
  return _measured(machine, args, lambda c: c['temp_bytes'] / c['weight_bytes'])


def weight_copies(machine: str, args) -> Figure:
  """Return bytes of weights that the loop copies, turns or converts whole."""
  return _measured(machine, args, lambda c: c['rewritten_weights'])


def cache_transposes(machine: str, args) -> Figure:
  """Return how many caches a step copies, turns or converts whole."""
  return _measured(machine, args, lambda c: c['rewritten_caches'])


def tpu_bytes_ratio(args) -> Figure:
  """Return bytes accessed a token at full depth over weights and caches.

  The compiler counts the whole of what it reads or writes a part of: the
  embedding for one row of it, and a cache for one slot.
  """
  try:
    cases = compiled_cases(TPU, args.blocks, ('full',))
  except EejaxError as error:
    return None, {'missing': str(error)}
  ratios = {
    name: c['bytes_accessed'] / (c['weight_bytes'] + c['caches_bytes'])
    for name, c in cases.items()
  }
  return max(ratios.values()), ratios


def compile_seconds_tpu(args) -> Figure:
  """Return the seconds to compile all loops of one model and batch size."""
  value, cases = _measured(TPU, args, lambda c: c['compile_s'])
  if value is None:
    return value, cases
  seconds = {
    f'{name} batch {rows}': sum(
      cases[f'{name} {mode} batch {rows}']['compile_s'] for mode in POLICIES
    )
    for name in MODELS
    for rows in ROWS
  }
  return max(seconds.values()), seconds


FIGURES = {
  'tpu_decode_temp': functools.partial(decode_temp, TPU),
  'gpu_decode_temp': functools.partial(decode_temp, GPU),
  'tpu_weight_copies': functools.partial(weight_copies, TPU),
  'gpu_weight_copies': functools.partial(weight_copies, GPU),
  'tpu_cache_transposes': functools.partial(cache_transposes, TPU),
  'gpu_cache_transposes': functools.partial(cache_transposes, GPU),
  'tpu_bytes_ratio': tpu_bytes_ratio,
  'compile_seconds_tpu': compile_seconds_tpu,
  **ahead_planner.FIGURES,
  **ahead_pods.FIGURES,
}


if __name__ == '__main__':
  made = figures.parser(__doc__, repeats=1)
  made.add_argument(
    '--blocks',
    type=int,
    default=0,
    help='of each model; 0 is all of them (default: 0)',
  )
  ahead_planner.add_arguments(made)
  ahead_pods.add_arguments(made)
  figures.run(made, FIGURES)
