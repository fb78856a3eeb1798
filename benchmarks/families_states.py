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
"""States of recurrent blocks: what a scan takes, and what catch-up leaves.

ssm_scan_ratio: the time of a prefill of a random Mamba, 1,024 tokens, with
eejax's scan over the time with a scan of all channels token by token; the
median of pairs. The model has the shape of `SHAPE`. The detail has the scan
alone at that width and at that of Mamba-130M, too, and the greatest difference
of a stream.

families_kv_error: the largest error of keys, values and states after some
steps of early exit and of speculation, rows of different lengths, against a
full pass over the same texts, as a share of the largest number of its array.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import figures
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig, PositionKind
from eejax.config.state_space import StateSpaceConfig, StateSpaceKind
from eejax.decoding.policy.policy import Mode, Policy
from eejax.evaluation.kv_error import kv_error
from eejax.models import decoder
from eejax.ops import selective_scan as scans
from eejax.testing import tiny

TOKENS = 1024
SHAPE = {'embed_dim': 256, 'num_layers': 8}
EXITS = '1:norm,2:block'
POLICIES = {
  'early_exit': Policy(Mode.EARLY_EXIT, 'max_prob', (0.4, 0.3), window=4),
  'speculative': Policy(
    Mode.SPECULATIVE, 'max_prob', (0.0,), draft_depth=1, draft_length=3
  ),
}
PROMPTS = ([3, 17, 8, 25, 11], [7], [21, 4, 4, 19, 28, 13, 6, 9, 12], [5, 14])


def families_kv_error(args: argparse.Namespace) -> figures.Figure:
  """Largest error of what is kept of a text after catching up."""
  kinds = {'llama': {}, **tiny.KINDS_OF_BLOCK, **tiny.KINDS_OF_RECURRENT_BLOCK}
  errors = {}
  for kind, fields in kinds.items():
    config = tiny.tiny_config(
      EXITS, **{'num_layers': 3, 'eos_ids': (), **fields}
    )
    params = _enlarged(tiny.tiny_params(config))
    for name, policy in POLICIES.items():
      errors[f'{kind} {name}'] = kv_error(
        params, config=config, prompts=PROMPTS, policy=policy, steps=12
      )
    print(f'  {kind}: {errors[f"{kind} {name}"]:.1e}', file=sys.stderr)
    jax.clear_caches()
  return max(errors.values()), {'errors': errors}


def _enlarged(params: Any) -> Any:
  """Return parameters whose heads disagree, so that tokens wait."""

  def enlarge(path: Any, leaf: jax.Array) -> jax.Array:
    name = path[-1].key
    return leaf / leaf.std() if name in ('table', 'kernel') else leaf

  def narrow(path: Any, leaf: jax.Array) -> jax.Array:
    large = enlarge(path, leaf)
    return large / 4 if path[-1].key == 'kernel' else large

  return jax.tree_util.tree_map_with_path(narrow, params)


def ssm_scan_ratio(args: argparse.Namespace) -> figures.Figure:
  """Time of a prefill of Mamba over that with a scan token by token."""
  config = tiny.tiny_config(
    '',
    vocab_size=256,
    max_length=TOKENS,
    num_heads=0,
    num_kv_heads=0,
    head_dim=0,
    mlp_dim=0,
    positions=PositionKind.NONE,
    state_space=_mixer(SHAPE['embed_dim']),
    **SHAPE,
  )
  params = tiny.tiny_params(config)['backbone']
  tokens = tiny.tiny_tokens(config, batch_size=1, length=TOKENS)
  ours = _prefill(params, config)
  with mock.patch.object(scans, 'scan_channel_blocks', _all_channels):
    theirs = _prefill(params, config)
    expected = jax.block_until_ready(theirs(tokens))
  difference = float(jnp.max(jnp.abs(ours(tokens) - expected)))
  ratio, seconds = _ratio(
    lambda: ours(tokens), lambda: theirs(tokens), args.repeats
  )
  alone = {dim: _scan_alone(dim, args.repeats) for dim in (256, 768)}
  return ratio, {
    'seconds': seconds,
    'largest_difference': difference,
    'scan_alone_by_embed_dim': alone,
  }


def _mixer(embed_dim: int) -> StateSpaceConfig:
  return StateSpaceConfig(
    StateSpaceKind.MAMBA,
    inner_dim=2 * embed_dim,
    state_dim=16,
    step_rank=embed_dim // 16,
  )


def _prefill(params: Any, config: EarlyExitConfig) -> Callable:
  def run(tokens: jax.Array) -> jax.Array:
    positions = jnp.arange(TOKENS)[None]
    x = decoder.embed(
      params,
      tokens,
      positions=positions,
      config=config.model,
      dtype=jnp.float32,
    )
    return decoder.run_blocks(
      params, x, config=config, positions=positions
    ).hidden

  return jax.jit(run)


def _all_channels(arguments: Any, rates: Any, memory: Any) -> Any:
  """Scan all channels at once, token by token."""
  y, _, last = scans.sequential_scan(arguments, rates, memory)
  return y, last


def _scan_alone(embed_dim: int, repeats: int) -> dict[str, Any]:
  mixer, draw = _mixer(embed_dim), np.random.default_rng(0)
  random = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
  channels, states = mixer.inner_dim, mixer.state_dim
  arguments = (
    random(1, TOKENS, channels),
    jax.nn.softplus(random(1, TOKENS, channels)),
    random(1, TOKENS, states),
    random(1, TOKENS, states),
    jnp.ones((1, TOKENS)),
  )
  rates = -jnp.exp(random(states, channels))
  memory = jnp.zeros((1, states, channels))
  ours = jax.jit(scans.scan_channel_blocks)
  theirs = jax.jit(_all_channels)
  run = lambda scan: lambda: scan(arguments, rates, memory)
  ratio, seconds = _ratio(run(ours), run(theirs), repeats)
  return {'ratio': ratio, 'seconds': seconds}


def _ratio(
  ours: Callable, theirs: Callable, repeats: int
) -> tuple[float, dict[str, list[float]]]:
  """Return the median of the ratios of two runs, in turn, compiled before."""
  seconds: dict[str, list[float]] = {'ours': [], 'sequential': []}
  runs = {'ours': ours, 'sequential': theirs}
  for run in runs.values():
    jax.block_until_ready(run())
  for _ in range(max(repeats, 5)):
    for name, run in runs.items():
      clock = time.perf_counter()
      jax.block_until_ready(run())
      seconds[name].append(time.perf_counter() - clock)
  pairs = zip(seconds['ours'], seconds['sequential'], strict=True)
  return statistics.median(a / b for a, b in pairs), seconds
