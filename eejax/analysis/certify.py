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
"""Certification of policies on the continuations of prompts.

The full model continues each prompt, a policy does, and the two texts make the
loss of a sequence (`eejax.analysis.measures`). Settings that stand from safe to
risky are certified by Learn then Test (`eejax.stats.fixed_sequence`) or by
conformal risk control (`eejax.stats.conformal`). A guarantee is about prompts
drawn as these were.

Prompts are taken in the order of hashes of their tokens, so which ones are
drawn is the same on every machine.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.analysis import measures
from eejax.analysis.measures import MeasureLike, Pair
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.models.exits import output_kernel
from eejax.ops.cross_entropy import cross_entropy
from eejax.parallel import sharding
from eejax.stats import conformal
from eejax.stats.fixed_sequence import Guarantee, LossesOf, certify_in_order
from eejax.types import Array, Float, Int, Params

Prompt = tuple[int, ...]


# MARK: Prompts


def prompt_hash(prompt: Sequence[int], *, seed: int = 0) -> str:
  """Return a hash of a prompt's tokens; another seed gives another order."""
  digest = hashlib.blake2b(digest_size=16, key=str(seed).encode())
  digest.update(np.asarray(prompt, np.int64).tobytes())
  return digest.hexdigest()


def data_hash(prompts: Sequence[Sequence[int]]) -> str:
  """Return a hash of a set of prompts, whatever their order."""
  hashes = sorted(prompt_hash(p) for p in prompts)
  return hashlib.sha256('\n'.join(hashes).encode()).hexdigest()


def draw_prompts(
  pool: Sequence[Prompt], *, count: int, seed: int = 0
) -> tuple[Prompt, ...]:
  """Draw prompts without replacement; equal ones count once.

  Args:
    pool: prompts to draw from, in any order.
    count: how many at most; all of them where there are fewer.
    seed: of the order.
  """
  order = sorted(set(pool), key=lambda p: prompt_hash(p, seed=seed))
  return tuple(order[:count])


@dataclasses.dataclass(frozen=True)
class CalibrationPrompts:
  """Prompts of calibration in three disjoint parts.

  Attributes:
    search: thresholds are searched on these.
    certify: losses of these are tested.
    report: speed and loss of the certified policy are measured on these.
    references: how the text goes on after each prompt, where a measure asks
      for that.
    eos_ids: tokens that end a continuation; None are the model's.
  """

  search: tuple[Prompt, ...]
  certify: tuple[Prompt, ...]
  report: tuple[Prompt, ...] = ()
  references: Mapping[Prompt, tuple[int, ...]] = dataclasses.field(
    default_factory=dict
  )
  eos_ids: tuple[int, ...] | None = None

  def check_disjoint(self) -> None:
    """Check that no prompt is in two parts.

    Raises:
      ArgumentError: one is; the message says how many.
    """
    searched, certified = set(self.search), set(self.certify)
    both = sum(p in searched for p in self.certify)
    if both:
      raise ArgumentError(
        f'{both} of the {len(self.certify)} sequences to certify on were '
        'searched on, too, which voids the guarantee; give other data to one '
        'of them.'
      )
    known = sum(p in searched | certified for p in self.report)
    if known:
      raise ArgumentError(
        f'{known} of the {len(self.report)} sequences to report on were '
        'searched or certified on, too; give other data to them.'
      )


# MARK: Continuations


@dataclasses.dataclass(frozen=True)
class Continuation:
  """What was generated after a prompt; both tuples are equally long.

  Attributes:
    tokens: generated token ids.
    depths: blocks each token went through before it was emitted.
  """

  tokens: tuple[int, ...]
  depths: tuple[int, ...]


# Told the number of a batch and its continuations.
OnBatch = Callable[[int, list[Continuation]], None]


def continue_prompts(
  prepared: Prepared,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Prompt],
  max_new_tokens: int,
  batch_size: int,
  policy: Policy = FULL_DEPTH,
  eos_ids: tuple[int, ...] | None = None,
  known: Mapping[int, list[Continuation]] | None = None,
  on_batch: OnBatch = lambda number, continuations: None,
) -> list[Continuation]:
  """Return the greedy continuation of each prompt, in their order.

  Args:
    prepared: the model.
    config: with its exits.
    prompts: of equal length all batches are of one shape.
    max_new_tokens: generated at most.
    batch_size: prompts decoded together; rows do not influence one another.
    policy: when to exit; full depth by default.
    eos_ids: tokens that end a continuation; by default the model's.
    known: continuations of batches that were decoded before, by their number.
    on_batch: told of every batch that is decoded now.

  Raises:
    EejaxError: the model returns numbers that are not finite.
  """
  known = known or {}
  continuations: list[Continuation] = []
  for number, first in enumerate(range(0, len(prompts), batch_size)):
    batch = list(prompts[first : first + batch_size])
    if number in known:
      continuations += known[number]
      continue
    # Rows that fill the last batch up are thrown away.
    filled = batch + [batch[0]] * (batch_size - len(batch))
    result = generate(
      prepared,
      config=config,
      prompts=filled,
      policy=policy,
      max_new_tokens=max_new_tokens,
      eos_ids=eos_ids,
    )
    rows = result.rows[: len(batch)]
    if any(r.finish_reason is FinishReason.NON_FINITE for r in rows):
      raise EejaxError(
        'the model returns numbers that are not finite; the checkpoint is '
        'damaged, or its numbers do not fit the compute dtype (try float32).'
      )
    decoded = [Continuation(r.tokens, r.exit_depths) for r in rows]
    on_batch(number, decoded)
    continuations += decoded
  return continuations


def full_choices(
  params: Params,
  *,
  config: ModelConfig,
  prompts: Sequence[Prompt],
  continuations: Sequence[Continuation],
  batch_size: int,
  dtype: str = 'float32',
) -> list[tuple[int, ...]]:
  """Return what the full model would say at each place of each text.

  Args:
    params: the tree, blocks stacked.
    config: the backbone.
    prompts: what the texts continue.
    continuations: of no more tokens than fit the context.
    batch_size: texts at a time.
    dtype: compute dtype.
  """
  begins = [len(prompt) - 1 for prompt in prompts]
  width = max(
    begin + max(len(text.tokens), 1)
    for begin, text in zip(begins, continuations, strict=True)
  )
  rows = np.zeros((len(prompts), width), np.int32)
  for row, prompt, text in zip(rows, prompts, continuations, strict=True):
    tokens = (*prompt, *text.tokens)[:width]
    row[: len(tokens)] = tokens
  choices: list[tuple[int, ...]] = []
  for first in range(0, len(rows), batch_size):
    batch = rows[first : first + batch_size]
    filled = np.zeros((batch_size, width), np.int32)
    filled[: len(batch)] = batch
    likeliest = sharding.fetch(
      sharding.call_where_it_lies(
        _likeliest, params['backbone'], filled, config=config, dtype=dtype
      )
    )
    last = first + batch_size
    for row, begin, text in zip(
      likeliest, begins[first:last], continuations[first:last], strict=False
    ):
      choices.append(tuple(row[begin : begin + len(text.tokens)].tolist()))
  return choices


@functools.partial(jax.jit, static_argnames=('config', 'dtype'))
def _likeliest(
  backbone: Params,
  tokens: Int[Array | np.ndarray, 'B T'],
  *,
  config: ModelConfig,
  dtype: str,
) -> Int[Array, 'B T']:
  """Return the full model's likeliest next token at each place."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  out = decoder.run_blocks(
    backbone,
    decoder.embed(
      backbone,
      jnp.asarray(tokens),
      positions=positions,
      config=config,
      dtype=jnp.dtype(dtype),
    ),
    config=EarlyExitConfig(config),
    positions=positions,
  )
  return cross_entropy(
    decoder.final_hidden(backbone, out.hidden, config=config),
    kernel=output_kernel({'backbone': backbone}, exit=None, config=config),
    targets=jnp.zeros_like(tokens),
    dtype=jnp.dtype(dtype),
  ).top1


def losses(
  measure: MeasureLike,
  *,
  ours: Sequence[Continuation],
  full: Sequence[Continuation],
  judged: Sequence[Sequence[int]] | None = None,
  prompts: Sequence[Prompt] | None = None,
  references: Mapping[Prompt, tuple[int, ...]] | None = None,
  decode: Callable[[Sequence[int]], str] | None = None,
) -> Float[np.ndarray, 'n']:
  """Return the loss of each sequence.

  Args:
    measure: see `eejax.analysis.measures`.
    ours: continuations decoded with exits.
    full: the full model's continuations of the same prompts.
    judged: of each of ours, what `full_choices` returns.
    prompts: what the texts continue, for measures that read them.
    references: how the text goes on after each prompt, likewise.
    decode: returns the text of token ids, likewise.

  Raises:
    ArgumentError: there is no such measure, it returns no loss, or it asks
      for what is not given.
  """
  function = measures.get_measure(measure)
  name = measures.measure_name(measure)
  said = judged if judged is not None else [None] * len(ours)
  before = prompts if prompts is not None else [()] * len(ours)
  after = references or {}
  pairs = [
    Pair(a.tokens, b.tokens, c, d, reference=after.get(d), decode=decode)
    for a, b, c, d in zip(ours, full, said, before, strict=True)
  ]
  return np.array([measures.loss(name, function, p) for p in pairs], float)


# MARK: Certification


@dataclasses.dataclass(frozen=True)
class CertificationResult:
  """What could be certified of settings that stand from safe to risky.

  Attributes:
    chosen: index of the riskiest setting that was certified; None where none
      was.
    sequences: how many losses each setting was tested on.
    mean_losses: of the settings that were looked at, in [0, 1].
    p_values: of these, under a guarantee; None for conformal control.
    needed: sequences that would probably certify the first setting that
      failed; None where none failed or no number would do.
  """

  chosen: int | None
  sequences: int
  mean_losses: tuple[float, ...]
  p_values: tuple[float, ...] | None
  needed: int | None


def certify_settings(
  losses_of: LossesOf, count: int, *, guarantee: Guarantee
) -> CertificationResult:
  """Certify settings in order, each with a guarantee, until one fails.

  Args:
    losses_of: returns the losses of all sequences at a setting, by its index.
    count: how many settings there are, from safe to risky.
    guarantee: what is to be certified.

  Raises:
    ArgumentError: there is no setting, or a loss is not in [0, 1].
  """
  result = certify_in_order(losses_of, count, guarantee=guarantee)
  return CertificationResult(
    chosen=result.certified[-1] if result.certified else None,
    sequences=result.num_sequences,
    mean_losses=tuple(t.mean_loss for t in result.tested),
    p_values=tuple(t.p_value for t in result.tested),
    needed=result.samples_needed(),
  )


def control_settings(
  losses_of: LossesOf, count: int, *, risk: float
) -> CertificationResult:
  """Choose a setting by conformal risk control; see `eejax.stats.conformal`.

  Args:
    losses_of: returns the losses of all sequences at a setting, by its index.
    count: how many settings there are, from safe to risky.
    risk: limit of the expected loss, in (0, 1).

  Raises:
    ArgumentError: there is no setting, or a loss is not in [0, 1].
  """
  means: list[float] = []

  def recorded(index: int) -> Float[np.ndarray, 'n']:
    losses = losses_of(index)
    means.append(float(losses.mean()))
    return losses

  result = conformal.control(recorded, count, risk=risk)
  needed = None
  if result.chosen is None and means[0] < risk:
    # (n r + 1) / (n + 1) <= risk.
    needed = int(np.ceil((1 - risk) / (risk - means[0]) - 1e-9))
  return CertificationResult(
    result.chosen, result.num_sequences, tuple(means), None, needed
  )
