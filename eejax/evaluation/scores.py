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
"""Log how safe every exit was at every token of a text, teacher-forced."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.decoding.policy.criteria import (
  Evidence,
  Memory,
  Reads,
  blank_memory,
  get_criterion,
  recall,
  remember,
)
from eejax.errors import ArgumentError
from eejax.evaluation.heads import Heads, run_heads
from eejax.models.exits import gate_logit
from eejax.ops.cross_entropy import OutputHead
from eejax.ops.quant import Quantization
from eejax.ops.softcap import soft_cap
from eejax.parallel import sharding
from eejax.types import Bool, Float, Params


@dataclasses.dataclass(frozen=True)
class ExitScores:
  """One criterion's scores of every exit at every token.

  Attributes:
    criterion: which score it is.
    depths: of the exits, shallowest first.
    num_layers: depth of the full model.
    scores: higher is safer.
    agree: whether the exit's likeliest token is the full model's.
    counted: tokens that are there; they stand at the start of their row.
  """

  criterion: str
  depths: tuple[int, ...]
  num_layers: int
  scores: Float[np.ndarray, 'E rows T']
  agree: Bool[np.ndarray, 'E rows T']
  counted: Bool[np.ndarray, 'rows T']

  @property
  def num_tokens(self) -> int:
    """Return how many tokens there are."""
    return int(self.counted.sum())

  def halves(self) -> tuple['ExitScores', 'ExitScores']:
    """Return every other row, and the rest: one to tune on, one to report.

    Raises:
      ArgumentError: there are not two rows.
    """
    filled = np.flatnonzero(self.counted.any(axis=1))
    if len(filled) < 2:
      raise ArgumentError(
        'thresholds are tuned on one half of the text and reported on the '
        'other, and this text fills only one row; give more text.'
      )
    return self._rows(filled[::2]), self._rows(filled[1::2])

  def from_start(self) -> 'ExitScores':
    """Return the tokens that count at the start of their rows, in order."""
    order = np.argsort(~self.counted, axis=1, kind='stable')
    longest = int(self.counted.sum(axis=1).max(initial=1))
    move = lambda x: np.take_along_axis(x, order[None], axis=2)[..., :longest]
    return dataclasses.replace(
      self,
      scores=move(self.scores),
      agree=move(self.agree),
      counted=move(self.counted[None])[0],
    )

  def _rows(self, rows) -> 'ExitScores':
    return dataclasses.replace(
      self,
      scores=self.scores[:, rows],
      agree=self.agree[:, rows],
      counted=self.counted[rows],
    )


def collect_scores(
  params: Params,
  batches: Iterable[Batch],
  *,
  config: EarlyExitConfig,
  criteria: Sequence[str],
  dtype: str = 'float32',
  chunk_size: int = 1024,
) -> dict[str, ExitScores]:
  """Return the scores of several criteria from one pass over a text.

  Args:
    params: the whole tree, blocks stacked.
    batches: the text, one document or piece a row, for what counts of a row is
      replayed as one generation.
    config: the model with its exits.
    criteria: their names; each must be usable at every exit.
    dtype: compute dtype.
    chunk_size: tokens whose logits stand at once.

  Raises:
    ArgumentError: there is no text, no exit, or a criterion cannot be used.
  """
  if not config.exits:
    raise ArgumentError(
      'this model has no exits to score; add some with eejax add-exits.'
    )
  for name in criteria:
    get_criterion(name).check(config.exits)
  score = functools.partial(
    sharding.call_where_it_lies,
    score_batch,
    params,
    config=config,
    criteria=tuple(criteria),
    dtype=dtype,
    chunk_size=chunk_size,
  )
  by_batch, counted = [], []
  for batch in batches:
    by_batch.append(sharding.fetch(score(batch.as_dict())))
    counted.append(batch.weights > 0)
  if not by_batch:
    raise ArgumentError('there is no text to score.')
  joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *by_batch)
  return {
    name: ExitScores(
      criterion=name,
      depths=config.exit_depths,
      num_layers=config.model.num_layers,
      scores=joined[name],
      agree=joined['agree'],
      counted=np.concatenate(counted),
    ).from_start()
    for name in criteria
  }


@functools.partial(
  jax.jit,
  static_argnames=(
    'config',
    'criteria',
    'dtype',
    'chunk_size',
    'kv_quantization',
  ),
)
def score_batch(
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  config: EarlyExitConfig,
  criteria: tuple[str, ...],
  dtype: str,
  chunk_size: int,
  kv_quantization: Quantization = Quantization.NONE,
) -> dict[str, jax.Array]:
  """Return each criterion's scores, and `'agree'`, all [E, B, T].

  `'final'`, [1, B, T], has the full model's likeliest tokens.
  """
  ready = run_heads(
    params,
    batch,
    config=config,
    dtype=dtype,
    kv_quantization=kv_quantization,
  )
  return score_heads(
    params,
    batch,
    ready,
    config=config,
    criteria=criteria,
    dtype=dtype,
    chunk_size=chunk_size,
  )


def score_heads(
  params: Params,
  batch: Mapping[str, jax.Array],
  ready: Heads,
  *,
  config: EarlyExitConfig,
  criteria: tuple[str, ...],
  dtype: str,
  chunk_size: int,
) -> dict[str, jax.Array]:
  """Return what `score_batch` does, of heads that were run already."""
  result = _read_logits(ready, config, criteria, jnp.dtype(dtype), chunk_size)
  for name in criteria:
    if not get_criterion(name).reads.asks_head:
      result[name] = _read_streams(params, batch, ready, config, name)
  return result


def _read_streams(params, batch, ready: Heads, config, name: str) -> jax.Array:
  """Score what needs no head: gates, streams, depths and positions."""
  shape = batch['positions'].shape
  reads, progress = get_criterion(name).reads, _Progress(name, config)
  scores = []
  for exit in config.exits:
    stream, logit = ready.exit_inputs[exit.name].hidden, None
    if stream is None and reads & (Reads.STREAM | Reads.GATE):
      raise ArgumentError(
        f'criterion {name} reads the stream, which the exit at depth '
        f'{exit.depth} is not given along a text; give it a gate, or use '
        'another criterion.'
      )
    if reads & Reads.GATE:
      assert stream is not None
      logit = gate_logit(
        params['exits'][exit.name], stream, exit=exit, config=config.model
      ).reshape(-1)
    if stream is not None:
      stream = stream.reshape(-1, stream.shape[-1])
    positions = batch['positions'].reshape(-1)
    evidence = Evidence(gate_logit=logit, stream=stream, positions=positions)
    scores.append(progress.score(evidence, num_rows=positions.size))
  return jnp.stack(scores).reshape(len(scores), *shape)


class _Progress:
  """Score one exit after the other, as if none were taken."""

  def __init__(self, name: str, config: EarlyExitConfig):
    self._criterion, self._config = get_criterion(name), config
    self._memory: Memory | None = None
    self._index = 0

  def score(self, evidence: Evidence, *, num_rows: int) -> jax.Array:
    """Return the score of each row at the next exit."""
    evidence = dataclasses.replace(
      evidence,
      exit_index=self._index,
      depth=self._config.exit_depths[self._index],
      num_layers=self._config.model.num_layers,
    )
    # Rows are tokens here, and no row's memory is another's.
    place = jnp.zeros((num_rows,), jnp.int32)
    memory = self._memory
    if memory is None:
      memory = blank_memory(
        self._criterion.reads,
        batch_size=num_rows,
        num_scored=self._config.model.vocab_size,
        embed_dim=self._config.model.embed_dim,
      )
    evidence = recall(evidence, memory, positions=place)
    self._memory = remember(
      memory, evidence, positions=place, rows=jnp.ones_like(place, bool)
    )
    self._index += 1
    score = self._criterion.score(evidence)
    return jnp.broadcast_to(score, (num_rows,))


def _read_logits(
  ready: Heads,
  config: EarlyExitConfig,
  criteria: tuple[str, ...],
  dtype,
  chunk_size: int,
) -> dict[str, jax.Array]:
  """Pass all heads over the tokens, `chunk_size` at a time."""
  batch, length, _ = ready.heads[-1].hidden.shape
  tokens = batch * length
  count = -(-tokens // chunk_size)
  width = -(-tokens // count)
  names = [n for n in criteria if get_criterion(n).reads.asks_head]

  def split(hidden):
    flat = hidden.reshape(tokens, -1)
    flat = jnp.pad(flat, ((0, count * width - tokens), (0, 0)))
    return flat.reshape(count, width, -1)

  def read(chunks):
    *of_exits, of_final = (
      functools.partial(_logits, hidden, head, dtype)
      for hidden, head in zip(chunks, ready.heads, strict=True)
    )
    final = jnp.argmax(of_final(), axis=-1)
    read_out: dict[str, list] = {name: [] for name in ('agree', *names)}
    read_out['final'] = [final]
    progress = {name: _Progress(name, config) for name in names}
    for of_exit in of_exits:
      logits = of_exit()
      top = jnp.argmax(logits, axis=-1)
      read_out['agree'].append(top == final)
      evidence = Evidence(logits=logits, top_token=top)
      for name in names:
        score = progress[name].score(evidence, num_rows=width)
        read_out[name].append(score)
    return {name: jnp.stack(values) for name, values in read_out.items()}

  chunks = tuple(split(h.hidden) for h in ready.heads)
  by_chunk = jax.lax.map(read, chunks)  # [chunks, E, width]

  def join(values):
    flat = jnp.moveaxis(values, 0, 1).reshape(values.shape[1], count * width)
    return flat[:, :tokens].reshape(-1, batch, length)

  return {name: join(values) for name, values in by_chunk.items()}


def _logits(hidden, head: OutputHead, dtype) -> jax.Array:
  logits = jnp.einsum(
    'TD,DV->TV',
    hidden.astype(dtype),
    head.kernel.astype(dtype),
    preferred_element_type=jnp.float32,
  )
  return soft_cap(logits, head.softcap)
