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
"""Check that speculative decoding gives the text of the whole model.

Both modes compute the same numbers in another order: a window of tokens at a
time, or one by one. So their logits differ by rounding, and where the two best
tokens are as near to one another as that, either may win. A difference there
is a *near tie*; any other is a mistake. After its first difference a text goes
its own way, so only the first one of a row is judged.

When sampling, draft and model add the same noise to their tempered logits
(`eejax.ops.sampling.choose`), and what is compared are these sums.
"""

import dataclasses
import enum
import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig
from eejax.decoding.generate import generate
from eejax.decoding.loop.plan import bucket
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import FinishReason, GeneratedRow
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.exits import output_kernel
from eejax.ops.sampling import SamplingConfig, perturbed, row_sampling
from eejax.ops.softcap import soft_cap
from eejax.parallel import sharding
from eejax.types import Array, DTypeLike, Float, Int, Params

# A near tie has a gap below this share of the largest logit's size. float32
# keeps 24 bits and bfloat16 8, and rounding errors of the blocks add up: the
# shares are 2^7 and 2^2 times half the spacing of numbers around one.
NEAR_TIE_SHARE = {'float32': 2.0**-17, 'bfloat16': 2.0**-6}

SMALLEST_TEXT = 32


class DifferenceKind(enum.Enum):
  """What a difference is.

  NEAR_TIE: rounding decides between the two tokens. REAL: it does not.
  """

  NEAR_TIE = 'near_tie'
  REAL = 'real'


@dataclasses.dataclass(frozen=True)
class Difference:
  """The first difference between two texts.

  Attributes:
    place: how many tokens were generated alike before it.
    full_token: what the whole model emitted; None if its text had ended.
    speculative_token: what speculation emitted; None if its text had ended.
    gap: between the whole model's two best logits there, in one pass over the
      text; when sampling, between the two best sums with their noise.
    bound: a near tie has a smaller gap.
    kind: whether it is one.
  """

  place: int
  full_token: int | None
  speculative_token: int | None
  gap: float
  bound: float
  kind: DifferenceKind


@dataclasses.dataclass(frozen=True)
class RowCheck:
  """One row decoded in both modes, compared.

  Attributes:
    prompt: number of the prompt, from 1.
    batch_size: rows it was decoded with, itself included.
    seed: of its randomness.
    tokens: tokens that were compared, a differing one included.
    drafted: drafts that were verified.
    accepted: those of them that were kept.
    is_finite: whether its logits were numbers to the end.
    difference: the first, or None where the texts are the same.
  """

  prompt: int
  batch_size: int
  seed: int
  tokens: int
  drafted: int
  accepted: int
  is_finite: bool
  difference: Difference | None


@dataclasses.dataclass(frozen=True)
class LosslessSummary:
  """Rows, tokens, drafts and differences, counted.

  Attributes:
    rows: rows compared.
    tokens: tokens compared.
    drafted: drafts that were verified.
    accepted: those of them that were kept.
    near_ties: rows that part where rounding decides.
    real_differences: rows that part elsewhere.
    non_finite: rows that ended because their logits were no numbers.
  """

  rows: int
  tokens: int
  drafted: int
  accepted: int
  near_ties: int
  real_differences: int
  non_finite: int

  @classmethod
  def of(cls, checks: Iterable[RowCheck]) -> 'LosslessSummary':
    """Return the counts of rows."""
    checks = list(checks)
    kinds = [c.difference.kind for c in checks if c.difference]
    return cls(
      rows=len(checks),
      tokens=sum(c.tokens for c in checks),
      drafted=sum(c.drafted for c in checks),
      accepted=sum(c.accepted for c in checks),
      near_ties=kinds.count(DifferenceKind.NEAR_TIE),
      real_differences=kinds.count(DifferenceKind.REAL),
      non_finite=sum(not c.is_finite for c in checks),
    )

  @property
  def is_lossless(self) -> bool:
    """Return whether nothing but rounding told the texts apart.

    Where no draft was verified nothing was tested, so nothing is shown.
    """
    return self.real_differences == 0 and self.drafted > 0

  @property
  def acceptance(self) -> float | None:
    """Return the share of drafts that were kept; None without drafts."""
    return self.accepted / self.drafted if self.drafted else None


@dataclasses.dataclass(frozen=True)
class Trial:
  """Rows that are decoded together.

  Attributes:
    prompts: which prompt each row continues, from 0.
    seeds: of each row.
  """

  prompts: tuple[int, ...]
  seeds: tuple[int, ...]


def plan_trials(
  num_prompts: int, *, batch_sizes: Sequence[int], num_seeds: int = 1
) -> list[Trial]:
  """Return batches in which every prompt stands, of every size and seed.

  Batches are always full: where prompts run out, they begin anew.

  Raises:
    ArgumentError: a number is not positive.
  """
  if num_prompts < 1 or num_seeds < 1 or min(batch_sizes, default=0) < 1:
    raise ArgumentError(
      'to compare texts takes a prompt, a batch size and a seed at least.'
    )
  trials = []
  for size in batch_sizes:
    for number in range(num_seeds):
      for first in range(0, num_prompts, size):
        rows = range(first, first + size)
        trials.append(
          Trial(
            tuple(row % num_prompts for row in rows),
            tuple(number * num_prompts * size + row for row in rows),
          )
        )
  return trials


def policy_to_test(policy: Policy, *, rows: int) -> Policy:
  """Return the policy whose drafts are verified in a batch of `rows`.

  A row that is alone drafts as it pays. In a batch it may never pay, and then
  nothing would be tested: there every window is filled.
  """
  if rows == 1 or policy.draft_length is not None:
    return policy
  return dataclasses.replace(policy, draft_length=max(policy.window - 1, 1))


class LosslessCheck:
  """Decode batches in both modes and compare them, row by row."""

  def __init__(
    self,
    params: Params,
    *,
    config: EarlyExitConfig,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    sampling: SamplingConfig,
    max_new_tokens: int,
    dtype: DTypeLike,
  ):
    """Prepare the model.

    Args:
      params: the model, blocks stacked.
      config: with its exits.
      prompts: token ids.
      policy: how drafts are made.
      sampling: how tokens are chosen, without filters.
      max_new_tokens: tokens to emit at most, a row.
      dtype: compute type.

    Raises:
      ArgumentError: the policy does not speculate, or sampling filters.
    """
    if policy.mode is not Mode.SPECULATIVE:
      raise ArgumentError(
        f'what is verified is the mode speculative, not {policy.mode.value}.'
      )
    if sampling != SamplingConfig(sampling.temperature, seed=sampling.seed):
      raise ArgumentError(
        'a filter makes tokens at its edge come and go with rounding; verify '
        'with a temperature alone.'
      )
    self._params = {'backbone': params['backbone']}
    self._config, self._prompts = config, prompts
    self._policy, self._sampling = policy, sampling
    self._max_new_tokens, self._dtype = max_new_tokens, jnp.dtype(dtype)
    self._prepared: Prepared = prepare(params, config=config, dtype=dtype)

  def run(self, trials: Iterable[Trial]) -> Iterator[tuple[RowCheck, ...]]:
    """Yield the comparison of the rows of each trial."""
    for trial in trials:
      full = self._decode(trial, Policy())
      policy = policy_to_test(self._policy, rows=len(trial.prompts))
      ours = self._decode(trial, policy)
      yield tuple(
        self._compare(trial, row, full[row], ours[row])
        for row in range(len(trial.prompts))
      )

  def _decode(self, trial: Trial, policy: Policy) -> tuple[GeneratedRow, ...]:
    return generate(
      self._prepared,
      config=self._config,
      prompts=[self._prompts[p] for p in trial.prompts],
      policy=policy,
      sampling=self._sampling,
      max_new_tokens=self._max_new_tokens,
      seeds=trial.seeds,
    ).rows

  def _compare(
    self, trial: Trial, row: int, full: GeneratedRow, ours: GeneratedRow
  ) -> RowCheck:
    place = first_difference(full.tokens, ours.tokens)
    difference = None
    if place is not None:
      difference = self._judge(place, full, ours, seed=trial.seeds[row])
    reasons = (full.finish_reason, ours.finish_reason)
    return RowCheck(
      prompt=trial.prompts[row] + 1,
      batch_size=len(trial.prompts),
      seed=trial.seeds[row],
      tokens=len(full.tokens) if place is None else place + 1,
      drafted=ours.accounting.drafted,
      accepted=ours.accounting.accepted,
      is_finite=FinishReason.NON_FINITE not in reasons,
      difference=difference,
    )

  def _judge(
    self, place: int, full: GeneratedRow, ours: GeneratedRow, *, seed: int
  ) -> Difference:
    """Return what a difference after `place` equal tokens is."""
    scores, bound = self._scores(
      [*full.prompt_tokens, *full.tokens[:place]], seed
    )
    second, best = np.partition(scores, -2)[-2:]
    pair = [_token_at(row, place) for row in (full, ours)]
    # The two tokens have to be the tied ones; NaN compares as false.
    tied = all(t is not None and best - scores[t] < bound for t in pair)
    return Difference(
      place=place,
      full_token=pair[0],
      speculative_token=pair[1],
      gap=float(best - second),
      bound=bound,
      kind=DifferenceKind.NEAR_TIE if tied else DifferenceKind.REAL,
    )

  def _scores(self, text: list[int], seed: int) -> tuple[np.ndarray, float]:
    """Return what decides on the token after `text`, and a near tie's bound."""
    padded = np.zeros((1, bucket(len(text), smallest=SMALLEST_TEXT)), np.int32)
    padded[0, : len(text)] = text
    found = sharding.call_where_it_lies(
      _next_logits,
      self._params,
      padded,
      np.int32(len(text) - 1),
      config=self._config.with_exits(()),
      dtype=self._dtype,
    )
    logits = jnp.asarray(sharding.fetch(found))
    scores = perturbed(
      logits,
      sampling=row_sampling(self._sampling, seeds=[seed]),
      positions=jnp.array([len(text)], jnp.int32),
    )
    size = float(jnp.max(jnp.abs(logits)))
    scale = self._sampling.temperature or 1.0
    share = NEAR_TIE_SHARE[self._dtype.name]
    return np.asarray(scores[0]), share * size / scale


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
  """Return the place of the first difference; None for equal texts."""
  for place, (a, b) in enumerate(zip(ours, theirs, strict=False)):
    if a != b:
      return place
  return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def _token_at(row: GeneratedRow, place: int) -> int | None:
  return row.tokens[place] if place < len(row.tokens) else None


@functools.partial(jax.jit, static_argnames=('config', 'dtype'))
def _next_logits(
  params: Params,
  tokens: Int[Array, '1 T'],
  last: Int[Array, ''],
  *,
  config: EarlyExitConfig,
  dtype: jnp.dtype,
) -> Float[Array, '1 V']:
  """Return what the whole model says after `last`; padding stands behind."""
  params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  backbone = params['backbone']
  positions = jnp.arange(tokens.shape[1])[None]
  embedded = decoder.embed(
    backbone, tokens, positions=positions, config=config.model, dtype=dtype
  )
  hidden = decoder.run_blocks(
    backbone, embedded, config=config, positions=positions
  ).hidden
  newest = jax.lax.dynamic_slice_in_dim(hidden, last, 1, axis=1)
  ready = decoder.final_hidden(backbone, newest, config=config.model)
  kernel = output_kernel(params, exit=None, config=config.model)
  logits = jnp.einsum(
    'BTD,DV->BV', ready, kernel, preferred_element_type=jnp.float32
  )
  return soft_cap(logits, config.model.logit_softcap)
