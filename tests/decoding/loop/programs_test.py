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
"""Tests of the compiled programs: exact caches, and no copies of them."""

import functools
import re

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from eejax.decoding.loop import programs
from eejax.decoding.loop.cache import BatchSettings
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling

FULL = Policy()


def early(criterion, *thresholds, **fields):
  return Policy(Mode.EARLY_EXIT, criterion, thresholds, **fields)


class Session:
  """Start a batch as `generate` does, and keep what it hides."""

  def __init__(self, model, policy, prompts, *, size=64, num_tokens=20):
    self.config, params = model
    self.params = prepare(params, config=self.config)
    self.plan, thresholds = make_plan(
      self.config,
      policy=policy,
      method=SamplingMethod.GREEDY,
    )
    self.prompts = prompts
    self.lengths = np.array([len(p) - 1 for p in prompts])
    values = [np.inf if t is None else t for t in thresholds]
    self.request = BatchSettings(
      end_ids=jnp.zeros((len(prompts), 0), jnp.int32),
      thresholds=jnp.array([values] * len(prompts), jnp.float32),
      sampling=row_sampling(SamplingConfig(), seeds=range(len(prompts))),
    )
    self.state = programs.first_state(
      self.params,
      self.request,
      self.prefill([p[:-1] for p in prompts], size),
      plan=self.plan,
      size=size,
      prompts=jnp.zeros((len(prompts), 0), jnp.int32),
      tokens=jnp.array([p[-1] for p in prompts]),
      live=jnp.ones(len(prompts), bool),
      remaining=jnp.full((len(prompts),), num_tokens),
    )

  def prefill(self, texts, size):
    padded = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for row, text in enumerate(texts):
      padded[row, : len(text)] = text
    lengths = jnp.array([len(t) for t in texts])
    return programs.prefill(
      self.params, jnp.asarray(padded), lengths, plan=self.plan, size=size
    )

  def arguments(self, steps):
    return self.params, self.request, self.state, jnp.int32(steps)

  def run(self, steps):
    self.state, chunk = programs.decode_chunk(
      *self.arguments(steps), plan=self.plan, capacity=32
    )
    return chunk

  def compile(self):
    # Lowering fills the trees of arguments with what are no arrays.
    jaxtyping.config.update('jaxtyping_disable', True)
    try:
      return programs.decode_chunk.lower(
        *self.arguments(1), plan=self.plan, capacity=32
      ).compile()
    finally:
      jaxtyping.config.update('jaxtyping_disable', False)


# MARK: Exact keys and values


@pytest.mark.parametrize(
  'exits, thresholds',
  [
    ('1:norm,2:norm,3:norm', (0.35, 0.4, 0.5)),
    ('1:norm,2:norm,3:norm', (1e-30, None, None)),
    ('1:block,2:mlp,3:block', (0.3, None, 0.3)),
    ('0:norm,3:norm', (0.4, 0.4)),
  ],
)
def test_caches_equal_those_of_a_full_pass(lively, prompts, exits, thresholds):
  policy = early('max_prob', *thresholds, window=5)
  session = Session(lively(exits, seed=3), policy, prompts)
  chunk = session.run(18)
  depths = np.asarray(chunk.emitted.depth)[:18]
  assert len(np.unique(depths)) > 1
  generated = np.asarray(chunk.emitted.token)[:18, :, 0].T.tolist()
  texts = [p + g for p, g in zip(prompts, generated, strict=True)]
  full_pass = session.prefill(texts, 64)
  gaps = []
  segments = zip(
    session.plan.segments, session.state.segments, full_pass, strict=True
  )
  for segment, ours, theirs in segments:
    if not segment.num_caches:
      continue
    gaps.append(np.asarray(session.state.length - ours.cache_length))
    pairs = zip(
      ours.keys + ours.values, theirs.keys + theirs.values, strict=True
    )
    for found, expected in pairs:
      for row, cache_length in enumerate(np.asarray(ours.cache_length)):
        np.testing.assert_allclose(
          found[row, :, :cache_length],
          expected[row, :, :cache_length],
          atol=1e-5 * float(jnp.abs(expected).max()),
          rtol=0,
        )
  assert (np.diff(gaps, axis=0) >= 0).all() and (gaps[-1] < 5).all()


def test_waiting_tokens_are_bounded_by_the_window(lively, prompts):
  policy = early('max_prob', 1e-30, window=3)
  session = Session(lively(seed=3), policy, prompts)
  for _ in range(9):
    session.run(1)
    gap = np.asarray(
      session.state.length - session.state.segments[-1].cache_length
    )
    assert (gap >= 0).all() and (gap < 3).all()


# MARK: Work


def test_every_block_pass_is_counted_once(lively, prompts):
  policy = early('max_prob', 0.35, 0.4, 0.5, window=5)
  session = Session(lively(seed=3), policy, prompts)
  session.run(18)
  passes = np.asarray(session.state.counts.passes)
  for index, state in enumerate(session.state.segments):
    # Exactly one pass for each token whose keys and values are there.
    done = np.asarray(state.cache_length) - session.lengths
    assert (passes[:, index] == done).all()
  runs = np.asarray(session.state.counts.segment_runs)
  assert runs[0] == 18 and (np.diff(runs) <= 0).all()


# MARK: Compiled form

_LARGE = {
  'num_heads': 4,
  'num_kv_heads': 4,
  'head_dim': 32,
  'max_length': 4096,
  'num_layers': 3,
}
_SIZE = 2048
_CACHE_BYTES = 4 * _SIZE * 32 * 4


@pytest.fixture(scope='module')
def compiled(lively):
  """Return the compiled loop of a policy over caches of a megabyte each."""

  @functools.cache
  def get(policy, batch_size=1):
    model = lively('1:norm:gate,2:norm:gate', **_LARGE)
    prompts = [[3, 4, 5]] * batch_size
    return Session(model, policy, prompts, size=_SIZE).compile()

  return get


@pytest.mark.parametrize(
  'policy',
  [
    FULL,
    early('gate', None, None, window=2),
    early('max_prob', 0.5, 0.5, window=2),
  ],
  ids=['full', 'never', 'max_prob'],
)
def test_no_cache_is_copied(compiled, policy):
  program = compiled(policy)
  memory = program.memory_analysis()
  assert memory.argument_size_in_bytes > 6 * _CACHE_BYTES
  # Scores of a window over a whole cache are an eighth of it.
  assert memory.temp_size_in_bytes < _CACHE_BYTES / 2
  assert memory.alias_size_in_bytes >= 6 * _CACHE_BYTES  # donated
  shape = re.escape(f'f32[1,4,{_SIZE},32]')
  assert not re.findall(rf'{shape}\S* (copy|transpose)\(', program.as_text())


def test_segments_stay_conditional(compiled):
  # Were a conditional turned into a select, every branch would run.
  text = compiled(early('gate', None, None, window=2)).as_text()
  assert text.count(' conditional(') >= 3


def test_weights_are_neither_copied_nor_transposed(compiled):
  text = compiled(FULL).as_text()
  # The head; queries, keys and values; output; gate and up; down.
  kernels = ['29,16', '384,16', '16,128', '40,16', '16,20']
  assert all(re.search(rf'f32\[{shape}\]', text) for shape in kernels)
  for shape in kernels:
    assert not re.findall(rf'f32\[{shape}\]\S* (copy|transpose)\(', text)


def test_projecting_skipped_keys_and_values_copies_no_kernel(compiled):
  policy = early('max_prob', 0.5, 0.5, kv_strategy=KVStrategy.PROPAGATE)
  text = compiled(policy).as_text()
  # Four heads of queries, four of keys and four of values, as they are read
  # and as they would be cut.
  assert re.findall(r'f32\[384,16\]', text)
  assert not re.findall(r'f32\[(256,16|16,256|16,8,32)\]', text)


def test_prefill_leaves_the_last_token_to_the_loop(lively):
  session = Session(lively(), FULL, [[7]])
  assert session.state.length.tolist() == [0]
  assert all(not np.asarray(k).any() for k in session.state.segments[0].keys)


def test_the_loop_stops_when_every_row_has_ended(lively):
  session = Session(lively(), FULL, [[3, 4], [5, 6]], num_tokens=4)
  chunk = session.run(30)
  assert session.state.length.tolist() == [1 + 4, 1 + 4]
  assert int(chunk.steps) == 4
  assert not np.asarray(chunk.emitted.num)[4:].any()


def test_thresholds_and_lengths_are_data(lively):
  programs.decode_chunk.clear_cache()
  model = lively('2:norm', seed=8)
  for threshold, steps in [(0.2, 3), (0.9, 7)]:
    Session(model, early('max_prob', threshold), [[3, 4]]).run(steps)
  assert programs.decode_chunk._cache_size() == 1
