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
"""A slow, obvious decoder: what every mode of the real one must equal.

Where keys and values are exact it keeps nothing from token to token: each
token runs the whole text through the whole model. Where something stands in
for them, `eejax.testing.reference_cache` keeps them, token by token. Either
way every head is computed first, and only then is asked which exit would have
been taken.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig, ExitConfig, GateKind
from eejax.models import decoder
from eejax.models.block import Block, BlockOutput
from eejax.models.exits import gate_logit
from eejax.models.patterns import positions_of
from eejax.testing.reference_cache import ApproximateKV, KeptText
from eejax.testing.reference_readout import HeadReadout
from eejax.testing.reference_thresholds import ConstantThresholds, Thresholds
from eejax.types import Array, Float, Int, Params

__all__ = [
  'Judge',
  'ReferencePolicy',
  'ReferenceText',
  'Score',
  'HeadReadout',
  'ApproximateKV',
  'reference_batch',
  'reference_generate',
]

# `(logits, gate_logit) -> score`; the gate's logit is NaN where there is none.
Score = Callable[[np.ndarray, float], float]

# `(readouts, index) -> score`; readouts of the exits in use, the final head's
# last, of which none looks beyond `index`.
Judge = Callable[[Sequence[HeadReadout], int], float]

# `(initial thresholds, start, limit) -> rule`: where the text's last prompt
# token stands, and how many tokens it may get.
MakeThresholds = Callable[[Sequence[float | None], int, int], Thresholds]


@dataclasses.dataclass(frozen=True)
class ReferencePolicy:
  """Rule by which a row exits.

  Attributes:
    judge: says how safe an exit is; None decodes at full depth.
    thresholds: one an exit of the model, None for never; exit iff score >=
      threshold. At 0 the model ends.
    window: every `window`-th token at the latest goes to full depth, where
      keys and values are exact.
    approximate_kv: what is put in place of keys and values of skipped blocks.
    make_thresholds: how thresholds change; by default they do not.
  """

  judge: Judge | None = None
  thresholds: Sequence[float | None] = ()
  window: int = 8
  approximate_kv: ApproximateKV = ApproximateKV.NOTHING
  make_thresholds: MakeThresholds = ConstantThresholds

  def exits_in_use(
    self, config: EarlyExitConfig
  ) -> tuple[tuple[ExitConfig, float | None], ...]:
    """Return the exits that are asked, and their thresholds.

    Where some may be taken, those that never are do not count; and none does
    beyond one that is always taken.
    """
    if self.judge is None:
      return ()
    pairs = tuple(zip(config.exits, self.thresholds, strict=True))
    used = tuple(p for p in pairs if p[1] is not None) or pairs
    ends = [i for i, (_, threshold) in enumerate(used) if threshold == 0]
    return used[: ends[0] + 1] if ends else used


@dataclasses.dataclass
class ReferenceText:
  """Text that the reference generated for one prompt.

  Attributes:
    tokens: the tokens.
    exit_depths: depth each was emitted at.
    scores: score at the exit each came from; None from the final head.
    logprobs: log-probability of each under the head that emitted it.
  """

  tokens: list[int] = dataclasses.field(default_factory=list)
  exit_depths: list[int] = dataclasses.field(default_factory=list)
  scores: list[float | None] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)


def reference_generate(
  params: Params,
  *,
  config: EarlyExitConfig,
  prompt: Sequence[int],
  num_tokens: int,
  score: Score | None = None,
  thresholds: Sequence[float | None] = (),
  window: int = 8,
) -> ReferenceText:
  """Continue a prompt greedily, with exact keys and values.

  Args:
    params: the model, blocks stacked.
    config: its configuration.
    prompt: token ids, at least one.
    num_tokens: how many to generate.
    score: says how safe an exit is; None decodes at full depth.
    thresholds: one an exit, None for never; exit iff score >= threshold.
    window: every `window`-th token at the latest goes to full depth.
  """
  judge: Judge | None = None
  if score is not None:
    judge = lambda readouts, i: score(
      readouts[i].logits, readouts[i].gate_logit
    )
  policy = ReferencePolicy(judge, thresholds, window)
  return reference_batch(
    params,
    config=config,
    prompts=[prompt],
    num_tokens=num_tokens,
    policy=policy,
  )[0]


def reference_batch(
  params: Params,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Sequence[int]],
  num_tokens: int,
  policy: ReferencePolicy,
) -> list[ReferenceText]:
  """Continue prompts greedily, token by token.

  Args:
    params: the model, blocks stacked.
    config: its configuration.
    prompts: token ids, at least one each.
    num_tokens: how many to generate for each.
    policy: when rows exit.
  """
  rows = [_Row(params, config, policy, p, num_tokens) for p in prompts]
  for _ in range(num_tokens):
    for row in rows:
      row.step()
  return [row.result for row in rows]


class _Text(Protocol):
  """What a text can do, whether it keeps keys and values or not."""

  tokens: list[int]

  def read_heads(self) -> list[HeadReadout]:
    """Return what every head says of the newest token, the final one last."""

  def exit_at(self, depth: int) -> None:
    """Forget what blocks beyond `depth` computed for the newest token."""


class _Row:
  """Decide for one row of a batch."""

  def __init__(
    self,
    params: Params,
    config: EarlyExitConfig,
    policy: ReferencePolicy,
    prompt: Sequence[int],
    num_tokens: int,
  ):
    self._policy, self._used = policy, policy.exits_in_use(config)
    self._num_layers = config.model.num_layers
    self._is_exact = policy.approximate_kv is ApproximateKV.NOTHING
    self._text: _Text
    if self._is_exact:
      self._text = _WholeText(params, config, prompt)
    else:
      self._text = KeptText(
        params,
        config=config,
        prompt=prompt,
        approximate_kv=policy.approximate_kv,
      )
    self._thresholds = policy.make_thresholds(
      [t for _, t in self._used], len(prompt) - 1, num_tokens
    )
    self._since_full, self._deepest = 0, len(self._used)
    self.result = ReferenceText()

  def step(self) -> None:
    """Emit the token of the first head at which the row exits."""
    self._exit_at([*self._exit_mask(), True].index(True))

  def _exit_mask(self) -> list[bool]:
    """Return at which exits the row would exit."""
    wanted = {exit.depth for exit, _ in self._used}
    *readouts, final = self._text.read_heads()
    self._readouts = [s for s in readouts if s.depth in wanted] + [final]
    judge, position = self._policy.judge, len(self._text.tokens) - 1
    self._scores: list[float] = []
    if judge is not None:
      self._scores = [judge(self._readouts, i) for i in range(len(self._used))]
    self._is_observed = self._thresholds.observes(position)
    thresholds = self._thresholds.at(position)
    return [self._exits(i, thresholds[i]) for i in range(len(self._used))]

  def _exits(self, index: int, threshold: float | None) -> bool:
    if threshold == 0:
      return True
    is_forced = self._is_exact and self._since_full + 1 >= self._policy.window
    if is_forced or self._is_observed:
      return False
    if (
      self._policy.approximate_kv is ApproximateKV.MONOTONE
      and index == self._deepest
    ):
      return True
    return threshold is not None and self._scores[index] >= threshold

  def _exit_at(self, index: int) -> None:
    """Emit the token of the head at `index`; the last one is the final."""
    readout = self._readouts[index]
    token = int(np.argmax(readout.logits))
    if self._is_observed:
      heads = self._readouts[: len(self._used)]
      agreed = [int(np.argmax(s.logits)) == token for s in heads]
      self._thresholds.learn(self._scores, agreed)
    self._text.exit_at(readout.depth)
    self._text.tokens.append(token)
    leaves_at_exit = index < len(self._used) and self._used[index][1] != 0
    # An exit behind the last block leaves nothing to catch up.
    is_early = leaves_at_exit and readout.depth < self._num_layers
    self._since_full = self._since_full + 1 if is_early else 0
    self._deepest = index
    self.result.tokens.append(token)
    self.result.exit_depths.append(readout.depth)
    self.result.scores.append(
      self._scores[index] if index < len(self._used) else None
    )
    self.result.logprobs.append(
      float(jax.nn.log_softmax(readout.logits)[token])
    )


class _WholeText:
  """Run the whole text through the whole model for every token."""

  def __init__(
    self, params: Params, config: EarlyExitConfig, prompt: Sequence[int]
  ):
    self._params, self._config = params, config
    self.tokens = list(prompt)

  def read_heads(self) -> list[HeadReadout]:
    # One length, so that one program is compiled; causal attention does not
    # see what is behind.
    tokens = np.zeros((1, self._config.model.max_length), np.int32)
    tokens[0, : len(self.tokens)] = self.tokens
    newest = len(self.tokens) - 1
    logits, gates, streams = _run(
      self._params, jnp.asarray(tokens), config=self._config
    )
    at = lambda x: np.asarray(x)[0, newest]
    readouts = [
      HeadReadout(
        depth=e.depth,
        logits=at(logits[e.name]),
        gate_logit=float(at(gates[e.name])) if e.name in gates else math.nan,
        stream=at(streams[e.depth]),
        position=newest,
      )
      for e in self._config.exits
    ]
    depth = self._config.model.num_layers
    stream = at(streams[depth])
    final = HeadReadout(depth, at(logits['final']), math.nan, stream, newest)
    return [*readouts, final]

  def exit_at(self, depth: int) -> None:
    del depth  # There is nothing to forget.


@functools.partial(jax.jit, static_argnames='config')
def _run(
  params: Params, tokens: Int[Array, 'B T'], *, config: EarlyExitConfig
) -> tuple[
  dict[str, Float[Array, 'B T V']],
  dict[str, Float[Array, 'B T']],
  list[Float[Array, 'B T D']],
]:
  """Return logits of every head, of every gate, and the stream by depth."""
  backbone, model = params['backbone'], config.model
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  embedded = decoder.embed(
    backbone, tokens, positions=positions, config=model, dtype=jnp.float32
  )
  streams = [embedded]
  for number in range(model.num_layers):
    block = jax.tree.map(lambda leaf, n=number: leaf[n], backbone['blocks'])
    output = Block(model).apply(
      {'params': block},
      streams[-1],
      positions=positions_of(positions, block=number, config=model),
      window=model.window_of(number),
    )
    streams.append(cast(BlockOutput, output).hidden)
  gates = {
    e.name: gate_logit(
      params['exits'][e.name], streams[e.depth], exit=e, config=model
    )
    for e in config.exits
    if e.gate is not GateKind.NONE
  }
  return decoder.logits(params, tokens, config=config), gates, streams
