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
"""Test chunked losses against the dense formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.ops.cross_entropy import (
  OutputHead,
  cross_entropy,
  head_statistics,
)

B, T, D, V = 3, 7, 5, 11
CHUNKS = (1, 4, 6, 13, 21, 1000)


@pytest.fixture
def arrays(key):
  keys = jax.random.split(key, 6)
  normal = jax.random.normal
  return {
    'hidden': normal(keys[0], (B, T, D)),
    'other': normal(keys[1], (B, T, D)),
    'kernel': normal(keys[2], (D, V)),
    'other_kernel': normal(keys[3], (D, V)),
    'targets': jax.random.randint(keys[4], (B, T), 0, V),
    'weights': normal(keys[5], (B, T)),
  }


def dense_losses(hidden, kernel, targets):
  log_probs = jax.nn.log_softmax(hidden @ kernel)
  return -jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]


def dense_divergence(hidden, kernel, teacher, teacher_kernel, temperature):
  student = jax.nn.log_softmax(hidden @ kernel / temperature)
  target = jax.nn.log_softmax(teacher @ teacher_kernel / temperature)
  return jnp.sum(jnp.exp(target) * (target - student), axis=-1)


@pytest.mark.parametrize('chunk_size', CHUNKS)
class TestAgainstDense:
  def test_values(self, arrays, chunk_size):
    a = arrays
    got = cross_entropy(
      a['hidden'],
      kernel=a['kernel'],
      targets=a['targets'],
      chunk_size=chunk_size,
    )
    logits = a['hidden'] @ a['kernel']
    want = dense_losses(a['hidden'], a['kernel'], a['targets'])
    np.testing.assert_allclose(got.loss, want, atol=1e-5)
    np.testing.assert_array_equal(got.top1, jnp.argmax(logits, -1))
    best = jnp.max(jax.nn.log_softmax(logits), -1)
    np.testing.assert_allclose(got.max_log_prob, best, atol=1e-5)
    assert got.divergence is None

  def test_gradients(self, arrays, chunk_size):
    a = arrays

    def chunked(hidden, kernel):
      found = cross_entropy(
        hidden, kernel=kernel, targets=a['targets'], chunk_size=chunk_size
      )
      return jnp.sum(a['weights'] * found.loss)

    def dense(hidden, kernel):
      losses = dense_losses(hidden, kernel, a['targets'])
      return jnp.sum(a['weights'] * losses)

    got = jax.grad(chunked, (0, 1))(a['hidden'], a['kernel'])
    want = jax.grad(dense, (0, 1))(a['hidden'], a['kernel'])
    for g, w in zip(got, want, strict=True):
      np.testing.assert_allclose(g, w, atol=2e-5)

  @pytest.mark.parametrize('temperature', (0.5, 1.0, 3.0))
  def test_teacher(self, arrays, chunk_size, temperature):
    a = arrays

    def chunked(hidden, kernel, teacher, teacher_kernel):
      found = head_statistics(
        [OutputHead(hidden=hidden, kernel=kernel)],
        targets=a['targets'],
        teacher=OutputHead(hidden=teacher, kernel=teacher_kernel),
        temperature=temperature,
        chunk_size=chunk_size,
      )
      one = found.heads[0]
      return jnp.sum(a['weights'] * one.divergence + one.loss), found

    def dense(hidden, kernel, teacher, teacher_kernel):
      divergence = dense_divergence(
        hidden, kernel, teacher, teacher_kernel, temperature
      )
      losses = dense_losses(hidden, kernel, a['targets'])
      return jnp.sum(a['weights'] * divergence + losses)

    inputs = (a['hidden'], a['kernel'], a['other'], a['other_kernel'])
    grads, found = jax.grad(chunked, (0, 1, 2, 3), has_aux=True)(*inputs)
    np.testing.assert_allclose(
      found.heads[0].divergence,
      dense_divergence(*inputs, temperature),
      atol=1e-5,
    )
    np.testing.assert_array_equal(
      found.teacher_top1, jnp.argmax(a['other'] @ a['other_kernel'], -1)
    )
    want = jax.grad(dense, (0, 1))(*inputs)
    for g, w in zip(grads[:2], want, strict=True):
      np.testing.assert_allclose(g, w, atol=2e-5)
    # The teacher is never differentiated.
    assert not np.any(grads[2]) and not np.any(grads[3])


@pytest.mark.parametrize('chunk_size', (1, 6, 1000))
def test_several_heads_are_each_alone(arrays, chunk_size):
  a = arrays
  # Two share a matrix, the third has its own.
  pairs = (
    ('hidden', 'kernel'),
    ('other', 'other_kernel'),
    ('other', 'kernel'),
  )

  def together(arrays):
    heads = [OutputHead(hidden=arrays[h], kernel=arrays[k]) for h, k in pairs]
    found = head_statistics(heads, targets=a['targets'], chunk_size=chunk_size)
    total = sum(
      (i + 1) * jnp.sum(a['weights'] * one.loss)
      for i, one in enumerate(found.heads)
    )
    return total, found

  def dense(arrays):
    return sum(
      (i + 1)
      * jnp.sum(a['weights'] * dense_losses(arrays[h], arrays[k], a['targets']))
      for i, (h, k) in enumerate(pairs)
    )

  names = ('hidden', 'other', 'kernel', 'other_kernel')
  inputs = {n: a[n] for n in names}
  grads, found = jax.grad(together, has_aux=True)(inputs)
  want = jax.grad(dense)(inputs)
  for name in names:
    np.testing.assert_allclose(grads[name], want[name], atol=5e-5)
  for (h, k), one in zip(pairs, found.heads, strict=True):
    alone = cross_entropy(a[h], kernel=a[k], targets=a['targets'])
    np.testing.assert_allclose(one.loss, alone.loss, atol=1e-5)
    np.testing.assert_array_equal(one.top1, alone.top1)


def test_confidence_is_not_differentiated(arrays):
  a = arrays

  def confidence(hidden):
    found = cross_entropy(hidden, kernel=a['kernel'], targets=a['targets'])
    return jnp.sum(found.max_log_prob)

  assert not np.any(jax.grad(confidence)(a['hidden']))


def test_first_of_equals_is_the_likeliest():
  kernel = jnp.array([[1.0, 2.0, 2.0, 0.0]])
  found = cross_entropy(
    jnp.ones((1, 2, 1)), kernel=kernel, targets=jnp.zeros((1, 2), jnp.int32)
  )
  np.testing.assert_array_equal(found.top1, [[1, 1]])


def shapes_of(jaxpr) -> set[tuple[int, ...]]:
  """Return the shape of everything a program computes."""
  shapes = set()
  for equation in jaxpr.eqns:
    shapes |= {v.aval.shape for v in equation.outvars}
    for parameter in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda p: hasattr(p, 'eqns')
    ):
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        shapes |= shapes_of(inner)
  return shapes


def wide_elements(chunk_size, arrays):
  """Return the elements of the largest array with a vocabulary axis."""
  a = arrays

  def loss(hidden, kernel):
    found = head_statistics(
      [OutputHead(hidden=hidden, kernel=kernel)],
      targets=a['targets'],
      teacher=OutputHead(hidden=a['other'], kernel=a['other_kernel']),
      chunk_size=chunk_size,
    ).heads[0]
    return jnp.sum(found.loss + found.divergence)

  program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(a['hidden'], a['kernel'])
  shapes = shapes_of(program.jaxpr)
  return max(int(np.prod(s)) for s in shapes if V in s and s != (D, V))


def test_whole_logits_never_stand(arrays):
  assert wide_elements(6, arrays) == 6 * V
  # The measure sees whole logits where there are some.
  assert wide_elements(1000, arrays) == B * T * V


def test_a_frozen_matrix_gets_no_gradient(arrays):
  a = arrays

  def loss(hidden, kernel):
    found = cross_entropy(
      hidden, kernel=kernel, targets=a['targets'], chunk_size=6
    )
    return jnp.sum(found.loss)

  def makes_matrix(learned):
    program = jax.make_jaxpr(jax.grad(loss, learned))(a['hidden'], a['kernel'])
    return (D, V) in shapes_of(program.jaxpr)

  assert makes_matrix((0, 1))
  assert not makes_matrix(0)


def test_bfloat16_products_gather_gradients_in_float32(key):
  hidden = jax.random.normal(key, (1, 512, D)).astype(jnp.bfloat16)
  kernel = jax.random.normal(key, (D, V))
  targets = jnp.zeros((1, 512), jnp.int32)

  def loss(kernel, chunk_size):
    return jnp.sum(
      cross_entropy(
        hidden, kernel=kernel, targets=targets, chunk_size=chunk_size
      ).loss
    )

  whole = jax.grad(loss)(kernel, 512)
  chunked = jax.grad(loss)(kernel, 2)
  assert chunked.dtype == jnp.float32
  # 256 chunks added up in bfloat16 would be off by percents.
  np.testing.assert_allclose(chunked, whole, rtol=6e-3, atol=0.2)


def test_results_are_float32_whatever_is_multiplied(arrays):
  a = arrays
  found = cross_entropy(
    a['hidden'],
    kernel=a['kernel'],
    targets=a['targets'],
    dtype=jnp.bfloat16,
  )
  assert found.loss.dtype == found.max_log_prob.dtype == jnp.float32
  want = dense_losses(a['hidden'], a['kernel'], a['targets'])
  np.testing.assert_allclose(found.loss, want, atol=0.1)
  assert np.max(np.abs(found.loss - want)) > 1e-4


def test_large_logits_do_not_overflow():
  kernel = jnp.array([[300.0, -300.0]])
  found = cross_entropy(
    jnp.ones((1, 1, 1)), kernel=kernel, targets=jnp.ones((1, 1), jnp.int32)
  )
  np.testing.assert_allclose(found.loss, [[600.0]])


def test_a_soft_cap_equals_the_dense_formula(arrays):
  a, cap = arrays, 1.5

  def chunked(hidden, kernel, teacher, teacher_kernel):
    found = head_statistics(
      [OutputHead(hidden, kernel, softcap=cap)],
      targets=a['targets'],
      teacher=OutputHead(teacher, teacher_kernel, softcap=cap),
      chunk_size=6,
    ).heads[0]
    return jnp.sum(a['weights'] * (found.loss + 0.3 * found.divergence))

  def dense(hidden, kernel, teacher, teacher_kernel):
    capped = lambda h, k: jax.nn.log_softmax(cap * jnp.tanh(h @ k / cap))
    student, target = capped(hidden, kernel), capped(teacher, teacher_kernel)
    picked = jnp.take_along_axis(student, a['targets'][..., None], -1)[..., 0]
    divergence = jnp.sum(jnp.exp(target) * (target - student), axis=-1)
    return jnp.sum(a['weights'] * (0.3 * divergence - picked))

  inputs = [a[n] for n in ('hidden', 'kernel', 'other', 'other_kernel')]
  got = jax.value_and_grad(chunked, argnums=(0, 1))(*inputs)
  want = jax.value_and_grad(dense, argnums=(0, 1))(*inputs)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), got, want
  )


def test_heads_that_cap_differently(arrays):
  heads = [
    OutputHead(arrays['hidden'], arrays['kernel'], softcap=cap)
    for cap in (None, 2.0)
  ]
  with pytest.raises(ArgumentError, match='alike'):
    head_statistics(heads, targets=arrays['targets'])


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'chunk_size': 0}, 'chunk_size must be at least 1'),
    ({'temperature': 0.0}, 'temperature must be above 0'),
  ],
)
def test_bad_settings(arrays, settings, words):
  head = OutputHead(hidden=arrays['hidden'], kernel=arrays['kernel'])
  with pytest.raises(ArgumentError, match=words):
    head_statistics([head], targets=arrays['targets'], **settings)
