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
"""Next-token losses from hidden states, without whole logits.

A vocabulary is two orders of magnitude wider than the residual stream, so the
logits of one exit, `[B, T, V]`, outweigh everything else in a training step,
and a model with E exits has E of them. Here positions are taken a chunk at a
time: logits of a chunk are made, reduced to a few numbers a token, and made
again in the backward pass. Only `[B, T]` results and `[D, V]` gradients stand
whole.

The backward pass is written out. Automatic differentiation of the loop would
take what does not change in it (iotas, constants) out of the loop at the width
of the logits, and keep several such arrays within: five times the memory.

The target's logit is picked by a comparison with an iota rather than by
`take_along_axis`, because a gather along a sharded vocabulary aborts inside a
partly manual `shard_map` (jaxlib 0.10.2, CPU); for the same reason the argmax
is the smallest index that reaches the maximum. Both vectorise well, too.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from eejax.axes import batch_shards, constrain
from eejax.errors import ArgumentError
from eejax.ops.softcap import soft_cap
from eejax.types import Array, Float, Int


@flax.struct.dataclass
class OutputHead:
  """Pair hidden states with the matrix that turns them into logits.

  Attributes:
    hidden: normalised states, ready for the matrix.
    kernel: output matrix.
    softcap: c in c tanh(logit / c), or None.
  """

  hidden: Float[Array, 'B T D']
  kernel: Float[Array, 'D V']
  softcap: float | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class TokenStatistics:
  """Statistics of one head at every token.

  Attributes:
    loss: cross-entropy with the target, in nats; differentiable.
    max_log_prob: log-probability of the likeliest token; not differentiable.
    top1: the likeliest token, the first of equals.
    divergence: KL(teacher || head) in nats at the temperature asked for,
      differentiable with respect to the head; None without a teacher.
  """

  loss: Float[Array, '*tokens']
  max_log_prob: Float[Array, '*tokens']
  top1: Int[Array, '*tokens']
  divergence: Float[Array, '*tokens'] | None = None


@flax.struct.dataclass
class HeadStatistics:
  """Statistics of several heads over the same tokens.

  Attributes:
    heads: one per head, in the order given.
    teacher_top1: the teacher's likeliest token; None without a teacher.
  """

  heads: tuple[TokenStatistics, ...]
  teacher_top1: Int[Array, '*tokens'] | None = None


@dataclasses.dataclass(frozen=True)
class _Settings:
  """Say how heads are run; see `head_statistics`.

  Attributes:
    columns: columns of the batch whose logits stand at once.
    temperature: of the divergence.
    dtype: type the matrix products read.
    softcap: of the logits of all heads, or None.
  """

  columns: int
  temperature: float
  dtype: Any
  softcap: float | None


def cross_entropy(
  hidden: Float[Array, 'B T D'],
  *,
  kernel: Float[Array, 'D V'],
  targets: Int[Array, 'B T'],
  chunk_size: int = 1024,
  dtype: Any = None,
  softcap: float | None = None,
) -> TokenStatistics:
  """Return cross-entropy and confidence of every token under one head.

  Args:
    hidden: normalised states.
    kernel: output matrix.
    targets: token that should follow each position.
    chunk_size: tokens whose logits stand at once.
    dtype: type the matrix product reads; results are float32 always. None
      keeps the type of `hidden`.
    softcap: c in c tanh(logit / c), or None.
  """
  head = OutputHead(hidden=hidden, kernel=kernel, softcap=softcap)
  return head_statistics(
    [head], targets=targets, chunk_size=chunk_size, dtype=dtype
  ).heads[0]


def head_statistics(
  heads: Sequence[OutputHead],
  *,
  targets: Int[Array, 'B T'],
  teacher: OutputHead | None = None,
  temperature: float = 1.0,
  chunk_size: int = 1024,
  dtype: Any = None,
) -> HeadStatistics:
  """Return cross-entropy of several heads, and divergence from a teacher.

  Heads take turns, so that the logits of one alone stand at a time. Those
  with the same matrix (the same array object) pass over a chunk before the
  next chunk is taken: a teacher's logits are made once a chunk for all of
  them, and gradients of the matrix gather in one place.

  Args:
    heads: hidden states and matrices; a matrix may be shared.
    targets: token that should follow each position.
    teacher: the head to imitate; never differentiated.
    temperature: divides both logits in the divergence only.
    chunk_size: tokens whose logits stand at once; rounded to whole columns
      of the batch, so that a sharded batch stays where it is.
    dtype: type the matrix product reads; None keeps that of `hidden`.

  Raises:
    ArgumentError: `chunk_size` or `temperature` is not positive, or heads cap
      their logits differently.
  """
  if chunk_size < 1:
    raise ArgumentError(f'chunk_size must be at least 1, not {chunk_size}.')
  if temperature <= 0:
    raise ArgumentError(f'temperature must be above 0, not {temperature}.')
  caps = {h.softcap for h in (*heads, *([teacher] if teacher else []))}
  if len(caps) > 1:
    raise ArgumentError('heads of one model cap their logits alike.')
  batch, length = targets.shape
  columns = min(max(1, chunk_size // batch), length)
  groups = _same_matrix(heads)
  if len(groups) > 1:
    # In a loop of one step, which compilers unroll, groups could overlap.
    columns = min(columns, -(-length // 2))
  dtype = heads[0].hidden.dtype if dtype is None else dtype
  settings = _Settings(columns, temperature, jnp.dtype(dtype), caps.pop())
  pair = None
  if teacher is not None:
    pair = jax.lax.stop_gradient(
      (
        constrain(teacher.hidden, ('B', None, None)),
        constrain(teacher.kernel, (None, 'V')),
      )
    )
  statistics: list[Any] = [None] * len(heads)
  teacher_top1 = None
  for group in groups:
    # Gathered once, not once a chunk: chunks are cut from T, and every device
    # multiplies by its part of the vocabulary.
    hiddens = jnp.stack([heads[i].hidden for i in group])
    hiddens = constrain(hiddens, (None, 'B', None, None))
    kernel = constrain(heads[group[0]].kernel, (None, 'V'))
    found, teacher_top1 = _statistics(settings, hiddens, kernel, targets, pair)
    for position, i in enumerate(group):
      one = jax.tree.map(lambda x, p=position: x[p], found)
      statistics[i] = TokenStatistics(
        loss=one['loss'],
        max_log_prob=one['max_log_prob'],
        top1=one['top1'],
        divergence=one['divergence'],
      )
  return HeadStatistics(heads=tuple(statistics), teacher_top1=teacher_top1)


def _same_matrix(heads: Sequence[OutputHead]) -> list[list[int]]:
  """Return the indices of heads, those with one matrix together."""
  groups: dict[int, list[int]] = {}
  for i, head in enumerate(heads):
    groups.setdefault(id(head.kernel), []).append(i)
  return list(groups.values())


# MARK: Forward


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _statistics(settings: _Settings, hiddens, kernel, targets, teacher):
  """Return statistics by name, each `[E, B, T]`, and the teacher's top 1.

  Args:
    settings: how the heads are run.
    hiddens: `[E, B, T, D]`.
    kernel: `[D, V]`, of all heads.
    targets: `[B, T]`.
    teacher: states `[B, T, D]` and matrix `[D, V]`, or None.
  """

  def chunk(inputs):
    hiddens, targets, states = inputs
    log_probs, top1 = _teach(settings, states, teacher)

    def head(hidden):
      hidden, own_targets = _tied_together(hidden, targets)
      logits = _logits(hidden, kernel, settings)
      log_normalizer = jax.nn.logsumexp(logits, axis=-1)
      target = jnp.sum(
        jnp.where(_hit(logits, own_targets), logits, 0.0), axis=-1
      )
      return {
        'loss': log_normalizer - target,
        'log_normalizer': log_normalizer,
        'max_log_prob': jnp.max(logits, axis=-1) - log_normalizer,
        'top1': _top1(logits),
        'divergence': _divergence(logits, log_probs, settings),
      }

    # One head after the other: the logits of one alone stand at a time.
    return jax.lax.map(head, hiddens), top1

  found, top1 = jax.lax.map(
    chunk, _in_chunks(settings, hiddens, targets, teacher)
  )
  length = targets.shape[1]
  found = jax.tree.map(lambda y: _join(y, axis=2, length=length), found)
  return found, None if top1 is None else _join(top1, axis=1, length=length)


def _teach(settings, states, teacher):
  """Return the teacher's log-probabilities and top 1, or two Nones."""
  if teacher is None:
    return None, None
  logits = _logits(states, teacher[1], settings)
  return jax.nn.log_softmax(logits / settings.temperature), _top1(logits)


def _divergence(logits, log_probs, settings) -> Float[Array, 'B C'] | None:
  """Return KL(teacher || head) from the teacher's log-probabilities."""
  if log_probs is None:
    return None
  student = jax.nn.log_softmax(logits / settings.temperature)
  return jnp.sum(jnp.exp(log_probs) * (log_probs - student), axis=-1)


# MARK: Backward


def _forward_to_keep(settings, hiddens, kernel, targets, teacher):
  """Run forward and keep what the backward pass needs: no logits."""
  is_primal = lambda x: isinstance(x, CustomVJPPrimal)
  arguments = (hiddens, kernel, targets, teacher)
  values = jax.tree.map(lambda x: x.value, arguments, is_leaf=is_primal)
  results = _statistics(settings, *values)
  # A structure without leaves, for it is known when the program is traced:
  # a frozen matrix gets no gradient, and none is computed.
  learns = () if kernel.perturbed else None
  return results, (*values, results[0]['log_normalizer'], learns)


def _backward(settings, kept, cotangents):
  hiddens, kernel, targets, teacher, log_normalizer, learns = kept
  by_name, _ = cotangents
  weights = {
    name: by_name[name]
    for name in ('loss', 'divergence')
    if not isinstance(by_name[name], SymbolicZero | None)
  }

  def chunk(gradient, inputs):
    (hiddens, targets, states), normalizers, weights = inputs
    log_probs, _ = _teach(settings, states, teacher)

    def head(gradient, inputs):
      hidden, normalizer, weights = inputs
      hidden, own_targets = _tied_together(hidden, targets)
      logits = _logits(hidden, kernel, settings)
      error = _error(
        settings, logits, normalizer, own_targets, log_probs, weights
      )
      return _products(settings, gradient, hidden, kernel, error)

    return jax.lax.scan(head, gradient, (hiddens, normalizers, weights))

  # Each share of the rows adds up what it teaches the matrix; their sum is
  # taken when all chunks are done, so that one message is sent, not one each.
  shares = batch_shards(targets.shape[0])
  start = None
  if learns is not None:
    start = jnp.zeros((shares, *kernel.shape), jnp.float32)
    start = constrain(start, ('B', None, 'V'))
  per_head = lambda x: _split(x, axis=2, columns=settings.columns)
  gradient, moved = jax.lax.scan(
    chunk,
    start,
    (
      _in_chunks(settings, hiddens, targets, teacher),
      per_head(log_normalizer),
      jax.tree.map(per_head, weights),
    ),
  )
  moved = _join(moved, axis=2, length=targets.shape[1])
  if gradient is not None:
    gradient = jnp.sum(gradient, axis=0).astype(kernel.dtype)
  return moved.astype(hiddens.dtype), gradient, None, None


_statistics.defvjp(_forward_to_keep, _backward, symbolic_zeros=True)


def _error(settings, logits, log_normalizer, targets, log_probs, weights):
  """Return the gradient of the weighted losses with respect to the logits.

  softmax(x) - onehot(target) for cross-entropy, and
  (softmax(x / t) - teacher) / t for the divergence at temperature t.
  """
  error = jnp.zeros((), jnp.float32)
  if 'loss' in weights:
    weight = weights['loss'][..., None]
    probs = jnp.exp(logits - log_normalizer[..., None])
    error = weight * (probs - jnp.where(_hit(logits, targets), 1.0, 0.0))
  if 'divergence' in weights:
    weight = weights['divergence'][..., None] / settings.temperature
    probs = jax.nn.softmax(logits / settings.temperature)
    error = error + weight * (probs - jnp.exp(log_probs))
  if settings.softcap is not None:  # d tanh(x) = (1 - tanh(x)^2) dx
    error = error * (1 - jnp.square(logits / settings.softcap))
  return jnp.broadcast_to(error, logits.shape).astype(settings.dtype)


def _products(settings, gradient, hidden, kernel, error):
  """Return the matrix's gradient with this chunk's, and the states'."""
  # One contracted dimension each: with two, XLA on CPU transposes first.
  rows = error.reshape(-1, error.shape[-1])
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  if gradient is not None:
    share = lambda x: x.reshape(len(gradient), -1, x.shape[-1])
    states = share(hidden).astype(settings.dtype)
    added = product('BND,BNV->BDV', states, share(rows))
    gradient = constrain(gradient + added, ('B', None, 'V'))
  moved = product('NV,DV->ND', rows, kernel.astype(settings.dtype))
  return gradient, moved.reshape(hidden.shape)


# MARK: Parts of both


def _in_chunks(settings, hiddens, targets, teacher):
  """Return states, targets and the teacher's states, chunks first."""
  split = functools.partial(_split, columns=settings.columns)
  states = None if teacher is None else split(teacher[0], axis=1)
  return split(hiddens, axis=2), split(targets, axis=1), states


def _split(x: jax.Array, *, axis: int, columns: int) -> jax.Array:
  """Cut T into chunks of as many columns or fewer, and put these first."""
  length = x.shape[axis]
  count = -(-length // columns)
  width = -(-length // count)  # even chunks need the least padding
  padding = [(0, 0)] * x.ndim
  padding[axis] = (0, count * width - length)
  shape = (*x.shape[:axis], count, width, *x.shape[axis + 1 :])
  return jnp.moveaxis(jnp.pad(x, padding).reshape(shape), axis, 0)


def _join(y: jax.Array, *, axis: int, length: int) -> jax.Array:
  """Undo `_split`."""
  y = jnp.moveaxis(y, 0, axis)
  shape = (*y.shape[:axis], -1, *y.shape[axis + 2 :])
  return jax.lax.slice_in_dim(y.reshape(shape), 0, length, axis=axis)


def _tied_together(hidden, targets):
  """Make targets look different for every head.

  They are not, so a compiler would take their one-hot form, as wide as the
  logits, out of the loop over heads and keep it.
  """
  return jax.lax.optimization_barrier((hidden, targets))


def _logits(hidden, kernel, settings) -> Float[Array, 'B C V']:
  # The cast happens here, inside the chunk, so that the gradient of a float32
  # kernel gathers over chunks in float32 even where products are bfloat16.
  logits = jnp.einsum(
    'BTD,DV->BTV',
    hidden.astype(settings.dtype),
    kernel.astype(settings.dtype),
    preferred_element_type=jnp.float32,
  )
  logits = soft_cap(logits, settings.softcap)
  return constrain(logits, ('B', None, 'V'))


def _hit(logits: Float[Array, 'B C V'], targets: Int[Array, 'B C']):
  """Return where the vocabulary is the target."""
  vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  return vocabulary == targets[..., None]


def _top1(logits: Float[Array, 'B C V']) -> Int[Array, 'B C']:
  vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  best = jnp.max(logits, axis=-1, keepdims=True)
  return jnp.min(
    jnp.where(logits >= best, vocabulary, logits.shape[-1]), axis=-1
  )
