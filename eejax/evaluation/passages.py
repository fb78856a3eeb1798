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
"""Log-probabilities of continuations: at full depth, at an exit, by a policy.

The log-probability of a continuation t_1 .. t_n of a context is the sum of
those of its tokens, each given the context and the tokens before it. Which
head a token's log-probability is read from depends on the policy:

  full, speculative  the final head, for both emit the full model's text
  early_exit         the head at which the decoder would emit a token in the
                     place of t_i, had it emitted t_1 .. t_(i-1) before: the
                     first exit in use whose score there reaches its threshold,
                     and the end of the model where none does or where the
                     policy's window sends the token through all blocks

This is teacher-forced: the continuation is given, and exits decide alone what
head judges it. Keys and values of all tokens before are those of the whole
model, as the decoder's own strategy `deferred` keeps them, so scores are the
decoder's scores, computed by its own criteria (`eejax.evaluation.scores`), and
exits are taken by its own rule (`eejax.decoding.replay`). A context counts as
a prompt: it is read at full depth, and the window begins after it.

Policies under which that does not follow from scores are refused: approximate
keys and values, thresholds that change along a text, and scores over a part of
the vocabulary.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.decoding.generate import FULL_DEPTH
from eejax.decoding.loop.plan import bucket, make_plan
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.decoding.replay import check_replayable, replay
from eejax.errors import ArgumentError, EejaxError
from eejax.evaluation.heads import run_heads
from eejax.evaluation.scores import score_heads
from eejax.ops.cross_entropy import head_statistics
from eejax.ops.sampling import SamplingMethod
from eejax.parallel.mesh import check_batch
from eejax.parallel.sharding import batch_sharding, shardings
from eejax.progress import SILENT, Progress
from eejax.types import Array, Bool, Float, Int, Params

SHORTEST = 32
CHUNK_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class Passage:
  """A continuation to be scored, as token ids.

  Attributes:
    context: what it continues, one token at least. Of a text beyond the
      model's context the first tokens are left out.
    continuation: the tokens that are scored.
  """

  context: Sequence[int]
  continuation: Sequence[int]


@dataclasses.dataclass(frozen=True)
class PassageScore:
  """What a model says of a continuation, token by token.

  Attributes:
    log_probs: in nats.
    is_likeliest: whether the head that judges it holds the token the
      likeliest.
    exit_depths: of the head that judges it.
  """

  log_probs: Float[np.ndarray, 'T']
  is_likeliest: Bool[np.ndarray, 'T']
  exit_depths: Int[np.ndarray, 'T']

  @property
  def log_prob(self) -> float:
    """Return the log-probability of the whole continuation."""
    return float(self.log_probs.sum(dtype=np.float64))


class PassageScorer:
  """Scores continuations of contexts under one policy.

  Texts are padded to one of few lengths, so few programs are compiled.
  """

  def __init__(
    self,
    params: Params,
    *,
    config: EarlyExitConfig,
    policy: Policy = FULL_DEPTH,
    dtype: str = 'float32',
    batch_size: int = 8,
    mesh: Mesh | None = None,
  ):
    """Prepare to score.

    Args:
      params: the whole tree, blocks stacked.
      config: the model with its exits.
      policy: says which head judges a token; see the module's docstring.
      dtype: what is computed in.
      batch_size: continuations at a time.
      mesh: where the model lies; rows are spread over its axes `data` and
        `fsdp`.

    Raises:
      EejaxError: the policy cannot be used with the model, scores under it are
        not defined, or the mesh has pipeline stages or does not divide a
        batch.
    """
    if batch_size < 1:
      raise ArgumentError(f'batch_size must be at least 1, not {batch_size}.')
    self._params, self._batch_size = params, batch_size
    self._max_length = config.model.max_length
    self._mesh = mesh
    if policy.mode is not Mode.EARLY_EXIT:
      policy = FULL_DEPTH
    check_replayable(policy)
    plan, thresholds = make_plan(
      config, policy=policy, method=SamplingMethod.GREEDY
    )
    exits = tuple(s.exit for s in plan.segments if s.exit is not None)
    ends_early = len(exits) == len(plan.segments)
    used = (*thresholds, 0.0) if ends_early else thresholds
    self._thresholds = threshold_values([used]) if used else None
    self._window = plan.window
    self._depths = np.array([s.last for s in plan.segments])
    self._read = functools.partial(
      _read_batch,
      config=config.with_exits(exits),
      num_heads=len(plan.segments),
      # The one exit at which a model ends is always taken.
      criterion=policy.criterion if thresholds else None,
      dtype=dtype,
    )
    if mesh is not None:
      check_scoring_mesh(mesh, batch_size=batch_size)
      with jax.set_mesh(mesh):
        self._params = jax.device_put(params, shardings(params, mesh=mesh))

  def score(
    self, passages: Sequence[Passage], *, progress: Progress = SILENT
  ) -> list[PassageScore]:
    """Return the score of each continuation, in their order.

    Raises:
      ArgumentError: a context is empty, or a continuation is longer than the
        model's context.
      EejaxError: the model returns numbers that are not finite.
    """
    texts = [self._checked(p, n) for n, p in enumerate(passages, start=1)]
    found: list[PassageScore] = [_NOTHING] * len(texts)
    by_length: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
      if passages[i].continuation:
        size = min(bucket(len(text) - 1, smallest=SHORTEST), self._max_length)
        by_length.setdefault(size, []).append(i)
    total = sum(map(len, by_length.values()))
    with progress.bar('scoring', total=total, unit='text') as bar:
      for size in sorted(by_length, reverse=True):
        rows = by_length[size]
        for first in range(0, len(rows), self._batch_size):
          chosen = rows[first : first + self._batch_size]
          counts = [len(passages[i].continuation) for i in chosen]
          scores = self._score_batch([texts[i] for i in chosen], counts, size)
          for i, score in zip(chosen, scores, strict=True):
            found[i] = score
          bar.update(len(chosen))
    return found

  def _checked(self, passage: Passage, number: int) -> list[int]:
    """Return the tokens of a passage that fit into the model's context."""
    if not passage.context:
      raise ArgumentError(f'text {number} has no context; give one token.')
    if len(passage.continuation) > self._max_length:
      raise ArgumentError(
        f'text {number} has {len(passage.continuation)} tokens to score, and '
        f'the context of the model is {self._max_length}; cut it into windows.'
      )
    # The last token is scored and not read.
    return [*passage.context, *passage.continuation][-self._max_length - 1 :]

  def _score_batch(
    self, texts: list[list[int]], counts: list[int], size: int
  ) -> list[PassageScore]:
    batch = Batch.padding(self._batch_size, sequence_length=size)
    for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
      length = len(text) - 1
      batch.tokens[row, :length] = text[:-1]
      batch.targets[row, :length] = text[1:]
      batch.weights[row, length - count : length] = 1
      batch.positions[row, :length] = np.arange(length)
      batch.segment_ids[row, :length] = 1
    read = jax.device_get(self._run(batch))
    starts = [len(t) - 1 - c for t, c in zip(texts, counts, strict=True)]
    # Continuations from column 0 on, as a replay wants them.
    columns = np.array(starts)[:, None] + np.arange(max(counts))
    columns = np.minimum(columns, size - 1)
    at = lambda x: np.take_along_axis(x[:, : len(texts)], columns[None], axis=2)
    counted = np.arange(max(counts)) < np.array(counts)[:, None]
    taken = np.zeros(counted.shape, int)
    if 'scores' in read:
      assert self._thresholds is not None
      taken = replay(
        at(read['scores']),
        counted=counted,
        thresholds=self._thresholds,
        window=self._window,
      ).taken[0]
    choose = lambda x: np.take_along_axis(at(x), taken[None], axis=0)[0]
    log_probs = -choose(read['loss'])
    if not np.isfinite(log_probs[counted]).all():
      raise EejaxError(
        'the model returns numbers that are not finite; the checkpoint is '
        'damaged, or its numbers do not fit the compute dtype (try float32).'
      )
    likeliest = choose(read['likeliest'])
    return [
      PassageScore(
        log_probs[row, :count],
        likeliest[row, :count],
        self._depths[taken[row, :count]],
      )
      for row, count in enumerate(counts)
    ]

  def _run(self, batch: Batch) -> dict[str, jax.Array]:
    if self._mesh is None:
      return self._read(self._params, batch.as_dict())
    with jax.set_mesh(self._mesh):
      where = batch_sharding(self._mesh)
      return self._read(self._params, jax.device_put(batch.as_dict(), where))


def check_scoring_mesh(mesh: Mesh, *, batch_size: int) -> None:
  """Check that continuations can be scored on a mesh.

  Raises:
    EejaxError: it has pipeline stages, or does not divide a batch.
  """
  if mesh.shape['stage'] > 1:
    raise ArgumentError(
      'texts are scored without pipeline stages; leave the mesh axis stage at '
      '1 and use data, fsdp or model.'
    )
  check_batch(mesh, rows=batch_size)


_NOTHING = PassageScore(
  np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, int)
)


@functools.partial(
  jax.jit, static_argnames=('config', 'num_heads', 'criterion', 'dtype')
)
def _read_batch(
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  config: EarlyExitConfig,
  num_heads: int,
  criterion: str | None,
  dtype: str,
) -> dict[str, Array]:
  """Return what the first heads say of a batch, [heads, B, T].

  Args:
    params: the whole tree.
    batch: arrays of a `Batch`, by name.
    config: the model with the exits in use alone.
    num_heads: how many judge; the final head is the last of them, or none.
    criterion: the score of exits, `scores`; None where none is asked.
    dtype: what is computed in.
  """
  ready = run_heads(params, batch, config=config, dtype=dtype)
  statistics = head_statistics(
    ready.heads[:num_heads],
    targets=batch['targets'],
    chunk_size=CHUNK_SIZE,
    dtype=jnp.dtype(dtype),
  )
  found = {
    'loss': jnp.stack([h.loss for h in statistics.heads]),
    'likeliest': jnp.stack(
      [h.top1 == batch['targets'] for h in statistics.heads]
    ),
  }
  if criterion is not None:
    found['scores'] = score_heads(
      params,
      batch,
      ready,
      config=config,
      criteria=(criterion,),
      dtype=dtype,
      chunk_size=CHUNK_SIZE,
    )[criterion]
  return found
