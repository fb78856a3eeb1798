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
"""A tiny model whose texts are varied enough to tell mistakes apart."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.config import EarlyExitConfig
from eejax.decoding import window_costs
from eejax.decoding.loop import programs
from eejax.decoding.loop.cache import BatchSettings
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.batching import CPU
from eejax.decoding.policy.criteria import Evidence, get_criterion
from eejax.decoding.policy.policy import Mode
from eejax.decoding.policy.thresholds import (
  Adaptive,
  Decaying,
  parse_threshold_rule,
)
from eejax.ops.sampling import SamplingConfig, row_sampling
from eejax.testing import reference_thresholds, tiny
from eejax.testing.reference_decoder import (
  ApproximateKV,
  ReferencePolicy,
  reference_batch,
)
from eejax.types import Params


def make_lively(config: EarlyExitConfig, seed: int = 0) -> Params:
  """Return parameters whose greedy texts do not repeat one token.

  Matrices are larger than a fresh model's, so attention is sharp, heads
  disagree and scores spread over their range.
  """
  params = tiny.tiny_params(config, seed=seed)

  def enlarge(path, leaf):
    names = [p.key for p in path]
    if names[-1] == 'table':
      return leaf / leaf.std()
    if 'gate' in names and names[-1] == 'bias':
      return leaf
    if names[-1] != 'kernel':
      return leaf
    # Attention to one token, and updates as large as the stream itself.
    gain = 2.5 if names[-2] in ('query', 'key', 'output', 'down') else 1.5
    key = jax.random.fold_in(
      jax.random.key(seed), zlib.crc32('/'.join(names).encode())
    )
    fresh = jax.random.normal(key, leaf.shape)
    return gain * fresh / config.model.embed_dim**0.5

  return jax.tree_util.tree_map_with_path(enlarge, params)


@pytest.fixture(scope='session')
def lively():
  """Return `(config, params)` for exits and model fields, made once each."""
  made = {}

  def get(exits='1:norm:gate,2:mlp:gate,3:norm:gate', *, seed=0, **overrides):
    key = (exits, seed, tuple(sorted(overrides.items())))
    if key not in made:
      config = tiny.tiny_config(exits, **{'eos_ids': (), **overrides})
      made[key] = config, make_lively(config, seed)
    return made[key]

  return get


@pytest.fixture(scope='session')
def prompts():
  """Return prompts of different lengths, one of a single token."""
  return [[3, 17, 8, 25, 11], [7], [21, 4, 4, 19, 28, 13, 6, 9, 12], [5, 14]]


# MARK: Against the reference


@pytest.fixture(scope='session')
def case(lively):
  """Return `(model, prompts, thresholds)` drawn from a seed."""

  def draw(seed, *, exits='1:norm,2:mlp,3:block', batch_size=4):
    rng = np.random.default_rng(seed)
    model = lively(exits, seed=int(rng.integers(3)))
    lengths = [2, *rng.integers(1, 13, batch_size - 1)]
    rng.shuffle(lengths)
    prompts = [rng.integers(3, 29, n).tolist() for n in lengths]
    # Always, at certainty alone, or somewhere between.
    scores = [1e-30, 1.0, *rng.uniform(0.2, 0.6, 6)]
    thresholds = rng.choice(scores, len(model[0].exits))
    return model, prompts, tuple(map(float, thresholds))

  return draw


@functools.cache
def judge_of(name):
  """Return a criterion as the reference decoder calls it."""
  criterion = get_criterion(name)
  score = jax.jit(criterion.score)

  def judge(readouts, index):
    here, final = readouts[index], readouts[-1]
    before = readouts[max(index - 1, 0)]
    tops = [int(np.argmax(s.logits)) for s in readouts]
    streak = 1
    while streak <= index and tops[index - streak] == tops[index]:
      streak += 1
    row = lambda x: jnp.asarray(x)[None]
    evidence = Evidence(
      gate_logit=row(np.float32(here.gate_logit)),
      logits=row(here.logits),
      previous_logits=row(before.logits),
      stream=row(here.stream),
      previous_stream=row(before.stream),
      has_previous=row(index > 0),
      top_token=row(tops[index]),
      streak=row(streak),
      positions=row(here.position),
      exit_index=index,
      depth=here.depth,
      num_layers=final.depth,
    )
    return float(np.ravel(score(evidence))[0])

  return judge


def _threshold_rule(policy):
  match parse_threshold_rule(policy.threshold_rule):
    case Decaying(temperature=temperature):
      return reference_thresholds.decaying(temperature)
    case Adaptive() as rule:
      return reference_thresholds.adaptive(
        every=policy.window, **dataclasses.asdict(rule)
      )
  return reference_thresholds.ConstantThresholds


@pytest.fixture(scope='session')
def assert_is_reference():
  """Return a check of what `generate` made by the reference decoder."""

  def check(model, result):
    config, params = model
    policy = result.policy
    thresholds = policy.thresholds
    if len(thresholds) == 1:
      thresholds = thresholds * len(config.exits)
    exact = policy.kv_strategy.is_exact
    early = policy.mode is Mode.EARLY_EXIT
    approximate_kv = (
      ApproximateKV.NOTHING
      if exact
      else ApproximateKV(policy.kv_strategy.value)
    )
    expected = reference_batch(
      params,
      config=config,
      prompts=[r.prompt_tokens for r in result.rows],
      num_tokens=max(len(r.tokens) for r in result.rows),
      policy=ReferencePolicy(
        judge=judge_of(policy.criterion) if early else None,
        thresholds=thresholds,
        window=policy.window,
        approximate_kv=approximate_kv,
        make_thresholds=_threshold_rule(policy),
      ),
    )
    for row, text in zip(result.rows, expected, strict=True):
      assert list(row.tokens) == text.tokens
      assert_probable(row.logprobs, text.logprobs)
      if early:
        assert list(row.exit_depths) == text.exit_depths
        assert_scores(row.scores, text.scores)

  return check


def assert_probable(found, expected):
  np.testing.assert_allclose(found, expected, atol=2e-3)


def assert_scores(found, expected):
  number = lambda scores: [np.nan if s is None else s for s in scores]
  np.testing.assert_allclose(number(found), number(expected), atol=5e-4)


# MARK: Inside a batch


def padded(texts):
  """Return texts as `prefill` takes them."""
  rows = np.zeros((len(texts), 48), np.int32)
  for row, text in enumerate(texts):
    rows[row, : len(text)] = text
  return jnp.asarray(rows)


class Session:
  """Start a batch as `generate` does, and keep what it hides."""

  def __init__(
    self,
    model,
    policy,
    prompts,
    *,
    num_tokens=20,
    thresholds=None,
    sampling=SamplingConfig(),  # noqa: B008, it is frozen
  ):
    self.config, params = model
    self.params = prepare(params, config=self.config)
    self.plan, policys_own = make_plan(
      self.config,
      policy=policy,
      method=sampling.method,
    )
    rows = [policys_own] * len(prompts) if thresholds is None else thresholds
    values = [[np.inf if t is None else t for t in row] for row in rows]
    self.lengths = np.array([len(p) - 1 for p in prompts])
    self.request = BatchSettings(
      end_ids=jnp.zeros((len(prompts), 0), jnp.int32),
      thresholds=jnp.array(values, jnp.float32),
      sampling=row_sampling(sampling, seeds=range(len(prompts))),
      window_costs=window_costs.for_rows(
        window_costs.stated(CPU, plan=self.plan, rows=len(prompts)),
        len(prompts),
      ),
    )
    self.state = programs.first_state(
      self.params,
      self.request,
      self.prefill([p[:-1] for p in prompts]),
      plan=self.plan,
      size=64,
      prompts=padded([p[:-1] for p in prompts]),
      tokens=jnp.array([p[-1] for p in prompts]),
      live=jnp.ones(len(prompts), bool),
      remaining=jnp.full((len(prompts),), num_tokens),
    )

  def prefill(self, texts):
    """Return what a full pass over texts leaves in the segments."""
    lengths = jnp.array([len(t) for t in texts])
    return programs.prefill(
      self.params, padded(texts), lengths, plan=self.plan, size=64
    )

  def run(self, steps):
    """Return what was emitted: arrays [steps, B, E] and num [steps, B]."""
    self.state, chunk = programs.decode_chunk(
      self.params,
      self.request,
      self.state,
      jnp.int32(steps),
      plan=self.plan,
      capacity=32,
    )
    return chunk.emitted


@pytest.fixture(scope='session')
def session():
  """Return the class that shows the state of a batch between steps."""
  return Session
