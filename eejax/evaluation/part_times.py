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
"""What the parts of decoding take on this machine.

Parts are taken from whole runs of the decode loop, for timed alone they lack
what a loop adds (caches to attend over, conditions, bookkeeping), and what a
call costs. Four ways to decode the same prompts, one token a step, take turns:

  full    every block and the final head        F = L b + h + s
  cut     the model ended at an exit at depth e  C = (e + x) b + h + s
  asked   every exit's head is read, none taken  A = F + E (x' b + h + c)
  gated   every exit's gate is read, none taken  G = F + E c'

b is a block, h a head, s the rest of a step, x what an exit's own parameters
weigh in blocks (x' on average), c and c' what asking costs beside them. They
give b = (F - C) / (L - e - x), h + s, and by A what of it the head is. What a
window of n tokens costs over one, b_n / b, no such run shows alone: it is
timed with blocks alone, n tokens against one, in a compiled loop.

The least of several times counts: whatever else a machine does adds to a time
and takes nothing from it.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from eejax.config import EarlyExitConfig, GateKind, ModelConfig
from eejax.decoding.generate import generate
from eejax.decoding.loop.plan import window_widths
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation.wall_clock import interleaved
from eejax.models.block import Block, BlockOutput
from eejax.models.exits import output_matrix_name
from eejax.models.experts import unused_values
from eejax.models.kernel_layout import for_modules
from eejax.models.stacking import projections_of
from eejax.types import PyTree

# Passes of a compiled loop, so that what a call costs hardly counts.
_PASSES = 4
_PROMPT_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class PartTimes:
  """What the parts of decoding take, in seconds.

  Attributes:
    blocks: all blocks, for one token of each row.
    head: an output matrix and the choice of a token.
    step: the rest of a step.
    check: asking an exit, beside its head.
    gate_check: asking an exit's gate.
    widths: tokens of a window, rising from 1.
    factors: what the blocks take for as many tokens, over one; at least 1.
    rows: decoded together.
  """

  blocks: float
  head: float
  step: float = 0.0
  check: float = 0.0
  gate_check: float = 0.0
  widths: tuple[int, ...] = (1,)
  factors: tuple[float, ...] = (1.0,)
  rows: int = 1

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> 'PartTimes':
    """Rebuild times that were written as plain values."""
    lists = {name: tuple(values[name]) for name in ('widths', 'factors')}
    return cls(**{**values, **lists})

  @property
  def window_factor(self) -> float:
    """Return what the widest window costs over a token."""
    return self.factors[-1]


def part_times(
  params: Prepared,
  *,
  config: EarlyExitConfig,
  window: int,
  rows: int = 1,
  repeats: int = 5,
  new_tokens: int = 32,
) -> PartTimes:
  """Measure the parts of decoding.

  Args:
    params: the model, with an exit before its end.
    config: of the model.
    window: of the decoder, whose compiled widths are timed.
    rows: decoded together.
    repeats: rounds; the least time of each counts.
    new_tokens: generated in each run.

  Raises:
    ArgumentError: the model has no exit before its end, or no room for a text.
  """
  early = [e for e in config.exits if 0 < e.depth < config.model.num_layers]
  if not early:
    raise ArgumentError(
      'the parts of decoding are timed with an exit between the first and the '
      'last block, and this model has none; add one.'
    )
  room = config.model.max_length - new_tokens
  if room < 1:
    raise ArgumentError(
      f'the context of the model, {config.model.max_length}, is too short to '
      f'time {new_tokens} tokens.'
    )
  at = early[0]
  never = functools.partial(Policy, Mode.EARLY_EXIT, window=window)
  policies = {
    'full': Policy(),
    'cut': Policy(Mode.EARLY_EXIT, 'max_prob', (0.0,), minimum_depth=at.depth),
    'asked': never('max_prob', (None,)),
  }
  if all(e.gate is not GateKind.NONE for e in config.exits):
    policies['gated'] = never('gate', (None,))
  prompt = [2 + i % 7 for i in range(min(_PROMPT_TOKENS, room))]
  prompt = [t % config.model.vocab_size for t in prompt]
  runs = {
    name: functools.partial(
      _decode, params, config, [prompt] * rows, policy, new_tokens
    )
    for name, policy in policies.items()
  }
  seconds = interleaved(runs, repeats=repeats, warm_up=1)
  per_step = {name: min(s) / new_tokens for name, s in seconds.items()}
  widths = window_widths(max(window, 1))
  return _solve(
    per_step,
    config=config,
    params=params,
    cut=at.name,
    widths=widths,
    factors=_width_factors(
      params, config.model, widths=widths, rows=rows, repeats=repeats
    ),
    rows=rows,
  )


def _solve(
  per_step: dict[str, float],
  *,
  config: EarlyExitConfig,
  params: Prepared,
  cut: str,
  widths: tuple[int, ...],
  factors: tuple[float, ...],
  rows: int,
) -> PartTimes:
  """Return the parts of steps that were timed; see the module's docstring."""
  layers, exits = config.model.num_layers, len(config.exits)
  own = {e.name: _own_blocks(params, e.name) for e in config.exits}
  depth = next(e.depth for e in config.exits if e.name == cut)
  # An exit that weighs as much as what it saves tells nothing of a block.
  saved = max(layers - depth - own[cut], 0.5)
  full = per_step['full']
  # Noise must not make a block free, nor leave a head less than half of what
  # it reads beside a block.
  least = 0.5 * _head_in_blocks(params, config)
  block = (full - per_step['cut']) / saved
  block = min(max(block, 0.1 * full / layers), full / (layers + least))
  tail = full - layers * block
  asked = (per_step['asked'] - full) / exits
  asked -= block * sum(own.values()) / exits
  head = min(max(asked, least * block), tail)
  gated = (per_step.get('gated', full) - full) / exits
  return PartTimes(
    blocks=layers * block,
    head=head,
    step=tail - head,
    check=max(asked - head, 0.0),
    gate_check=max(gated, 0.0),
    widths=widths,
    factors=factors,
    rows=rows,
  )


def _own_blocks(params: Prepared, name: str) -> float:
  """Return what an exit's norm, MLP or block weighs, in blocks."""
  parts = {k: v for k, v in params.exits[name].items() if k != 'gate'}
  model = params.config.model
  own = _size(parts)
  if parts.keys() & {'mlp', 'block'}:
    own -= unused_values(model)
  return own / _block_size(params)


def _head_in_blocks(params: Prepared, config: EarlyExitConfig) -> float:
  """Return what the final output matrix weighs, in blocks."""
  kernel = params.kernels[output_matrix_name(None, config=config.model)]
  return math.prod(kernel.shape) / _block_size(params)


def _block_size(params: Prepared) -> int:
  """Return how many numbers of a block a token is multiplied by."""
  unused = unused_values(params.config.model)
  return max(_size(params.blocks[0]) - unused, 1)


def _size(tree: PyTree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _decode(
  params: Prepared,
  config: EarlyExitConfig,
  prompts: list[list[int]],
  policy: Policy,
  new_tokens: int,
) -> float:
  result = generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=new_tokens,
    # No token is -1, so no text ends early, and as many end tokens as usual
    # share their program with other decodings.
    eos_ids=(-1,) * len(config.model.eos_ids),
  )
  return result.timing.decode_s


def _width_factors(
  params: Prepared,
  config: ModelConfig,
  *,
  widths: tuple[int, ...],
  rows: int,
  repeats: int,
) -> tuple[float, ...]:
  """Return what windows cost over a token, never less than a narrower one."""
  block = Block(config, projections=projections_of(params.blocks[0]))

  @jax.jit
  def run(blocks, x):
    positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])

    def once(_, x):
      for block_params in blocks:
        params = for_modules(block_params)
        out = block.apply({'params': params}, x, positions=positions)
        x = cast(BlockOutput, out).hidden
      return x

    return jax.lax.fori_loop(0, _PASSES, once, x)

  state = lambda n: jnp.ones((rows, n, config.embed_dim), params.dtype)
  timed = interleaved(
    {str(n): _timed(run, params.blocks, state(n)) for n in widths},
    repeats=repeats,
    warm_up=2,
  )
  seconds = [min(timed[str(n)]) for n in widths]
  factors, best = [], 1.0
  for value in seconds:
    best = max(best, value / seconds[0])
    factors.append(best)
  return tuple(factors)


def _timed(
  function: Callable[..., Any], *arguments: Any
) -> Callable[[], float]:
  def once() -> float:
    clock = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - clock

  return once
