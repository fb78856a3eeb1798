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
"""What it costs that experts are chosen while a token is decoded.

`moe_decode_ratio` is the time of blocks of 8 experts, of which a token passes
2, over that of dense blocks as wide as the two, in the form that decoding has:
one token, no earlier keys, kernels laid out as the platform multiplies them
fastest. It is the worst of float32, bfloat16 and int8, each against the dense
blocks of the same precision. Every repeat is of another token, so that other
experts are chosen.
"""

import argparse
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import timing
from figures import Figure

from eejax.config import ModelConfig
from eejax.config.experts import ExpertsConfig
from eejax.models.block import Block, Projections
from eejax.models.kernel_layout import flatten_block, for_modules
from eejax.models.quantized import quantize_block
from eejax.models.stacking import fuse
from eejax.types import PyTree

NUM_BLOCKS = 8
LEAST_REPEATS = 21
DENSE = ModelConfig(
  vocab_size=64,
  num_layers=NUM_BLOCKS,
  embed_dim=576,
  num_heads=9,
  num_kv_heads=3,
  head_dim=64,
  mlp_dim=2 * 1536,
  max_length=64,
)
SPARSE = dataclasses.replace(DENSE, experts=ExpertsConfig(8, 2, 1536))
PRECISIONS = ('float32', 'bfloat16', 'int8')


def moe_decode_ratio(args: argparse.Namespace) -> Figure:
  """Time of a block of experts over a dense one of its active size."""
  detail = {name: _measure(name, args.repeats) for name in PRECISIONS}
  return max(d['ratio'] for d in detail.values()), detail


def _measure(precision: str, repeats: int) -> dict[str, Any]:
  runs = {
    name: _runs(config, precision)
    for name, config in (('experts', SPARSE), ('dense', DENSE))
  }
  seconds = timing.interleaved(runs, repeats=max(repeats, LEAST_REPEATS))
  return {
    'ratio': timing.median_ratio(seconds, 'experts', 'dense'),
    'seconds_of_a_block': {
      name: median / NUM_BLOCKS
      for name, median in timing.medians(seconds).items()
    },
  }


def _runs(config: ModelConfig, precision: str):
  """Return what runs all blocks on the next of several tokens."""
  dtype = jnp.dtype('float32' if precision == 'int8' else precision)
  blocks = tuple(_block(config, precision, i) for i in range(NUM_BLOCKS))
  tokens = jax.random.normal(
    jax.random.key(0), (LEAST_REPEATS, 1, 1, config.embed_dim), dtype
  )
  count = iter(range(10**9))
  return lambda: _run(
    blocks, tokens[next(count) % LEAST_REPEATS], config=config
  )


def _block(config: ModelConfig, precision: str, number: int) -> PyTree:
  x = jnp.zeros((1, 1, config.embed_dim))
  positions = jnp.zeros((1, 1), jnp.int32)
  init = jax.jit(lambda key: Block(config).init(key, x, positions=positions))
  block = init(jax.random.key(number))['params']
  if precision == 'int8':
    fused = fuse(quantize_block(block))
  else:
    fused = fuse(jax.tree.map(lambda leaf: leaf.astype(precision), block))
  return flatten_block(fused)


@functools.partial(jax.jit, static_argnames='config')
def _run(blocks: tuple[PyTree, ...], x: jax.Array, *, config: ModelConfig):
  run = Block(config, projections=Projections.FUSED)
  for block in blocks:
    params = {'params': for_modules(block)}
    x = run.apply(params, x, positions=jnp.zeros((1, 1), jnp.int32)).hidden
  return x
