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
"""What read-outs say of a chunk of positions, from their hidden states.

Logits of one read-out and one chunk stand at a time, beside those of the full
model and of the read-out before: memory follows the chunk, not the text and
not the number of read-outs. Everything is then a handful of sums over the
vocabulary. With p, q two distributions and m their mean,

  H(p)       = -sum_v p(v) log p(v)
  KL(p || q) = sum_v p(v) (log p(v) - log q(v))
  JS(p, q)   = H(m) - (H(p) + H(q)) / 2

so that a Jensen-Shannon divergence takes one logarithm a token of the
vocabulary. Logits matter up to a constant; their cosine is taken after each
has lost its mean, which is the product of the hidden state with the mean
column of the output matrix.

Reference:
  Lin (1991), Divergence Measures Based on the Shannon Entropy, section IV.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp

from eejax.types import Array, Float, Int

# Columns of a block of the vocabulary in the search for candidates.
_BLOCK = 64
_MEASURED = (
  'loss',
  'entropy',
  'kl_final',
  'js_final',
  'logit_cosine',
  'hidden_cosine',
  'js_previous',
  'hidden_cosine_previous',
)


@dataclasses.dataclass(frozen=True)
class Reading:
  """Say what is computed of a read-out.

  Attributes:
    fields: read-out arrays by their names in `eejax.analysis.capture_file`.
    num_candidates: K.
  """

  fields: tuple[str, ...]
  num_candidates: int

  def wants(self, *fields: str) -> bool:
    """Return whether any of these is computed."""
    return any(f in self.fields for f in fields)


@flax.struct.dataclass
class Distribution:
  """Hold what one read-out says of a chunk of positions.

  Attributes:
    hidden: what its output matrix reads.
    logits: each less the mean over the vocabulary.
    log_normalizer: of these logits.
    probs: their softmax.
    entropy: of `probs`, nats.
    length: of the logits as vectors.
  """

  hidden: Float[Array, 'C D']
  logits: Float[Array, 'C V']
  log_normalizer: Float[Array, 'C']
  probs: Float[Array, 'C V']
  entropy: Float[Array, 'C']
  length: Float[Array, 'C']


@flax.struct.dataclass
class Matrix:
  """Pair an output matrix with its mean column.

  Attributes:
    kernel: the matrix, in the compute dtype.
    mean: over the vocabulary, float32.
  """

  kernel: Float[Array, 'D V']
  mean: Float[Array, 'D']

  @classmethod
  def of(cls, kernel: Float[Array, 'D V'], dtype) -> 'Matrix':
    """Return `kernel` ready to be multiplied with."""
    return cls(
      kernel=kernel.astype(dtype),
      mean=jnp.mean(kernel.astype(jnp.float32), axis=1),
    )


def distribution(hidden: Float[Array, 'C D'], matrix: Matrix) -> Distribution:
  """Return what a read-out says, from what its output matrix reads."""
  product = jnp.einsum(
    'CD,DV->CV',
    hidden.astype(matrix.kernel.dtype),
    matrix.kernel,
    preferred_element_type=jnp.float32,
  )
  mean = hidden.astype(jnp.float32) @ matrix.mean
  logits = product - mean[:, None]
  best = jnp.max(logits, axis=-1, keepdims=True)
  weights = jnp.exp(logits - best)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  log_normalizer = best + jnp.log(total)
  probs = weights / total
  entropy = jnp.sum(probs * (log_normalizer - logits), axis=-1)
  return Distribution(
    hidden=hidden.astype(jnp.float32),
    logits=logits,
    log_normalizer=log_normalizer[:, 0],
    probs=probs,
    entropy=entropy,
    length=jnp.sqrt(jnp.sum(jnp.square(logits), axis=-1)),
  )


def measure(
  here: Distribution,
  *,
  final: Distribution,
  previous: Distribution,
  targets: Int[Array, 'C'],
  reading: Reading,
) -> dict[str, Array]:
  """Return what `reading` asks for, and `finite`, of one read-out.

  Args:
    here: what the read-out says.
    final: what the full model says.
    previous: what the read-out before says; any where there is none.
    targets: the token that follows.
    reading: what is computed.
  """
  at_target = lambda: jnp.take_along_axis(
    here.logits, targets[:, None], axis=1
  )[:, 0]
  makers: dict[str, Callable[[], Array]] = {
    'loss': lambda: here.log_normalizer - at_target(),
    'entropy': lambda: here.entropy,
    'kl_final': lambda: _divergence(final, here),
    'js_final': lambda: _jensen_shannon(here, final),
    'logit_cosine': lambda: _logit_cosine(here, final),
    'hidden_cosine': lambda: _cosine(here.hidden, final.hidden),
    'js_previous': lambda: _jensen_shannon(here, previous),
    'hidden_cosine_previous': lambda: _cosine(here.hidden, previous.hidden),
  }
  found = {name: make() for name, make in makers.items() if reading.wants(name)}
  if reading.wants('top_tokens', 'top_log_probs'):
    best, tokens = top_candidates(here.logits, reading.num_candidates)
    found['top_tokens'] = tokens
    found['top_log_probs'] = best - here.log_normalizer[:, None]
  found = {name: x for name, x in found.items() if name in reading.fields}
  found['finite'] = jnp.isfinite(here.log_normalizer)
  return found


def _divergence(p: Distribution, q: Distribution) -> Float[Array, 'C']:
  """Return KL(p || q)."""
  shift = (q.log_normalizer - p.log_normalizer)[:, None]
  terms = p.probs * (p.logits - q.logits + shift)
  # Rounding must not put it below its least value.
  return jnp.maximum(jnp.sum(terms, axis=-1), 0.0)


def _jensen_shannon(p: Distribution, q: Distribution) -> Float[Array, 'C']:
  middle = (p.probs + q.probs) * 0.5
  # What has no weight adds nothing, whatever its logarithm is.
  terms = middle * jnp.log(jnp.maximum(middle, jnp.finfo(jnp.float32).tiny))
  mixed = -jnp.sum(terms, axis=-1)
  return jnp.maximum(mixed - (p.entropy + q.entropy) * 0.5, 0.0)


def _logit_cosine(p: Distribution, q: Distribution) -> Float[Array, 'C']:
  product = jnp.sum(p.logits * q.logits, axis=-1)
  return _ratio(product, p.length * q.length)


def _cosine(
  a: Float[Array, 'C D'], b: Float[Array, 'C D']
) -> Float[Array, 'C']:
  squares = lambda x: jnp.sum(jnp.square(x), axis=-1)
  return _ratio(jnp.sum(a * b, axis=-1), jnp.sqrt(squares(a) * squares(b)))


def _ratio(
  product: Float[Array, 'C'], lengths: Float[Array, 'C']
) -> Float[Array, 'C']:
  """Return a cosine; what has no length has no direction, hence 0."""
  some = lengths > 0
  cosine = product / jnp.where(some, lengths, 1.0)
  return jnp.where(some, jnp.clip(cosine, -1.0, 1.0), 0.0)


def top_candidates(
  logits: Float[Array, 'C V'], count: int
) -> tuple[Float[Array, 'C K'], Int[Array, 'C K']]:
  """Return the highest logits and their tokens, equal ones by number.

  A sort of the whole vocabulary costs more than the product that made it. The
  K highest lie in the K blocks of neighbouring tokens with the highest
  maxima: any K blocks that came before one of them would bring K tokens that
  come before all of its own. So the blocks are searched first.

  Args:
    logits: of each token of the vocabulary.
    count: K, at most V.
  """
  vocabulary = logits.shape[-1]
  if count == 1:
    top = jnp.argmax(logits, axis=-1, keepdims=True)
    best = jnp.max(logits, axis=-1, keepdims=True)
    return best, top.astype(jnp.int32)
  blocks = -(-vocabulary // _BLOCK)
  if blocks <= 2 * count:
    best, tokens = jax.lax.top_k(logits, count)
    return best, tokens.astype(jnp.int32)
  padding = blocks * _BLOCK - vocabulary
  if padding:
    logits = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
  folded = logits.reshape(-1, blocks, _BLOCK)
  _, chosen = jax.lax.top_k(jnp.max(folded, axis=-1), count)
  # In the order of the vocabulary, for equal logits are taken in their order.
  chosen = jnp.sort(chosen, axis=-1)
  inside = jnp.take_along_axis(folded, chosen[:, :, None], axis=1)
  best, place = jax.lax.top_k(inside.reshape(-1, count * _BLOCK), count)
  block = jnp.take_along_axis(chosen, place // _BLOCK, axis=-1)
  tokens = block * _BLOCK + place % _BLOCK
  return best, tokens.astype(jnp.int32)


@flax.struct.dataclass
class ChunkStates:
  """Hold what output matrices read at a chunk of positions.

  Attributes:
    natural: at the natural read-outs but the last, shallowest first.
    attention: after the attention that follows each of these, or None.
    exits: at the trained exits, shallowest first.
    final: at the last natural read-out.
    targets: the tokens that follow.
  """

  natural: Float[Array, 'N C D']
  attention: Float[Array, 'N C D'] | None
  exits: tuple[Float[Array, 'C D'], ...]
  final: Float[Array, 'C D']
  targets: Int[Array, 'C']


@flax.struct.dataclass
class ChunkReadings:
  """Hold what every read-out says of a chunk; arrays by field.

  The attributes are those of `ChunkStates`, `[N, C]` and `[C]` arrays.
  """

  natural: dict[str, Array]
  attention: dict[str, Array] | None
  exits: tuple[dict[str, Array], ...]
  final: dict[str, Array]


def read_chunk(
  states: ChunkStates,
  *,
  matrix: Matrix,
  exit_matrices: Sequence[Matrix],
  reading: Reading,
) -> ChunkReadings:
  """Read a chunk of positions at every read-out.

  Args:
    states: what the output matrices read.
    matrix: of the full model.
    exit_matrices: of each trained exit.
    reading: what is computed.
  """
  final = distribution(states.final, matrix)

  def at(here: Distribution, previous: Distribution) -> dict[str, Array]:
    return measure(
      here,
      final=final,
      previous=previous,
      targets=states.targets,
      reading=reading,
    )

  def step(previous, scanned):
    hidden, after_attention = scanned
    here = distribution(hidden, matrix)
    middle = None
    if after_attention is not None:
      middle = at(distribution(after_attention, matrix), here)
    return here, (at(here, previous), middle)

  # The first read-out has none before it; what is compared is masked later.
  last, (natural, attention) = jax.lax.scan(
    step, final, (states.natural, states.attention)
  )
  exits, previous = [], final
  for hidden, own in zip(states.exits, exit_matrices, strict=True):
    here = distribution(hidden, own)
    exits.append(at(here, previous))
    previous = here
  return ChunkReadings(
    natural=natural,
    attention=attention,
    exits=tuple(exits),
    final=at(final, last),
  )
