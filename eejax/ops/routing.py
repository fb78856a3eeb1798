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
"""Which experts a token is sent to, and how evenly a model shares tokens out.

Everything is float32, whatever the model computes in: two experts that score
alike would otherwise be told apart by rounding.
"""

import flax.struct
import jax
import jax.numpy as jnp

from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class Routing:
  """Experts of some tokens.

  Attributes:
    probabilities: of every expert, the softmax of its scores.
    experts: of each token, the likeliest first.
    weights: what each of them counts in the token's sum.
  """

  probabilities: Float[Array, '*rows X']
  experts: Int[Array, '*rows J']
  weights: Float[Array, '*rows J']


@flax.struct.dataclass
class RoutingSums:
  """Sums over tokens, and over blocks, that the balance loss is made of.

  Attributes:
    sent: tokens that were sent to each expert.
    probabilities: of each expert.
    tokens: how many were counted, in all blocks together.
  """

  sent: Float[Array, '*blocks X']
  probabilities: Float[Array, '*blocks X']
  tokens: Float[Array, '*blocks']


def route(
  scores: Float[Array, '*rows X'], *, top_k: int, renormalized: bool
) -> Routing:
  """Return the likeliest experts of each token.

  Args:
    scores: what the router gives each expert.
    top_k: experts of a token.
    renormalized: whether a token's weights add up to one.
  """
  probabilities = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
  weights, experts = jax.lax.top_k(probabilities, top_k)
  if renormalized:
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
  return Routing(probabilities, experts, weights)


def no_routing(num_experts: int) -> RoutingSums:
  """Return the sums of no token."""
  zeros = jnp.zeros((num_experts,), jnp.float32)
  return RoutingSums(zeros, zeros, jnp.zeros((), jnp.float32))


def routing_sums(
  routing: Routing, counted: Bool[Array, '*rows']
) -> RoutingSums:
  """Return the sums of one block.

  Args:
    routing: of its tokens.
    counted: which tokens count; padding does not.
  """
  weights = counted.reshape(-1).astype(jnp.float32)
  num = routing.probabilities.shape[-1]
  chosen = jax.nn.one_hot(routing.experts, num).sum(axis=-2).reshape(-1, num)
  return RoutingSums(
    sent=weights @ chosen,
    probabilities=weights @ routing.probabilities.reshape(-1, num),
    tokens=jnp.sum(weights),
  )


def balance_loss(sums: RoutingSums) -> Float[Array, '']:
  """Return the load-balancing loss: its least value is the experts of a token.

    X sum_x f_x p_x

  with f_x the share of tokens, over all blocks, that is sent to expert x and
  p_x its mean probability. It is differentiated through p alone.

  Reference:
    Fedus et al. 2021, Switch Transformers (arXiv 2101.03961), eqs. 4 to 6,
    for several experts a token and all blocks at once as Mixtral's code in
    transformers has it.
  """
  tokens = jnp.maximum(sums.tokens, 1.0)
  shares = jax.lax.stop_gradient(sums.sent) / tokens
  return sums.sent.shape[0] * jnp.sum(shares * sums.probabilities / tokens)
