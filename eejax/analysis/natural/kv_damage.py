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
skipped misleads the tokens after it (wrong keys and values). Four ways tell
the two apart:

  full        nothing leaves early
  exact       a gate decides, keys and values are exact: wrong tokens alone
  strategy    a gate decides, stand-ins are written: both
  oracle      tokens leave at their stable depth (over the exits, along the
              full model's text), stand-ins are written, and the full model
              speaks: wrong keys and values alone, for with exact ones it
              would say its own text

Each text is compared with the full model's from the same prompt, token by
token: where it first differs, and how many tokens are the same in each
stretch of the generated text. Texts that a gate made go their own way after
the first difference, so agreement is of the prefix: a token counts where no
token up to it differs. The oracle's way is along the full model's text, so
there `same` is of tokens with the same words before them.

Reference:
  Schuster et al. (2022), Confident Adaptive Language Modeling (arXiv
  2207.07061); its code has the same switches, for the oracle's tokens and for
  propagated keys and values (google-research/t5x, contrib/calm/models.py).
"""

import dataclasses
import enum
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from eejax.analysis.natural.depths import Ceiling, depths
from eejax.analysis.natural.kv_forward import check_strategy, likeliest_tokens
from eejax.capture.capture import capture
from eejax.capture.captured import ReadoutKind
from eejax.capture.generated_text import generated_batch
from eejax.capture.settings import CaptureConfig
from eejax.config import EarlyExitConfig
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.parallel import sharding
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval, ratio_interval
from eejax.types import Bool, Params


class Decider(enum.Enum):
  """Who decides to leave: a gate, or the oracle of the stable depth."""

  GATE = 'gate'
  ORACLE = 'oracle'


@dataclasses.dataclass(frozen=True)
class Stretch:
  """Agreement of one stretch of generated text.

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
  """Damage of one way to generate.

  Attributes:
    strategy: what stands in for keys and values.
    decider: who decides to leave.
    stretches: agreement by generated length.
    unharmed: share of prompts whose text is the full model's to the end.
    divergence: mean number of tokens before the first difference; the
      length of the text where there is none.
    skip: share of blocks that tokens skipped where they left.
  """

  strategy: KVStrategy
  decider: Decider
  stretches: tuple[Stretch, ...]
  unharmed: Interval
  divergence: Interval
  skip: Interval


@dataclasses.dataclass(frozen=True)
class KVDamage:
  """Damage of several strategies on the same prompts.

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
  params: Params,
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
  dtype: str = 'float32',
  bootstrap: Bootstrap = DEFAULT,
) -> KVDamage:
  """Compare what each strategy makes of a text with the full model's.

  Args:
    params: the whole tree, blocks stacked.
    config: the model with its exits.
    prompts: token ids; each is a row of the bootstrap.
    policy: a gate and its thresholds, `EARLY_EXIT`; its strategy is replaced.
    strategies: to be compared.
    new_tokens: tokens generated of each prompt at most.
    stretch: tokens of each stretch of generated text.
    dtype: compute type.
    bootstrap: how intervals are made, over prompts.

  Raises:
    ArgumentError: the policy does not exit early, or a number is not positive.
  """
  _check(policy, new_tokens=new_tokens, stretch=stretch)
  for strategy in strategies:
    check_strategy(strategy, shallowest=min(config.exit_depths, default=0))
  prepared = prepare(params, config=config, dtype=dtype)
  run = lambda policy: generate(
    prepared,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=new_tokens,
    # A text that ends early would be short of what it is compared with.
    eos_ids=(),
  )
  full = [(r.prompt_tokens, r.tokens) for r in run(Policy()).rows]
  compare = functools.partial(
    compare_texts,
    full=[tokens for _, tokens in full],
    num_layers=config.model.num_layers,
    stretch=stretch,
    bootstrap=bootstrap,
  )

  def by_gate(strategy: KVStrategy) -> Damage:
    result = run(dataclasses.replace(policy, kv_strategy=strategy))
    return compare(
      [r.tokens for r in result.rows],
      depths=[np.array(r.exit_depths) for r in result.rows],
      strategy=strategy,
      decider=Decider.GATE,
    )

  stable_exits = _StableExits(params, config, full, dtype)
  return KVDamage(
    wrong_tokens=by_gate(KVStrategy.DEFERRED),
    by_strategy={s: by_gate(s) for s in strategies},
    wrong_keys_and_values={
      s: compare(
        stable_exits.predictions(s),
        depths=stable_exits.depths(),
        strategy=s,
        decider=Decider.ORACLE,
      )
      for s in strategies
    },
    new_tokens=new_tokens,
  )


def _check(policy: Policy, *, new_tokens: int, stretch: int) -> None:
  if policy.mode is not Mode.EARLY_EXIT:
    raise ArgumentError(
      f'damage is that of early exits, and the policy has mode '
      f'{policy.mode.value}; give one with mode early_exit.'
    )
  if new_tokens < 1 or stretch < 1:
    raise ArgumentError('new_tokens and stretch must be at least 1.')


class _StableExits:
  """Tokens that exit at their stable depth along the full model's text."""

  def __init__(
    self,
    params: Params,
    config: EarlyExitConfig,
    full: Sequence[tuple[Sequence[int], Sequence[int]]],
    dtype: str,
  ):
    self._params, self._model, self._dtype = params, config.model, dtype
    length = max(len(prompt) + len(tokens) for prompt, tokens in full) - 1
    self._batch = generated_batch(full, rows=len(full), length=length)
    captured = capture(
      params,
      [self._batch],
      config=config,
      settings=CaptureConfig(
        kinds=(ReadoutKind.EXIT,),
        depths=(),
        fields=('top_tokens',),
        num_candidates=1,
        dtype=dtype,
      ),
    )
    left = np.full(self._batch.tokens.shape, config.model.num_layers)
    left[captured.row, captured.position] = depths(
      captured.only(ReadoutKind.EXIT), Ceiling.STABLE
    )
    self._left = left.astype(np.int32)

  def predictions(self, strategy: KVStrategy) -> list[list[int]]:
    """Return the prediction of the full model at each generated position."""
    top1 = sharding.call_where_it_lies(
      likeliest_tokens,
      self._params,
      self._batch.as_dict(),
      self._left,
      config=self._model,
      strategy=strategy,
      dtype=self._dtype,
    )
    return [r.tolist() for r in self._rows(sharding.fetch(top1))]

  def depths(self) -> list[np.ndarray]:
    """Return where each generated position leaves."""
    return self._rows(self._left)

  def _rows(self, values: np.ndarray) -> list[np.ndarray]:
    counted = self._batch.weights > 0
    return [v[c] for v, c in zip(values, counted, strict=True)]


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
    texts: tokens of each prompt, as said in this way.
    full: those of the full model, as many.
    depths: at which each token of `texts` left.
    num_layers: L.
    strategy: what stood in for keys and values.
    decider: who decided to leave.
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
