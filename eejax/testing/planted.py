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
"""Models whose every reading is known in closed form.

A planted model looks each token up and nothing else. Its residual stream is
one of two unit vectors that belong to the token: one means *a guess*, the
other *the answer*. Which of them it is at each depth is planted, token by
token; blocks swap the one for the other through their MLP, or through their
attention, which then must see the token alone (one token a segment).

The output matrix turns a vector into logits that are a constant at one token
and 0 elsewhere, so a reading has confidence c there and (1 - c) / (V - 1)
everywhere else, and every entropy, divergence and cosine is a formula in
c and V: `expected` gives them all.

  # Exits at known depths.
  plan = PlantedPlan.settling([0, 2, 3], num_layers=3, ...)
  # One decisive block.
  plan = PlantedPlan.settling([4] * 11, num_layers=4, ...)
  config, params = plan.config, planted_params(plan)
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  GateKind,
  ModelConfig,
)
from eejax.data.batch import Batch
from eejax.errors import ArgumentError
from eejax.types import Bool, Float, Int, Params

# A gate so wide open that silu(20) differs from 20 by less than float32 shows.
_WIDE_OPEN = 20.0


@dataclasses.dataclass(frozen=True)
class PlantedPlan:
  """Say what a planted model thinks of each token at each depth.

  Attributes:
    settled: [V, L + 1], whether a token's stream holds the answer there.
    answers: the full model's token after each token, where it is settled at
      depth L; V of them.
    guesses: what is read instead, another token.
    answer_confidence: probability of the answer where the stream holds it,
      in (1 / V, 1).
    guess_confidence: probability of the guess where it holds that.
    attention_blocks: numbers of blocks, from 1, that swap in their attention.
    exits: trained exits, each a norm exit equal to the natural one, with a
      gate that tells guess from answer.
    gate_logit: of a stream that holds an answer; its negative for a guess.
  """

  settled: tuple[tuple[bool, ...], ...]
  answers: tuple[int, ...]
  guesses: tuple[int, ...]
  answer_confidence: float = 0.9
  guess_confidence: float = 0.5
  attention_blocks: tuple[int, ...] = ()
  exits: tuple[int, ...] = ()
  gate_logit: float = 1.5

  def __post_init__(self):
    vocabulary = len(self.settled)
    if not len(self.answers) == len(self.guesses) == vocabulary:
      raise ArgumentError('a plan needs an answer and a guess a token.')
    if any(a == g for a, g in zip(self.answers, self.guesses, strict=True)):
      raise ArgumentError('a guess must differ from the answer.')
    for c in (self.answer_confidence, self.guess_confidence):
      if not 1 / vocabulary < c < 1:
        raise ArgumentError(
          f'a confidence must lie between 1 / {vocabulary} and 1, not {c}.'
        )

  @classmethod
  def settling(
    cls, depths: Sequence[int], *, num_layers: int, **fields
  ) -> 'PlantedPlan':
    """Return a plan in which each token holds its answer from a depth on.

    Args:
      depths: one a token of the vocabulary, 0 to `num_layers`.
      num_layers: L.
      **fields: of the plan, to be set otherwise.
    """
    vocabulary = len(depths)
    token = np.arange(vocabulary)
    values = {
      'settled': tuple(
        tuple(d <= depth for depth in range(num_layers + 1)) for d in depths
      ),
      'answers': tuple(((token + 1) % vocabulary).tolist()),
      'guesses': tuple(((token + 2) % vocabulary).tolist()),
    }
    return cls(**{**values, **fields})

  @property
  def vocab_size(self) -> int:
    """Return V."""
    return len(self.settled)

  @property
  def num_layers(self) -> int:
    """Return L."""
    return len(self.settled[0]) - 1

  @property
  def config(self) -> EarlyExitConfig:
    """Return the configuration of the planted model."""
    vocabulary = self.vocab_size
    model = ModelConfig(
      vocab_size=vocabulary,
      num_layers=self.num_layers,
      embed_dim=2 * vocabulary,
      num_heads=1,
      num_kv_heads=1,
      head_dim=2 * vocabulary,
      mlp_dim=2 * vocabulary,
      max_length=256,
      norm_epsilon=1e-12,
    )
    exits = tuple(ExitConfig(d, gate=GateKind.LINEAR) for d in self.exits)
    return EarlyExitConfig(model, exits)

  def holds_answer(self, depth: float) -> Bool[np.ndarray, 'V']:
    """Return of which tokens the stream holds the answer at a depth.

    At half depths attention alone of the next block ran.
    """
    settled = np.array(self.settled)
    below, block = int(np.floor(depth)), int(np.ceil(depth))
    if block == below or block in self.attention_blocks:
      return settled[:, block]
    return settled[:, below]


def logit_height(confidence: float, vocab_size: int) -> float:
  """Return the logit above zeros that gives a token such a probability.

  log(c (V - 1) / (1 - c)).
  """
  return float(np.log(confidence * (vocab_size - 1) / (1 - confidence)))


def planted_params(plan: PlantedPlan) -> Params:
  """Return the parameters of a planted model, blocks stacked."""
  vocabulary, layers = plan.vocab_size, plan.num_layers
  width = 2 * vocabulary  # dimension v is the guess of v, V + v its answer
  unit = np.sqrt(width)  # what a unit vector's entry is after the norm
  settled = np.array(plan.settled)
  zeros = lambda *shape: np.zeros((layers, *shape), np.float32)
  attention = {
    'query': zeros(width, 1, width),
    'key': zeros(width, 1, width),
    'value': zeros(width, 1, width),
    'output': zeros(1, width, width),
  }
  mlp = {
    'gate': zeros(width, width),
    'up': zeros(width, width),
    'down': zeros(width, width),
  }
  for block in range(1, layers + 1):
    for token in np.flatnonzero(settled[:, block] != settled[:, block - 1]):
      answered = settled[token, block]
      old = token if answered else vocabulary + token
      new = vocabulary + token if answered else token
      if block in plan.attention_blocks:
        attention['value'][block - 1, old, 0, token] = 1 / unit
        swap, size = attention['output'][block - 1, 0, token], 1.0
      else:
        mlp['gate'][block - 1, old, token] = _WIDE_OPEN / unit
        mlp['up'][block - 1, old, token] = 1 / unit
        swap, size = mlp['down'][block - 1, token], 1 / _WIDE_OPEN
      swap[new], swap[old] = size, -size
  table = np.zeros((vocabulary, width), np.float32)
  every = np.arange(vocabulary)
  table[every, every + vocabulary * settled[:, 0]] = 1
  ones = np.ones(width, np.float32)
  kernel_of = lambda arrays: {n: {'kernel': a} for n, a in arrays.items()}
  backbone = {
    'embedding': {'table': table},
    'blocks': {
      'attention_norm': {'scale': np.tile(ones, (layers, 1))},
      'attention': kernel_of(attention),
      'mlp_norm': {'scale': np.tile(ones, (layers, 1))},
      'mlp': kernel_of(mlp),
    },
    'final_norm': {'scale': ones},
    'head': {'kernel': _output_matrix(plan) / unit},
  }
  exits = {e.name: _exit(plan, ones, unit) for e in plan.config.exits}
  to_device = lambda x: jnp.asarray(x, jnp.float32)
  return jax.tree.map(to_device, {'backbone': backbone, 'exits': exits})


def _output_matrix(plan: PlantedPlan) -> Float[np.ndarray, 'D V']:
  vocabulary = plan.vocab_size
  token = np.arange(vocabulary)
  matrix = np.zeros((2 * vocabulary, vocabulary), np.float32)
  height = lambda c: logit_height(c, vocabulary)
  matrix[token, plan.guesses] = height(plan.guess_confidence)
  matrix[vocabulary + token, plan.answers] = height(plan.answer_confidence)
  return matrix


def _exit(plan: PlantedPlan, ones: np.ndarray, unit: float) -> Params:
  sign = np.repeat([-1.0, 1.0], plan.vocab_size)[:, None]
  kernel = (plan.gate_logit * sign / unit).astype(np.float32)
  gate = {
    'norm': {'scale': ones},
    'output': {'kernel': kernel, 'bias': np.zeros(1, np.float32)},
  }
  return {'norm': {'scale': ones}, 'gate': gate}


def idle_from(params: Params, depth: int) -> Params:
  """Return a model whose blocks above a depth change nothing.

  Any model will do: what its upper blocks would add to the stream is 0, so
  every read-out from `depth` on is the full model's.
  """
  blocks = params['backbone']['blocks']

  def silence(projection: Params) -> Params:
    return {k: v.at[depth:].set(0.0) for k, v in projection.items()}

  attention, mlp = dict(blocks['attention']), dict(blocks['mlp'])
  attention['output'] = silence(attention['output'])
  mlp['down'] = silence(mlp['down'])
  blocks = {**blocks, 'attention': attention, 'mlp': mlp}
  return {**params, 'backbone': {**params['backbone'], 'blocks': blocks}}


# MARK: Text


def token_batch(
  tokens: Int[np.ndarray, 'B T'], targets: Int[np.ndarray, 'B T']
) -> Batch:
  """Return a batch in which every token is a text of its own.

  So no token attends to another, as attention that swaps needs.
  """
  segments = np.arange(1, tokens.shape[1] + 1, dtype=np.int32)
  return Batch(
    tokens=tokens.astype(np.int32),
    targets=targets.astype(np.int32),
    weights=np.ones(tokens.shape, np.float32),
    positions=np.zeros(tokens.shape, np.int32),
    segment_ids=np.broadcast_to(segments, tokens.shape).copy(),
  )


# MARK: Closed forms


def expected(
  plan: PlantedPlan,
  tokens: Int[np.ndarray, 'N'],
  targets: Int[np.ndarray, 'N'],
  *,
  depths: Sequence[float],
  previous: Sequence[int | None],
) -> Mapping[str, np.ndarray]:
  """Return what a capture of a planted model holds, in closed form.

  Args:
    plan: of the model.
    tokens: inputs.
    targets: tokens that follow.
    depths: of the read-outs; the last is the full model's.
    previous: which read-out each is compared with, None for none.
  """
  holds = np.stack([plan.holds_answer(d)[tokens] for d in depths])  # [R, N]
  confidence = np.where(holds, plan.answer_confidence, plan.guess_confidence)
  says = np.where(
    holds, np.array(plan.answers)[tokens], np.array(plan.guesses)[tokens]
  )
  two = _TwoLevels(confidence, says, plan.vocab_size)
  last = two.at(-1)
  nothing = np.full(confidence.shape[1], np.nan)
  before = [None if i is None else two.at(i) for i in previous]
  at_previous = lambda function: np.stack(
    [
      nothing if b is None else function(two.at(r), b)
      for r, b in enumerate(before)
    ]
  )
  # The two vectors of a token are orthogonal.
  same = lambda a, b: (a.says == b.says).astype(float)
  gate = np.where(holds, 1, -1) * plan.gate_logit
  return {
    'top1': says,
    'top1_log_prob': np.log(confidence),
    'loss': -two.log_prob(targets),
    'entropy': two.entropy(),
    'kl_final': _TwoLevels.divergence(last, two),
    'js_final': _TwoLevels.jensen_shannon(two, last),
    'logit_cosine': _TwoLevels.cosine(two, last),
    'hidden_cosine': same(two, last),
    'js_previous': at_previous(_TwoLevels.jensen_shannon),
    'hidden_cosine_previous': at_previous(same),
    'gate_score': 1 / (1 + np.exp(-gate)),
  }


@dataclasses.dataclass(frozen=True)
class _TwoLevels:
  """Distributions with probability c at one token and equal ones elsewhere."""

  confidence: np.ndarray
  says: np.ndarray
  size: int

  def at(self, index: int) -> '_TwoLevels':
    return _TwoLevels(self.confidence[index], self.says[index], self.size)

  @property
  def rest(self) -> np.ndarray:
    return (1 - self.confidence) / (self.size - 1)

  def log_prob(self, tokens: np.ndarray) -> np.ndarray:
    at = self.says == tokens
    return np.log(np.where(at, self.confidence, self.rest))

  def entropy(self) -> np.ndarray:
    c, r = self.confidence, self.rest
    return -c * np.log(c) - (self.size - 1) * r * np.log(r)

  @staticmethod
  def divergence(p: '_TwoLevels', q: '_TwoLevels') -> np.ndarray:
    """Return KL(p || q)."""
    part = lambda a, b: a * np.log(a / b)
    same = part(p.confidence, q.confidence) + (p.size - 1) * part(
      p.rest, q.rest
    )
    other = (
      part(p.confidence, q.rest)
      + part(p.rest, q.confidence)
      + (p.size - 2) * part(p.rest, q.rest)
    )
    return np.where(p.says == q.says, same, other)

  @staticmethod
  def jensen_shannon(p: '_TwoLevels', q: '_TwoLevels') -> np.ndarray:
    """Return JS(p, q)."""

    def half(a, b):
      return a * np.log(2 * a / (a + b)) / 2

    both = lambda a, b: half(a, b) + half(b, a)
    same = both(p.confidence, q.confidence) + (p.size - 1) * both(
      p.rest, q.rest
    )
    other = (
      both(p.confidence, q.rest)
      + both(p.rest, q.confidence)
      + (p.size - 2) * both(p.rest, q.rest)
    )
    return np.where(p.says == q.says, same, other)

  @staticmethod
  def cosine(p: '_TwoLevels', q: '_TwoLevels') -> np.ndarray:
    """Return the cosine of logits less their means: 1, or -1 / (V - 1)."""
    return np.where(p.says == q.says, 1.0, -1 / (p.size - 1))
