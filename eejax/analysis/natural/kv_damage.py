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
"""What stand-ins for keys and values do to text, the longer it gets.

A token that leaves early says something else than the full model now and
then (a wrong token), and what stands in for the keys and values of blocks it
skipped misleads the tokens after it (wrong keys and values). Four ways to
generate tell the two apart:

  full        nothing leaves early
  exact       a gate decides, keys and values are exact: wrong tokens alone
  strategy    a gate decides, stand-ins are written: both
  oracle      an oracle decides (`stable`: it leaves only where the exit says
              what the full model goes on to say), stand-ins are written:
              wrong keys and values alone. With exact ones it would emit the
              full model's text.

Each text is compared with the full model's from the same prompt, token by
token: where it first differs, and how many tokens are the same in each
stretch of the generated text. After the first difference the texts differ in
what they say, so agreement is of the prefix: a token counts where no token
up to it differs.

Reference:
  Schuster et al. (2022), Confident Adaptive Language Modeling (arXiv
  2207.07061); its code has the same switches, for the oracle's tokens and for
  propagated keys and values (google-research/t5x, contrib/calm/models.py).
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np

from eejax.config import EarlyExitConfig
from eejax.decoding.batching import Batching
from eejax.decoding.generate import generate
from eejax.decoding.policy import KVStrategy, Mode, Policy
from eejax.decoding.prepare import Prepared, prepare
from eejax.errors import ArgumentError
from eejax.ops.bootstrap import DEFAULT, Bootstrap, Interval, ratio_interval
from eejax.types import Bool, Params

ORACLE = 'stable'


class Decider(enum.Enum):
  """Who decides to leave: a gate, or an oracle that is never wrong."""

  GATE = 'gate'
  ORACLE = 'oracle'


@dataclasses.dataclass(frozen=True)
class Stretch:
  """Hold the agreement of one stretch of generated text.

  Attributes:
    begin: first token of it, counted from 0.
    end: one beyond its last token.
    agreement: share of tokens up to which nothing differs.
    same: share of tokens that are the same, whatever stands before.
    tokens: how many there are.
  """

  begin: int
  end: int
  agreement: Interval
  same: Interval
  tokens: int


@dataclasses.dataclass(frozen=True)
class Damage:
  """Hold what one way to generate does to text.

  Attributes:
    strategy: what stands in for keys and values.
    decider: who decides to leave.
    stretches: agreement by generated length.
    unharmed: share of prompts whose text is the full model's to the end.
    divergence: mean number of tokens before the first difference; the
      length of the text where there is none.
    skip: share of blocks that tokens skipped when they were emitted.
  """

  strategy: KVStrategy
  decider: Decider
  stretches: tuple[Stretch, ...]
  unharmed: Interval
  divergence: Interval
  skip: Interval


@dataclasses.dataclass(frozen=True)
class KVDamage:
  """Hold the damage of several strategies on the same prompts.

  Attributes:
    wrong_tokens: of the gate with exact keys and values.
    by_strategy: of the gate with each strategy, both kinds of error.
    wrong_keys_and_values: of the oracle with each strategy.
    new_tokens: tokens generated of each prompt at most.
  """

  wrong_tokens: Damage
  by_strategy: Mapping[KVStrategy, Damage]
  wrong_keys_and_values: Mapping[KVStrategy, Damage]
  new_tokens: int


def kv_damage(
  params: Params | Prepared,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Sequence[int]],
  policy: Policy,
  strategies: Sequence[KVStrategy] = (
    KVStrategy.PROPAGATE,
    KVStrategy.COPY,
    KVStrategy.MASK,
  ),
  new_tokens: int = 128,
  stretch: int = 32,
  bootstrap: Bootstrap = DEFAULT,
) -> KVDamage:
  """Generate with each strategy and compare with the full model.

  Args:
    params: the model.
    config: the model with its exits.
    prompts: token ids; each is a row of the bootstrap.
    policy: a gate and its thresholds, `EARLY_EXIT`; its strategy is replaced.
    strategies: to be compared.
    new_tokens: tokens generated of each prompt at most.
    stretch: tokens of each stretch of generated text.
    bootstrap: how intervals are made, over prompts.

  Raises:
    ArgumentError: the policy does not exit early, or a number is not positive.
  """
  if policy.mode is not Mode.EARLY_EXIT:
    raise ArgumentError(
      f'damage is that of early exits, and the policy has mode '
      f'{policy.mode.value}; give one with mode early_exit.'
    )
  if new_tokens < 1 or stretch < 1:
    raise ArgumentError('new_tokens and stretch must be at least 1.')
  if not isinstance(params, Prepared):
    params = prepare(params, config=config)
  asked = dataclasses.replace(
    policy, kv_strategy=KVStrategy.DEFERRED, batching=Batching.RIDE_ALONG
  )
  oracle = dataclasses.replace(
    asked,
    criterion=ORACLE,
    thresholds=(1.0,),
    batching=Batching.REFERENCE,
    threshold_rule='constant',
    scored_vocabulary='whole',
  )
  run = lambda policy: generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=new_tokens,
    # A text that ends early would be short of what it is compared with.
    eos_ids=(),
  )
  full = _tokens(run(Policy()))

  def damage(policy: Policy, decider: Decider, strategy: KVStrategy) -> Damage:
    result = run(dataclasses.replace(policy, kv_strategy=strategy))
    depth = [np.array(r.exit_depths) for r in result.rows]
    return compare_texts(
      _tokens(result),
      full,
      depths=depth,
      num_layers=config.model.num_layers,
      strategy=strategy,
      decider=decider,
      stretch=stretch,
      bootstrap=bootstrap,
    )

  return KVDamage(
    wrong_tokens=damage(asked, Decider.GATE, KVStrategy.DEFERRED),
    by_strategy={s: damage(asked, Decider.GATE, s) for s in strategies},
    wrong_keys_and_values={
      s: damage(oracle, Decider.ORACLE, s) for s in strategies
    },
    new_tokens=new_tokens,
  )


def compare_texts(
  texts: Sequence[Sequence[int]],
  full: Sequence[Sequence[int]],
  *,
  depths: Sequence[np.ndarray],
  num_layers: int,
  strategy: KVStrategy,
  decider: Decider,
  stretch: int,
  bootstrap: Bootstrap = DEFAULT,
) -> Damage:
  """Compare generated texts with the full model's, prompt by prompt.

  Args:
    texts: tokens generated of each prompt.
    full: those of the full model, as many.
    depths: at which each token of `texts` was emitted.
    num_layers: L.
    strategy: how `texts` came about.
    decider: likewise.
    stretch: tokens of each stretch.
    bootstrap: how intervals are made, over prompts.
  """
  length = max(map(len, full))
  same = np.zeros((len(full), length), bool)
  there = np.zeros((len(full), length), bool)
  for row, (ours, theirs) in enumerate(zip(texts, full, strict=True)):
    both = min(len(ours), len(theirs))
    there[row, : len(theirs)] = True
    same[row, :both] = np.array(ours[:both]) == np.array(theirs[:both])
  prefix = np.logical_and.accumulate(same | ~there, axis=1) & there
  count = there.sum(axis=1)
  ones = np.ones(len(full))
  ratio = lambda sums, counts: ratio_interval(sums, counts, bootstrap=bootstrap)
  skipped = np.array([(1 - d / max(num_layers, 1)).sum() for d in depths])
  return Damage(
    strategy=strategy,
    decider=decider,
    stretches=tuple(_stretches(prefix, same & there, there, stretch, ratio)),
    unharmed=ratio((prefix.sum(axis=1) == count).astype(float), ones),
    divergence=ratio(prefix.sum(axis=1), ones),
    skip=ratio(skipped, np.array([len(d) for d in depths])),
  )


def _stretches(
  prefix: Bool[np.ndarray, 'rows T'],
  same: Bool[np.ndarray, 'rows T'],
  there: Bool[np.ndarray, 'rows T'],
  stretch: int,
  ratio,
):
  length = there.shape[1]
  for begin in range(0, length, stretch):
    inside = np.s_[:, begin : begin + stretch]
    count = there[inside].sum(axis=1)
    if not count.any():
      return
    yield Stretch(
      begin=begin,
      end=min(begin + stretch, length),
      agreement=ratio(prefix[inside].sum(axis=1), count),
      same=ratio(same[inside].sum(axis=1), count),
      tokens=int(count.sum()),
    )


def _tokens(result) -> list[tuple[int, ...]]:
  return [r.tokens for r in result.rows]
