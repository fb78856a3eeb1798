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
"""Certify policies on the continuations of prompts.

Prompts are drawn from a pool in an order that their hashes give, so a part to
search thresholds on and a part to certify them on are the same on every
machine and never share a prompt. The full model continues each prompt, every
policy does, and the two texts make the loss of a sequence; see
`eejax.analysis.risk`. A guarantee speaks of prompts drawn as these were.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.analysis import measures
from eejax.analysis.measures import Pair
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.models.exits import output_kernel
from eejax.ops.cross_entropy import cross_entropy
from eejax.stats import conformal
from eejax.stats.fixed_sequence import (
  FixedSequence,
  Guarantee,
  certify_in_order,
)
from eejax.types import Array, Float, Int, Params

Prompt = tuple[int, ...]


# MARK: Which prompts


def prompt_hash(prompt: Sequence[int], *, seed: int = 0) -> str:
  """Return a hash of a prompt's tokens; another seed, another order."""
  digest = hashlib.blake2b(digest_size=16, key=str(seed).encode())
  digest.update(np.asarray(prompt, np.int64).tobytes())
  return digest.hexdigest()


def data_hash(prompts: Sequence[Sequence[int]]) -> str:
  """Return a hash of a set of prompts, whatever their order."""
  hashes = sorted(prompt_hash(p) for p in prompts)
  return hashlib.sha256('\n'.join(hashes).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Parts:
  """Hold prompts to search thresholds on, and others to certify them on."""

  search: tuple[Prompt, ...]
  certify: tuple[Prompt, ...]


def draw_parts(
  pool: Sequence[Prompt],
  *,
  search: int,
  certify: int,
  seed: int = 0,
) -> Parts:
  """Draw both parts from one pool; equal prompts count once.

  Args:
    pool: prompts.
    search: how many to search on.
    certify: how many to certify on at most; all that are left if fewer.
    seed: of the order.
  """
  order = sorted(set(pool), key=lambda p: prompt_hash(p, seed=seed))
  return Parts(tuple(order[:search]), tuple(order[search : search + certify]))


def check_disjoint(parts: Parts) -> None:
  """Check that no prompt is both searched and certified on.

  Raises:
    ArgumentError: one is; the message says how many.
  """
  searched = {prompt_hash(p) for p in parts.search}
  both = sum(prompt_hash(p) in searched for p in parts.certify)
  if both:
    raise ArgumentError(
      f'{both} of the {len(parts.certify)} sequences to certify on were '
      'searched on, too, which voids the guarantee; give other data to one of '
      'them.'
    )


# MARK: Texts


@dataclasses.dataclass(frozen=True)
class Text:
  """Hold what was generated after a prompt; both are equally long.

  Attributes:
    tokens: generated.
    depths: blocks each went through before it was emitted.
  """

  tokens: tuple[int, ...]
  depths: tuple[int, ...]


# Told the number of a batch and its texts.
OnBatch = Callable[[int, list[Text]], None]


def continue_prompts(
  prepared: Prepared,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Prompt],
  max_new_tokens: int,
  batch_size: int,
  policy: Policy = FULL_DEPTH,
  known: Mapping[int, list[Text]] | None = None,
  on_batch: OnBatch = lambda number, texts: None,
) -> list[Text]:
  """Return the greedy continuation of each prompt, in their order.

  Args:
    prepared: the model.
    config: with its exits.
    prompts: of equal length, so that all batches are of one shape.
    max_new_tokens: generated at most.
    batch_size: prompts decoded together; rows do not influence one another.
    policy: when to exit; full depth by default.
    known: texts of batches that were decoded before, by their number.
    on_batch: told of every batch that is decoded now.

  Raises:
    EejaxError: the model returns numbers that are not finite.
  """
  known = known or {}
  texts: list[Text] = []
  for number, first in enumerate(range(0, len(prompts), batch_size)):
    batch = list(prompts[first : first + batch_size])
    if number in known:
      texts += known[number]
      continue
    # Rows that fill the last batch up are thrown away.
    filled = batch + [batch[0]] * (batch_size - len(batch))
    result = generate(
      prepared,
      config=config,
      prompts=filled,
      policy=policy,
      max_new_tokens=max_new_tokens,
    )
    rows = result.rows[: len(batch)]
    if any(r.finish_reason is FinishReason.NON_FINITE for r in rows):
      raise EejaxError(
        'the model returns numbers that are not finite; the checkpoint is '
        'damaged, or its numbers do not fit the compute dtype (try float32).'
      )
    found = [Text(r.tokens, r.exit_depths) for r in rows]
    on_batch(number, found)
    texts += found
  return texts


def full_choices(
  params: Params,
  *,
  config: ModelConfig,
  prompts: Sequence[Prompt],
  texts: Sequence[Text],
  batch_size: int,
  dtype: str = 'float32',
) -> list[tuple[int, ...]]:
  """Return what the full model would say at each place of each text.

  Args:
    params: the tree, blocks stacked.
    config: the backbone.
    prompts: what the texts continue, of equal length.
    texts: of no more tokens than fit the context.
    batch_size: texts at a time.
    dtype: compute dtype.
  """
  longest = max((len(t.tokens) for t in texts), default=0)
  width = len(prompts[0]) + max(longest, 1) - 1
  rows = np.zeros((len(prompts), width), np.int32)
  for row, prompt, text in zip(rows, prompts, texts, strict=True):
    line = (*prompt, *text.tokens)[:width]
    row[: len(line)] = line
  begin = len(prompts[0]) - 1
  found: list[tuple[int, ...]] = []
  for first in range(0, len(rows), batch_size):
    batch = rows[first : first + batch_size]
    filled = np.zeros((batch_size, width), np.int32)
    filled[: len(batch)] = batch
    said = np.asarray(
      _likeliest(params['backbone'], filled, config=config, dtype=dtype)
    )
    for line, text in zip(
      said, texts[first : first + batch_size], strict=False
    ):
      judged = line[begin : begin + len(text.tokens)]
      found.append(tuple(judged.tolist()))
  return found


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
    decoder.embed(backbone, jnp.asarray(tokens), dtype=jnp.dtype(dtype)),
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
  measure: str,
  *,
  ours: Sequence[Text],
  full: Sequence[Text],
  judged: Sequence[Sequence[int]] | None = None,
) -> Float[np.ndarray, 'n']:
  """Return the loss of each sequence.

  Args:
    measure: name or `module:function`; see `eejax.analysis.measures`.
    ours: texts decoded with exits.
    full: the full model's continuations of the same prompts.
    judged: of each of ours, what `full_choices` returns.

  Raises:
    ArgumentError: there is no such measure, or it returns no loss.
  """
  function = measures.get_measure(measure)
  said = judged if judged is not None else [None] * len(ours)
  return np.array(
    [
      measures.loss(measure, function, Pair(a.tokens, b.tokens, c))
      for a, b, c in zip(ours, full, said, strict=True)
    ],
    float,
  )


# MARK: Choice


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Hold what could be certified of settings that stand safe to risky.

  Attributes:
    chosen: place of the riskiest setting that was; None where none was.
    sequences: how many it was tried on.
    mean_losses: of the settings that were looked at.
    p_values: of these, under a guarantee; None for conformal control.
    needed: sequences that would probably certify the first setting that
      failed; None where none failed or no number would do.
  """

  chosen: int | None
  sequences: int
  mean_losses: tuple[float, ...]
  p_values: tuple[float, ...] | None
  needed: int | None


def choose(
  losses_of: Callable[[int], Float[np.ndarray, 'n']],
  count: int,
  *,
  guarantee: Guarantee,
) -> Outcome:
  """Certify settings in order with a guarantee; take the last that holds."""
  found: FixedSequence = certify_in_order(losses_of, count, guarantee=guarantee)
  return Outcome(
    chosen=found.certified[-1] if found.certified else None,
    sequences=found.num_sequences,
    mean_losses=tuple(t.mean_loss for t in found.tested),
    p_values=tuple(t.p_value for t in found.tested),
    needed=found.samples_needed(),
  )


def choose_on_average(
  losses_of: Callable[[int], Float[np.ndarray, 'n']],
  count: int,
  *,
  risk: float,
) -> Outcome:
  """Choose by conformal risk control; see `eejax.stats.conformal`."""
  means: list[float] = []

  def watched(place: int) -> Float[np.ndarray, 'n']:
    found = losses_of(place)
    means.append(float(found.mean()))
    return found

  found = conformal.control(watched, count, risk=risk)
  needed = None
  if found.chosen is None and means[0] < risk:
    # (n r + 1) / (n + 1) <= risk.
    needed = int(np.ceil((1 - risk) / (risk - means[0]) - 1e-9))
  return Outcome(found.chosen, found.num_sequences, tuple(means), None, needed)
