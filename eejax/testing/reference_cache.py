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
"""Keys, values and states of a text, kept by hand, replaced where it exits.

Each token runs through every block, one after the other, over what all
earlier tokens left there. Where it exits, what the blocks beyond computed for
it is replaced by what stands in for it.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  GateKind,
  ModelConfig,
)
from eejax.models import decoder
from eejax.models.block import Block, BlockOutput, Context, RecurrentContext
from eejax.models.exits import (
  ExitInput,
  ExitOutput,
  apply_exit_head,
  gate_logit,
  output_kernel,
)
from eejax.models.patterns import positions_of
from eejax.models.stacking import unstack
from eejax.ops.recurrent_state import RecurrentState
from eejax.ops.rotary import Positions
from eejax.ops.softcap import soft_cap
from eejax.testing.reference_readout import HeadReadout
from eejax.types import Params


class ApproximateKV(enum.Enum):
  """What stands in for keys and values of blocks that a token skipped.

  NOTHING: they are computed all the same. PROPAGATE: each block's own keys
  and values of the stream at the exit, or its own state after that. COPY:
  those of the last block that ran. MASK: no later token sees this one there,
  and states stay as they were. MONOTONE: no later token goes there.
  """

  NOTHING = 'nothing'
  PROPAGATE = 'propagate'
  COPY = 'copy'
  MASK = 'mask'
  MONOTONE = 'monotone'


@dataclasses.dataclass(eq=False)
class _Cache:
  """Keys and values of a text at one block.

  Attributes:
    depth: blocks a token must pass before it reaches this one.
    number: of the block (0-based) whose window and rotation it has.
    block: the block's parameters.
    window: how many keys the block sees, or None for all.
    keys: [K, S, H], slot by position.
    values: likewise.
    seen: [S], which slots later tokens may see.
    before: state of a recurrent block before the newest token; None where no
      token was, or no state is.
    after: likewise, after it.
  """

  depth: int
  number: int
  block: Params
  window: int | None
  keys: np.ndarray
  values: np.ndarray
  seen: np.ndarray
  before: RecurrentState | None = None
  after: RecurrentState | None = None

  def put(self, position: int, out: BlockOutput | ExitOutput) -> None:
    self.after = out.state
    if out.keys is not None:
      self.keys[:, position] = np.asarray(out.keys)[0, :, 0]
      self.values[:, position] = np.asarray(out.values)[0, :, 0]
    self.seen[position] = True

  def context(self, position: int) -> Context:
    """Return what the token at `position` may read of earlier ones."""
    slots = np.arange(len(self.seen))
    mask = self.seen & (slots < position)
    if self.window is not None:
      mask &= slots > position - self.window
    return Context(
      jnp.asarray(self.keys[None]),
      jnp.asarray(self.values[None]),
      jnp.asarray(mask[None, None]),
    )


class KeptText:
  """Run one token at a time over keys and values that are kept.

  Attributes:
    tokens: the text; its last token has not been run before `look`.
  """

  def __init__(
    self,
    params: Params,
    *,
    config: EarlyExitConfig,
    prompt: Sequence[int],
    approximate_kv: ApproximateKV,
  ):
    self._params, self._config, self._approximate_kv = (
      params,
      config,
      approximate_kv,
    )
    model = config.model
    blocks = unstack(params['backbone']['blocks'])
    self._blocks = [
      self._empty(number, number, block) for number, block in enumerate(blocks)
    ]
    self._exit_blocks = {
      e.name: self._empty(
        e.depth, model.num_layers - 1, params['exits'][e.name]['block']
      )
      for e in config.exits
      if e.head is ExitHeadKind.BLOCK
    }
    self.tokens: list[int] = []
    for token in prompt[:-1]:
      self.tokens.append(token)
      self.read_heads()
    self.tokens.append(prompt[-1])

  def _empty(self, depth: int, number: int, block: Params) -> _Cache:
    c = self._config.model
    window = c.window_of(number)
    blank = lambda: np.zeros((c.num_kv_heads, c.max_length, c.head_dim), 'f4')
    seen = np.zeros(c.max_length, bool)
    return _Cache(depth, number, block, window, blank(), blank(), seen)

  def read_heads(self) -> list[HeadReadout]:
    """Return what every head says of the newest token, the final one last."""
    model, position = self._config.model, len(self.tokens) - 1
    backbone = self._params['backbone']
    token = jnp.array([[self.tokens[-1]]])
    x = decoder.embed(
      backbone,
      token,
      positions=jnp.array([[position]]),
      config=model,
      dtype=jnp.float32,
    )
    self._streams = [x]
    for cache in [*self._blocks, *self._exit_blocks.values()]:
      cache.before = cache.after
    reads = [ExitInput(hidden=x)]
    for cache in self._blocks:
      out = self._run(cache, x)
      cache.put(position, out)
      x = out.hidden
      self._streams.append(x)
      reads.append(ExitInput(x, out.mlp_residual, out.mlp_input))
    readouts = [self._ask(e, reads[e.depth]) for e in self._config.exits]
    ready = decoder.final_hidden(backbone, x, config=model)
    kernel = output_kernel(self._params, exit=None, config=model)
    logits = np.asarray(soft_cap(ready[0, 0] @ kernel, model.logit_softcap))
    stream = np.asarray(x[0, 0])
    final = HeadReadout(model.num_layers, logits, math.nan, stream, position)
    return [*readouts, final]

  def exit_at(self, depth: int) -> None:
    """Replace what blocks beyond `depth` computed for the newest token."""
    position = len(self.tokens) - 1
    for cache in [*self._blocks, *self._exit_blocks.values()]:
      is_head = cache not in self._blocks
      # The head that the token left at has run its own block.
      if cache.depth < depth or (is_head and cache.depth == depth):
        continue
      match self._approximate_kv:
        case ApproximateKV.PROPAGATE:
          # What a block makes of a stream before it attends to anything.
          out = self._run(cache, self._streams[depth])
          cache.put(position, out)
        case ApproximateKV.COPY:
          last = self._blocks[depth - 1]
          cache.keys[:, position] = last.keys[:, position]
          cache.values[:, position] = last.values[:, position]
        case ApproximateKV.MASK | ApproximateKV.MONOTONE:
          cache.seen[position] = False
          cache.after = cache.before

  def _run(self, cache: _Cache, x: jax.Array) -> BlockOutput:
    position = len(self.tokens) - 1
    return _run_block(
      cache.block,
      x,
      positions_of(
        jnp.array([[position]]),
        block=cache.number,
        config=self._config.model,
      ),
      cache.context(position),
      cache.before,
      config=self._config.model,
    )

  def _ask(self, exit: ExitConfig, read: ExitInput) -> HeadReadout:
    position = len(self.tokens) - 1
    cache = self._exit_blocks.get(exit.name)
    exit_params = self._params['exits'][exit.name]
    out = _run_head(
      exit_params,
      read,
      jnp.array([[position]]),
      None if cache is None else cache.context(position),
      None if cache is None else cache.before,
      exit=exit,
      config=self._config.model,
    )
    if cache is not None:
      cache.put(position, out)
    stream = self._streams[exit.depth]
    gate: jax.Array | float = math.nan
    if exit.gate is not GateKind.NONE:
      model = self._config.model
      gate = gate_logit(exit_params, stream, exit=exit, config=model)[0, 0]
    kernel = output_kernel(self._params, exit=exit, config=self._config.model)
    return HeadReadout(
      depth=exit.depth,
      logits=np.asarray(
        soft_cap(out.hidden[0, 0] @ kernel, self._config.model.logit_softcap)
      ),
      gate_logit=float(gate),
      stream=np.asarray(stream[0, 0]),
      position=position,
    )


@functools.partial(jax.jit, static_argnames='config')
def _run_block(
  block: Params,
  x: jax.Array,
  positions: Positions | None,
  context: Context,
  state: RecurrentState | None,
  *,
  config: ModelConfig,
) -> BlockOutput:
  output = Block(config).apply(
    {'params': block},
    x,
    positions=positions,
    context=context,
    continuation=RecurrentContext(state),
  )
  return cast(BlockOutput, output)


@functools.partial(jax.jit, static_argnames=('exit', 'config'))
def _run_head(
  exit_params: Params,
  read: ExitInput,
  positions: jax.Array,
  context: Context | None,
  state: RecurrentState | None,
  *,
  exit: ExitConfig,
  config: ModelConfig,
) -> ExitOutput:
  return apply_exit_head(
    exit_params,
    read,
    exit=exit,
    config=config,
    positions=positions,
    context=context,
    continuation=RecurrentContext(state),
  )
