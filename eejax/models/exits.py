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
"""Exit heads and gates.

An exit head turns what a block computed into a hidden state that is ready for
an output matrix; a gate predicts, before that matrix is read, whether the
exit would agree with the full model.
"""

import dataclasses
from typing import cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  GateKind,
  ModelConfig,
  OutputMatrix,
)
from eejax.models.block import (
  Block,
  Projections,
  RecurrentContext,
  mlp_branch,
)
from eejax.models.kernel_layout import for_modules
from eejax.models.layers import Norm, Projection, RMSNorm, scaled
from eejax.models.patterns import positions_of
from eejax.ops.attention import AttentionImplementation, Context
from eejax.ops.quant import Quantization
from eejax.ops.recurrent_state import RecurrentState
from eejax.ops.rotary import Positions
from eejax.types import Array, DTypeLike, Float, Int, Params

# Width of an MLP gate's hidden layer, as a share of the residual stream.
GATE_HIDDEN_SHARE = 4


@flax.struct.dataclass
class ExitInput:
  """Inputs of an exit, from the block that it follows.

  Attributes:
    hidden: the stream at the exit's depth (h); an MLP exit without a gate
      does not read it.
    mlp_residual: the stream before that block's MLP (r); MLP exits only.
    mlp_input: the input of that block's MLP (u); MLP exits only.
  """

  hidden: Float[Array, 'B T D'] | None = None
  mlp_residual: Float[Array, 'B T D'] | None = None
  mlp_input: Float[Array, 'B T D'] | None = None


@flax.struct.dataclass
class ExitOutput:
  """Output of an exit head.

  Attributes:
    hidden: z, to be multiplied by the output matrix.
    keys: new keys of a BLOCK exit's own block, else None.
    values: new values of a BLOCK exit's own block, else None.
    state: of a BLOCK exit's own block where it is recurrent, else None.
  """

  hidden: Float[Array, 'B T D']
  keys: Float[Array, 'B K T H'] | None = None
  values: Float[Array, 'B K T H'] | None = None
  state: RecurrentState | None = None


class Bottleneck(nn.Module):
  """Apply up(silu(down(norm(h)))), a low-rank MLP beside the stream."""

  rank: int
  config: ModelConfig
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, hidden: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    """Return what is added to the stream."""
    x = Norm(self.config, self.param_dtype, name='norm')(hidden)
    project = lambda width, name: Projection(
      (width,), param_dtype=self.param_dtype, name=name
    )
    inner = jax.nn.silu(project(self.rank, 'down')(x))
    return project(hidden.shape[-1], 'up')(inner)


class ExitHead(nn.Module):
  """Turn the stream at an exit into a state ready for the output matrix.

  Attributes:
    config: the backbone, whose shapes the head follows.
    exit: which head this is; see `eejax.config.ExitHeadKind` for formulas.
  """

  config: ModelConfig
  exit: ExitConfig
  implementation: AttentionImplementation = AttentionImplementation.XLA
  param_dtype: DTypeLike = jnp.float32
  kv_quantization: Quantization = Quantization.NONE

  @nn.compact
  def __call__(
    self,
    inputs: ExitInput,
    *,
    positions: Positions | None,
    segment_ids: Int[Array, 'B T'] | None = None,
    context: Context | None = None,
    continuation: RecurrentContext | None = None,
  ) -> ExitOutput:
    """Return z; a BLOCK head also returns its keys and values, or its state.

    Args:
      inputs: what the backbone computed at the exit's depth.
      positions: position of each token in its own text, or its rotation in
        the last block; BLOCK heads only.
      segment_ids: BLOCK heads attend only within equal ids.
      context: earlier keys and values of a BLOCK head's own block.
      continuation: state of a BLOCK head's own block.
    """
    c, dtype = self.config, self.param_dtype
    keys = values = state = None
    if self.exit.head is ExitHeadKind.MLP:
      assert inputs.mlp_residual is not None and inputs.mlp_input is not None
      added, _ = mlp_branch(inputs.mlp_input, c, Projections.SEPARATE, dtype)
      hidden = inputs.mlp_residual + added
    else:
      assert inputs.hidden is not None
      hidden = inputs.hidden
    match self.exit.head:
      case ExitHeadKind.EMBEDDING:
        return ExitOutput(hidden=scaled(hidden, c.logit_scale))
      case ExitHeadKind.BOTTLENECK_MLP:
        assert self.exit.rank is not None
        hidden = hidden + Bottleneck(
          self.exit.rank, c, dtype, name='bottleneck'
        )(hidden)
      case ExitHeadKind.BLOCK:
        block = Block(
          c,
          self.implementation,
          param_dtype=dtype,
          kv_quantization=self.kv_quantization,
          name='block',
        )
        out = block(
          hidden,
          positions=positions_of(positions, block=c.num_layers - 1, config=c),
          segment_ids=segment_ids,
          window=exit_window(c),
          context=context,
          continuation=continuation,
        )
        hidden, keys, values, state = (
          out.hidden,
          out.keys,
          out.values,
          out.state,
        )
    ready = scaled(Norm(c, dtype, name='norm')(hidden), c.logit_scale)
    return ExitOutput(ready, keys, values, state)


def exit_window(config: ModelConfig) -> int | None:
  """Return the sliding window of an exit's own block: the last block's."""
  return config.window_of(config.num_layers - 1)


class Gate(nn.Module):
  """Predict from the stream whether the exit agrees with the full model.

  The sigmoid of the result is the probability of agreement. A fresh gate
  gives 0, undecided.
  """

  kind: GateKind
  epsilon: float
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, hidden: Float[Array, '*batch D']
  ) -> Float[Array, '*batch']:
    """Return the logit of agreement, float32."""
    x = RMSNorm(self.epsilon, self.param_dtype, name='norm')(
      hidden.astype(jnp.float32)
    )
    if self.kind is GateKind.MLP:
      width = max(hidden.shape[-1] // GATE_HIDDEN_SHARE, 1)
      inner = Projection(
        (width,), bias=True, param_dtype=self.param_dtype, name='inner'
      )
      x = jax.nn.silu(inner(x))
    output = Projection(
      (1,), bias=True, std=0.0, param_dtype=self.param_dtype, name='output'
    )
    return output(x)[..., 0]


def gate_logit(
  exit_params: Params,
  hidden: Float[Array, '*batch D'],
  *,
  exit: ExitConfig,
  config: ModelConfig,
) -> Float[Array, '*batch']:
  """Return the gate's logit of agreement at an exit."""
  gate = Gate(exit.gate, config.norm_epsilon)
  return cast(Array, gate.apply({'params': exit_params['gate']}, hidden))


def apply_exit_head(
  exit_params: Params,
  inputs: ExitInput,
  *,
  exit: ExitConfig,
  config: ModelConfig,
  positions: Positions | None,
  segment_ids: Int[Array, 'B T'] | None = None,
  context: Context | None = None,
  continuation: RecurrentContext | None = None,
  kv_quantization: Quantization = Quantization.NONE,
) -> ExitOutput:
  """Run an exit's head on what the backbone computed at its depth."""
  head = ExitHead(config, exit, kv_quantization=kv_quantization)
  output = head.apply(
    {'params': for_modules(exit_params)},
    inputs,
    positions=positions,
    segment_ids=segment_ids,
    context=context,
    continuation=continuation,
  )
  return cast(ExitOutput, output)


def init_exit(
  key: jax.Array,
  *,
  exit: ExitConfig,
  config: ModelConfig,
  dtype: DTypeLike = jnp.float32,
) -> Params:
  """Return random parameters of one exit, its output matrix and gate.

  Matrices are normal with standard deviation 0.02, those that add to the
  stream with 0.02 / sqrt(2 depth); norms are 1, gates 0 (EE-LLM converter).
  """
  head_key, output_key, gate_key = jax.random.split(key, 3)
  shaped = dataclasses.replace(config, num_layers=max(exit.depth, 1))
  x = jnp.zeros((1, 1, config.embed_dim), dtype)
  inputs = ExitInput(hidden=x, mlp_residual=x, mlp_input=x)
  head = ExitHead(shaped, exit, param_dtype=dtype)
  variables = head.init(
    head_key, inputs, positions=jnp.zeros((1, 1), jnp.int32)
  )
  params = dict(variables.get('params', {}))
  if exit.output is OutputMatrix.UNTIED:
    shape = (config.embed_dim, config.vocab_size)
    kernel = 0.02 * jax.random.normal(output_key, shape, dtype)
    params['output'] = {'kernel': kernel}
  if exit.gate is not GateKind.NONE:
    gate = Gate(exit.gate, config.norm_epsilon, dtype)
    params['gate'] = dict(gate.init(gate_key, x)['params'])
  return params


def output_matrix_name(exit: ExitConfig | None, *, config: ModelConfig) -> str:
  """Return the same name for every head that uses the same output matrix.

  Args:
    exit: the exit, or None for the final head.
    config: the backbone.
  """
  if exit is not None and exit.output is OutputMatrix.UNTIED:
    return exit.name
  embedding = exit is not None and exit.output is OutputMatrix.TIED_EMBEDDING
  return 'embedding' if embedding and not config.tied_head else 'final'


def output_kernel(
  params: Params, *, exit: ExitConfig | None, config: ModelConfig
) -> Float[Array, 'D V']:
  """Return the matrix that turns a ready hidden state into logits.

  Args:
    params: the whole tree.
    exit: the exit, or None for the final head.
    config: the backbone.
  """
  backbone = params['backbone']
  if exit is not None and exit.output is OutputMatrix.UNTIED:
    return params['exits'][exit.name]['output']['kernel']
  embedding = exit is not None and exit.output is OutputMatrix.TIED_EMBEDDING
  if embedding or config.tied_head:
    return backbone['embedding']['table'].T
  return backbone['head']['kernel']


def output_kernels(
  params: Params, *, config: EarlyExitConfig
) -> dict[str, Float[Array, 'D V']]:
  """Return every output matrix once, by `output_matrix_name`.

  Heads that share a matrix then share the array, too, which is how a loss
  knows that they do.
  """
  kernels: dict[str, Array] = {}
  for exit in (None, *config.exits):
    name = output_matrix_name(exit, config=config.model)
    if name not in kernels:
      kernels[name] = output_kernel(params, exit=exit, config=config.model)
  return kernels
