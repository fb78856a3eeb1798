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

The target's logit is picked by a comparison with an iota rather than by
`take_along_axis`, because a gather along a sharded vocabulary aborts inside a
partly manual `shard_map` (jaxlib 0.10.2, CPU); for the same reason the argmax
is the smallest index that reaches the maximum. Both vectorise well, too.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

from eejax.errors import ArgumentError
from eejax.types import Array, Float, Int


@flax.struct.dataclass
class OutputHead:
  """Pair hidden states with the matrix that turns them into logits.

  Attributes:
    hidden: normalised states, ready for the matrix.
    kernel: output matrix.
  """

  hidden: Float[Array, 'B T D']
  kernel: Float[Array, 'D V']


@flax.struct.dataclass
class TokenStatistics:
  """Hold what one head says about every token.

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
  """Hold the statistics of several heads over the same tokens.

  Attributes:
    heads: one per head, in the order given.
    teacher_top1: the teacher's likeliest token; None without a teacher.
  """

  heads: tuple[TokenStatistics, ...]
  teacher_top1: Int[Array, '*tokens'] | None = None


@flax.struct.dataclass
class _Teacher:
  """Hold a chunk of a teacher's distribution.

  Attributes:
    log_probs: at the temperature of the distillation.
    top1: the likeliest token.
  """

  log_probs: Float[Array, 'B C V']
  top1: Int[Array, 'B C']


def cross_entropy(
  hidden: Float[Array, 'B T D'],
  *,
  kernel: Float[Array, 'D V'],
  targets: Int[Array, 'B T'],
  chunk_size: int = 1024,
  dtype: Any = None,
) -> TokenStatistics:
  """Return cross-entropy and confidence of every token under one head.

  Args:
    hidden: normalised states.
    kernel: output matrix.
    targets: token that should follow each position.
    chunk_size: tokens whose logits stand at once.
    dtype: type the matrix product reads; results are float32 always. None
      keeps the type of `hidden`.
  """
  head = OutputHead(hidden=hidden, kernel=kernel)
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
    ArgumentError: `chunk_size` or `temperature` is not positive.
  """
  if chunk_size < 1:
    raise ArgumentError(f'chunk_size must be at least 1, not {chunk_size}.')
  if temperature <= 0:
    raise ArgumentError(f'temperature must be above 0, not {temperature}.')
  if teacher is not None:
    teacher = jax.lax.stop_gradient(teacher)
  groups = _same_matrix(heads)
  batch, length = targets.shape
  columns = max(1, chunk_size // batch)
  if len(groups) > 1:
    # In a loop of one step, which compilers unroll, groups could overlap.
    columns = min(columns, -(-length // 2))
  statistics: list[Any] = [None] * len(heads)
  teacher_top1 = None
  for group in groups:
    body: Callable[..., HeadStatistics] = functools.partial(
      _chunk_statistics,
      kernel=heads[group[0]].kernel,
      teacher_kernel=None if teacher is None else teacher.kernel,
      temperature=temperature,
      dtype=dtype,
    )
    if teacher is not None:
      body = jax.checkpoint(body)
    inputs = (
      tuple(heads[i].hidden for i in group),
      targets,
      None if teacher is None else teacher.hidden,
    )
    whole = columns >= length
    found = body(inputs) if whole else _map_columns(body, inputs, columns)
    teacher_top1 = found.teacher_top1
    for i, one in zip(group, found.heads, strict=True):
      statistics[i] = one
  return HeadStatistics(heads=tuple(statistics), teacher_top1=teacher_top1)


def _same_matrix(heads: Sequence[OutputHead]) -> list[list[int]]:
  """Return the indices of heads, those with one matrix together."""
  groups: dict[int, list[int]] = {}
  for i, head in enumerate(heads):
    groups.setdefault(id(head.kernel), []).append(i)
  return list(groups.values())


def _map_columns(body, inputs, columns: int):
  """Apply `body` to `columns` positions at a time and join the results."""
  length = inputs[1].shape[1]
  count = -(-length // columns)
  width = -(-length // count)  # even chunks need the least padding

  def split(x):  # [B, T, ...] -> [chunks, B, width, ...]
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, count * width - length)
    x = jnp.pad(x, padding)
    return jnp.moveaxis(x.reshape(x.shape[0], count, width, *x.shape[2:]), 1, 0)

  def join(y):  # [chunks, B, width] -> [B, T]
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(y.shape[0], count * width)[:, :length]

  return jax.tree.map(join, jax.lax.map(body, jax.tree.map(split, inputs)))


def _chunk_statistics(
  inputs, *, kernel, teacher_kernel, temperature, dtype
) -> HeadStatistics:
  hiddens, targets, teacher_hidden = inputs
  teacher = None
  if teacher_hidden is not None:
    logits = _logits(teacher_hidden, teacher_kernel, dtype)
    teacher = _Teacher(
      log_probs=jax.nn.log_softmax(logits / temperature), top1=_top1(logits)
    )
  # Each head keeps only its inputs for the backward pass: were the heads
  # rematerialised together, the logits of all of them would stand at once.
  one = jax.checkpoint(
    functools.partial(_token_statistics, temperature=temperature, dtype=dtype)
  )
  stacked = jax.lax.map(
    lambda hidden: one(hidden, kernel, targets, teacher), jnp.stack(hiddens)
  )
  heads = tuple(
    jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(hiddens))
  )
  return HeadStatistics(
    heads=heads, teacher_top1=None if teacher is None else teacher.top1
  )


def _token_statistics(
  hidden, kernel, targets, teacher: _Teacher | None, *, temperature, dtype
) -> TokenStatistics:
  logits = _logits(hidden, kernel, dtype)
  log_normalizer = jax.nn.logsumexp(logits, axis=-1)
  vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  hit = vocabulary == targets[..., None]
  target_logit = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
  detached = jax.lax.stop_gradient(logits)
  divergence = None
  if teacher is not None:
    log_probs = jax.nn.log_softmax(logits / temperature)
    divergence = jnp.sum(
      jnp.exp(teacher.log_probs) * (teacher.log_probs - log_probs), axis=-1
    )
  return TokenStatistics(
    loss=log_normalizer - target_logit,
    max_log_prob=jnp.max(detached, axis=-1)
    - jax.lax.stop_gradient(log_normalizer),
    top1=_top1(detached),
    divergence=divergence,
  )


def _logits(hidden, kernel, dtype) -> Float[Array, 'B C V']:
  # The cast happens here, inside the chunk, so that the gradient of a float32
  # kernel gathers over chunks in float32 even where products are bfloat16.
  dtype = hidden.dtype if dtype is None else dtype
  return jnp.einsum(
    'BTD,DV->BTV',
    hidden.astype(dtype),
    kernel.astype(dtype),
    preferred_element_type=jnp.float32,
  )


def _top1(logits: Float[Array, 'B C V']) -> Int[Array, 'B C']:
  vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  best = jnp.max(logits, axis=-1, keepdims=True)
  return jnp.min(
    jnp.where(logits >= best, vocabulary, logits.shape[-1]), axis=-1
  )
