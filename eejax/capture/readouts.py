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
vocabulary. With p, q two distributions,

  H(p)       = -sum_v p(v) log p(v)
  KL(p || q) = -sum_v p(v) log q(v) - H(p)
  JS(p, q)   = log 2 - sum_v (p(v) + q(v)) log (p(v) + q(v)) / 2
                 - (H(p) + H(q)) / 2

so that a Jensen-Shannon divergence takes one logarithm a token of the
vocabulary. Logits matter up to a constant, so the output matrix loses its
mean column beforehand, and logits come out with a mean of 0, as their cosine
wants them.

Reference:
  Lin (1991), Divergence Measures Based on the Shannon Entropy, section IV.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp

from eejax.ops.softcap import soft_cap
from eejax.types import Array, DTypeLike, Float, Int

# Tokens of a block of the vocabulary in the search for candidates.
_BLOCK = 32
# Probabilities so far (in nats) below the highest count as if they were there:
# none is 0, and none has a weight that float32 could show.
_DEEPEST = -60.0
# Read-outs of one step of the loop over them: between steps what is carried
# is copied, and a longer step takes longer to compile.
_PER_STEP = 4
# Fields that are numbers, in the order they come out of the loop.
SCALARS = (
  'loss',
  'entropy',
  'kl_final',
  'js_final',
  'logit_cosine',
  'js_previous',
  'finite',
)


@dataclasses.dataclass(frozen=True)
class ReadoutFields:
  """Fields that are computed of a read-out.

  Attributes:
    fields: read-out arrays by their names in `eejax.capture.file`.
    num_candidates: K.
  """

  fields: tuple[str, ...]
  num_candidates: int

  def wants(self, *fields: str) -> bool:
    """Return whether any of these is computed."""
    return any(f in self.fields for f in fields)

  @property
  def scalars(self) -> tuple[str, ...]:
    """Return which numbers are computed, `finite` always."""
    return tuple(f for f in SCALARS if f in (*self.fields, 'finite'))


@flax.struct.dataclass
class Said:
  """Fields of one read-out of a chunk, or of several.

  Attributes:
    scalars: `ReadoutFields.scalars`, in their order.
    top_tokens: the likeliest tokens; None if not asked for.
    top_log_probs: their log-probabilities; None if not asked for.
  """

  scalars: Float[Array, '*positions F']
  top_tokens: Int[Array, '*positions K'] | None
  top_log_probs: Float[Array, '*positions K'] | None


@flax.struct.dataclass
class Spoken:
  """Probabilities that later read-outs are compared with; [C] positions.

  Attributes:
    probs: the distribution.
    entropy: of it, nats.
  """

  probs: Float[Array, 'C V']
  entropy: Float[Array, 'C']


@flax.struct.dataclass
class Distribution:
  """Distribution of one read-out at a chunk of positions.

  Attributes:
    spoken: what others are compared with.
    logits: with a mean of 0.
    log_normalizer: of these logits.
    block_best: highest logit of each block of the vocabulary.
  """

  spoken: Spoken
  logits: Float[Array, 'C V']
  log_normalizer: Float[Array, 'C']
  block_best: Float[Array, 'C blocks']


@flax.struct.dataclass
class Reference:
  """Distribution of the full model, which read-outs are compared with.

  Attributes:
    spoken: its distribution.
    both: its probabilities and its logits, side by side: what a read-out's
      logits are multiplied with, in one pass over them.
    length: of its logits as a vector.
  """

  spoken: Spoken
  both: Float[Array, 'C two V']
  length: Float[Array, 'C']

  @classmethod
  def of(cls, final: Distribution) -> 'Reference':
    """Return the full model's distribution, ready to compare with."""
    return cls(
      spoken=final.spoken,
      both=jnp.stack([final.spoken.probs, final.logits], axis=1),
      length=_length(final.logits),
    )


def without_mean(
  kernel: Float[Array, 'D V'], *, dtype: DTypeLike
) -> Float[Array, 'D V']:
  """Return an output matrix whose logits have a mean of 0."""
  wide = kernel.astype(jnp.float32)
  return (wide - jnp.mean(wide, axis=1, keepdims=True)).astype(dtype)


def distribution(
  hidden: Float[Array, 'C D'],
  kernel: Float[Array, 'D V'],
  *,
  softcap: float | None = None,
) -> Distribution:
  """Return what a read-out says.

  Args:
    hidden: what its output matrix reads.
    kernel: the matrix, `without_mean` unless logits are capped.
    softcap: of the logits, or None.
  """
  logits = jnp.einsum(
    'CD,DV->CV',
    hidden.astype(kernel.dtype),
    kernel,
    preferred_element_type=jnp.float32,
  )
  logits = soft_cap(logits, softcap)
  block_best = jnp.max(_in_blocks(logits), axis=-1)
  best = jnp.max(block_best, axis=-1, keepdims=True)
  weights = jnp.exp(jnp.maximum(logits - best, _DEEPEST))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  log_normalizer = (best + jnp.log(total))[:, 0]
  probs = weights / total
  # Term by term, for the difference of two large sums would lose digits.
  surprise = log_normalizer[:, None] - logits
  entropy = jnp.sum(probs * surprise, axis=-1)
  return Distribution(
    spoken=Spoken(probs, entropy),
    logits=logits,
    log_normalizer=log_normalizer,
    block_best=block_best,
  )


def measure(
  here: Distribution,
  *,
  final: Reference | None,
  previous: Spoken,
  targets: Int[Array, 'C'],
  reading: ReadoutFields,
) -> Said:
  """Return what `reading` asks for of one read-out.

  Args:
    here: what the read-out says.
    final: what the full model says; None where that is this read-out.
    previous: what the read-out before says; any where there is none.
    targets: the token that follows.
    reading: what is computed.
  """
  own = here.spoken
  nothing = jnp.zeros_like(own.entropy)
  makers: dict[str, Callable[[], Array]] = {
    'loss': lambda: here.log_normalizer - _at(here.logits, targets),
    'entropy': lambda: own.entropy,
    'kl_final': lambda: nothing,
    'js_final': lambda: nothing,
    'logit_cosine': lambda: nothing + 1,
    'js_previous': lambda: _jensen_shannon(own, previous),
    'finite': lambda: jnp.isfinite(here.log_normalizer).astype(jnp.float32),
  }
  if final is not None:
    mean_logit, product = _products(final, here)
    makers |= {
      'kl_final': lambda: _divergence(final.spoken, here, mean_logit),
      'js_final': lambda: _jensen_shannon(own, final.spoken),
      'logit_cosine': lambda: _ratio(
        product, final.length * _length(here.logits)
      ),
    }
  best = tokens = None
  if reading.wants('top_tokens', 'top_log_probs'):
    best, tokens = _candidates(here, reading.num_candidates)
    best = best - here.log_normalizer[:, None]
  return Said(
    # One array, for every result of a step of a loop costs a copy.
    scalars=jnp.stack([makers[name]() for name in reading.scalars], axis=-1),
    top_tokens=tokens if reading.wants('top_tokens') else None,
    top_log_probs=best if reading.wants('top_log_probs') else None,
  )


def _at(
  logits: Float[Array, 'C V'], tokens: Int[Array, 'C']
) -> Float[Array, 'C']:
  return jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]


def _products(
  final: Reference, here: Distribution
) -> tuple[Float[Array, 'C'], Float[Array, 'C']]:
  """Return the mean logit under the full model, and the logits' product."""
  found = jnp.einsum(
    'CKV,CV->CK',
    final.both,
    here.logits,
    precision=jax.lax.Precision.HIGHEST,
  )
  return found[:, 0], found[:, 1]


def _divergence(
  p: Spoken, q: Distribution, mean_logit: Float[Array, 'C']
) -> Float[Array, 'C']:
  """Return KL(p || q), given the mean over p of the logits of q."""
  # Logits are small beside their normaliser, so what the sum of p lacks of 1
  # by rounding has little to multiply.
  cross = q.log_normalizer - mean_logit
  # Rounding must not put it below its least value.
  return jnp.maximum(cross - p.entropy, 0.0)


def _jensen_shannon(p: Spoken, q: Spoken) -> Float[Array, 'C']:
  both = p.probs + q.probs
  mixed = math.log(2) - jnp.sum(both * jnp.log(both), axis=-1) / 2
  return jnp.maximum(mixed - (p.entropy + q.entropy) / 2, 0.0)


def cosine(
  a: Float[Array, '*rows X'], b: Float[Array, '*rows X']
) -> Float[Array, '*rows']:
  """Return the cosine; what has no length has no direction, hence 0."""
  return _ratio(jnp.sum(a * b, axis=-1), _length(a) * _length(b))


def _length(x: Float[Array, '*rows X']) -> Float[Array, '*rows']:
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))


def _ratio(
  product: Float[Array, '*rows'], lengths: Float[Array, '*rows']
) -> Float[Array, '*rows']:
  some = lengths > 0
  found = product / jnp.where(some, lengths, 1.0)
  return jnp.where(some, jnp.clip(found, -1.0, 1.0), 0.0)


# MARK: Candidates


def top_candidates(
  logits: Float[Array, 'C V'], count: int
) -> tuple[Float[Array, 'C K'], Int[Array, 'C K']]:
  """Return the highest logits and their tokens, equal ones by number.

  A sort of the whole vocabulary costs more than the product that made it. The
  K highest lie in the K blocks of neighbouring tokens with the highest
  maxima: any K blocks that come before one of them bring K tokens that come
  before all of its own. So the blocks are searched first.

  Args:
    logits: of each token of the vocabulary.
    count: K, at most V.
  """
  return _search(logits, jnp.max(_in_blocks(logits), axis=-1), count)


def _candidates(
  here: Distribution, count: int
) -> tuple[Float[Array, 'C K'], Int[Array, 'C K']]:
  return _search(here.logits, here.block_best, count)


def _search(
  logits: Float[Array, 'C V'], block_best: Float[Array, 'C blocks'], count: int
) -> tuple[Float[Array, 'C K'], Int[Array, 'C K']]:
  blocks = block_best.shape[-1]
  if blocks <= 2 * count:
    best, tokens = jax.lax.top_k(logits, count)
    return best, tokens.astype(jnp.int32)
  _, chosen = jax.lax.top_k(block_best, count)
  # In the order of the vocabulary, for equal logits are taken in their order.
  chosen = _rising(chosen)
  inside = jnp.take_along_axis(_in_blocks(logits), chosen[:, :, None], axis=1)
  best, place = jax.lax.top_k(inside.reshape(-1, count * _BLOCK), count)
  block = jnp.take_along_axis(chosen, place // _BLOCK, axis=-1)
  tokens = block * _BLOCK + place % _BLOCK
  return best, tokens.astype(jnp.int32)


def _rising(numbers: Int[Array, 'C K']) -> Int[Array, 'C K']:
  """Return different numbers in order; a sort of so few is slow on a CPU."""
  before = numbers[:, :, None] > numbers[:, None, :]
  rank = jnp.sum(before, axis=-1, keepdims=True)
  place = jnp.arange(numbers.shape[-1])[None, None]
  return jnp.sum(jnp.where(rank == place, numbers[:, :, None], 0), axis=1)


def _in_blocks(logits: Float[Array, 'C V']) -> Float[Array, 'C blocks size']:
  """Return neighbouring tokens together; what is missing is never highest."""
  padding = -logits.shape[-1] % _BLOCK
  if padding:
    logits = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
  return logits.reshape(len(logits), -1, _BLOCK)


# MARK: Chunks


@flax.struct.dataclass
class ChunkStates:
  """Inputs of the output matrices at a chunk of positions, or at several.

  Attributes:
    natural: at the natural read-outs but the last, shallowest first.
    attention: after the attention that follows each of these, or None.
    exits: at the trained exits, shallowest first.
    final: at the last natural read-out.
    targets: the tokens that follow.
  """

  natural: Float[Array, '*chunks N C D']
  attention: Float[Array, '*chunks N C D'] | None
  exits: tuple[Float[Array, '*chunks C D'], ...]
  final: Float[Array, '*chunks C D']
  targets: Int[Array, '*chunks C']


@flax.struct.dataclass
class ChunkReadings:
  """Fields of every read-out of a chunk.

  The attributes are those of `ChunkStates`.
  """

  natural: Said
  attention: Said | None
  exits: tuple[Said, ...]
  final: Said


def read_chunk(
  states: ChunkStates,
  *,
  kernel: Float[Array, 'D V'],
  exit_kernels: Sequence[Float[Array, 'D V']],
  reading: ReadoutFields,
  softcap: float | None = None,
) -> ChunkReadings:
  """Read a chunk of positions at every read-out.

  Args:
    states: what the output matrices read.
    kernel: output matrix of the full model, as `distribution` takes it.
    exit_kernels: of each trained exit, likewise.
    reading: what is computed.
    softcap: of the logits, or None.
  """
  says = functools.partial(distribution, softcap=softcap)
  final = says(states.final, kernel)

  say = functools.partial(measure, targets=states.targets, reading=reading)
  at = functools.partial(say, final=Reference.of(final))

  def step(previous, scanned):
    hidden, after_attention = scanned
    here = says(hidden, kernel)
    middle = None
    if after_attention is not None:
      middle = at(says(after_attention, kernel), previous=here.spoken)
    return here.spoken, (at(here, previous=previous), middle)

  # The first read-out has none before it; what is compared is masked later.
  last, (natural, attention) = jax.lax.scan(
    step,
    final.spoken,
    (states.natural, states.attention),
    unroll=max(1, min(_PER_STEP, len(states.natural))),
  )
  exits, previous = [], final.spoken
  for hidden, own in zip(states.exits, exit_kernels, strict=True):
    here = says(hidden, own)
    exits.append(at(here, previous=previous))
    previous = here.spoken
  return ChunkReadings(
    natural=natural,
    attention=attention,
    exits=tuple(exits),
    final=say(final, final=None, previous=last),
  )
