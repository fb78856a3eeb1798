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
"""Tests of routing against loops in NumPy and the loss of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops.routing import balance_loss, route, routing_sums


def scores(blocks=1, rows=3, length=7, num=5):
  return jax.random.normal(jax.random.key(0), (blocks, rows, length, num)) * 2


@pytest.mark.parametrize('renormalized', [True, False])
def test_a_token_gets_its_likeliest_experts(renormalized):
  values = np.asarray(scores()[0], np.float64)
  found = route(jnp.asarray(values), top_k=2, renormalized=renormalized)
  for at in np.ndindex(values.shape[:-1]):
    shares = np.exp(values[at]) / np.exp(values[at]).sum()
    best = np.argsort(-shares)[:2]
    weights = shares[best] / (shares[best].sum() if renormalized else 1)
    np.testing.assert_array_equal(found.experts[at], best)
    np.testing.assert_allclose(found.weights[at], weights, rtol=1e-5)


def test_scores_in_bfloat16_are_weighed_in_float32():
  values = scores()[0].astype(jnp.bfloat16)
  found = route(values, top_k=2, renormalized=True)
  assert found.weights.dtype == found.probabilities.dtype == jnp.float32
  np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-6)


def our_loss(values, counted, top_k):
  sums = [
    routing_sums(route(v, top_k=top_k, renormalized=True), counted)
    for v in values
  ]
  return balance_loss(jax.tree.map(lambda *x: sum(x), *sums))


@pytest.mark.parity
@pytest.mark.parametrize('top_k', [1, 3])
def test_the_balance_loss_is_that_of_transformers(top_k):
  import torch
  from transformers.models.mixtral import modeling_mixtral as mixtral

  values = np.asarray(scores(blocks=4))
  mask = np.arange(7)[None] < np.array([[7], [4], [1]])
  theirs = [torch.tensor(v.reshape(-1, 5), requires_grad=True) for v in values]
  loss = mixtral.load_balancing_loss_func(
    tuple(theirs), 5, top_k, torch.tensor(mask)
  )
  loss.backward()
  ours, slopes = jax.value_and_grad(our_loss)(
    jnp.asarray(values), jnp.asarray(mask), top_k
  )
  np.testing.assert_allclose(ours, loss.item(), rtol=1e-5)
  for slope, their in zip(slopes, theirs, strict=True):
    np.testing.assert_allclose(slope.reshape(-1, 5), their.grad, atol=1e-6)


def test_the_balance_loss_is_least_where_all_experts_are_taken_alike():
  even = jnp.eye(4)[None] * 3
  all_to_one = jnp.zeros((1, 4, 4)).at[..., 0].set(3)
  counted = jnp.ones((4,), bool)
  assert our_loss(even, counted, 1) == pytest.approx(1)
  assert our_loss(all_to_one, counted, 1) > 2
