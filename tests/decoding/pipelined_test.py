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
import dataclasses
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import AxisType

from eejax.decoding.generate import generate
from eejax.decoding.pipelined.decode_loop import decode_chunk, first_state
from eejax.decoding.pipelined.generate import Pipeline
from eejax.decoding.pipelined.latency import (
  decode_steps,
  full_decode_steps,
  prefill_steps,
  stage_steps,
)
from eejax.decoding.pipelined.layout import make_layout
from eejax.decoding.pipelined.mesh import pipeline_mesh
from eejax.decoding.pipelined.rows import PipelineRequest, first_rows
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.decoding.results import FinishReason
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling
from eejax.parallel.mesh import MeshConfig, make_mesh
from eejax.testing import tiny
from eejax.testing.reference_decoder import reference_generate

NUM_TOKENS = 10
NO_WINDOW = 10**6
FULL = Policy()


def mesh(stages, model=None):
  shape, names = (stages,), ('stage',)
  if model is not None:
    shape, names = (stages, model), ('stage', 'model')
  kinds = (AxisType.Auto,) * len(shape)
  devices = jax.devices()[: math.prod(shape)]
  return jax.make_mesh(shape, names, axis_types=kinds, devices=devices)


def generate_on(
  params, *, config, mesh, prompts, policy=FULL, dtype=jnp.float32,
  stage_ends=None, **settings,
):  # fmt: skip
  """Lay a model out over a mesh and generate once."""
  pipeline = Pipeline(
    params,
    config=config,
    mesh=mesh,
    policy=policy,
    dtype=dtype,
    stage_ends=stage_ends,
  )
  return pipeline.generate(prompts, **settings)


@pytest.fixture
def pair(prompts):
  """Return two prompts, for each length is one more compilation."""
  return prompts[:2]


def early_exit(thresholds, criterion='max_prob', **fields):
  return Policy(Mode.EARLY_EXIT, criterion, thresholds, **fields)


def max_prob(logits, gate):
  return float(jax.nn.softmax(logits).max())


def margin(logits, gate):
  second, first = np.sort(np.asarray(jax.nn.softmax(logits)))[-2:]
  return float(first - second)


def entropy(logits, gate):
  p = np.asarray(jax.nn.softmax(logits), np.float64)
  return float(1 + np.sum(p * np.log(p)) / np.log(p.size))


def gate(logits, gate):
  return float(jax.nn.sigmoid(gate))


SCORES = {f.__name__: f for f in (max_prob, margin, entropy, gate)}


def assert_is_reference(result, params, config, policy, prompts):
  """Check every row by a decoder that keeps nothing between tokens."""
  thresholds = policy.thresholds
  if len(thresholds) == 1:
    thresholds = thresholds * len(config.exits)
  score = SCORES[policy.criterion]
  for row, prompt in zip(result.rows, prompts, strict=True):
    expected = reference_generate(
      params,
      config=config,
      prompt=prompt,
      num_tokens=len(row.tokens),
      score=score if policy.mode is Mode.EARLY_EXIT else None,
      thresholds=thresholds,
      window=NO_WINDOW,
    )
    assert list(row.tokens) == expected.tokens
    assert list(row.exit_depths) == expected.exit_depths
    np.testing.assert_allclose(row.logprobs, expected.logprobs, atol=1e-4)
    number = lambda scores: [math.nan if s is None else s for s in scores]
    np.testing.assert_allclose(
      number(row.scores), number(expected.scores), atol=1e-4
    )


class Words:
  """A text of one word a token."""

  def push(self, token_id):
    return f'<{token_id}>'

  def flush(self):
    return ''


def depths(result):
  return {depth for row in result.rows for depth in row.exit_depths}


class TestLatencyModel:
  def test_hand_computed_cases(self):
    # Stages are counted from 0: 1 + 3 + 1 steps, and 2 + 2.
    assert decode_steps([[0, 2, 0], [1, 1]]) == 5
    assert full_decode_steps([3, 2], num_stages=3) == 9
    assert decode_steps([]) == full_decode_steps([], num_stages=4) == 0
    assert prefill_steps(0, chunk=4, num_stages=3) == 0
    assert prefill_steps(9, chunk=4, num_stages=3) == 5

  def test_a_stage_has_work_where_a_token_of_some_row_is(self):
    # The picture in the package's docstring, and one row that goes deep.
    assert stage_steps([[0] * 4, [1, 0]], num_stages=2) == ((4, 3), (4, 1))
    assert stage_steps([[2, 0]], num_stages=3) == ((2, 1, 1), (2, 1, 1))
    assert stage_steps([], num_stages=2) == ((0, 0), (0, 0))

  @pytest.mark.parametrize('num_stages', [1, 2, 5])
  def test_it_agrees_with_a_play_of_the_pipeline(self, num_stages):
    rng = np.random.default_rng(num_stages)
    rows = [rng.integers(0, num_stages, n).tolist() for n in (1, 7, 12)]
    assert decode_steps(rows) == max(play(row, num_stages) for row in rows)


def play(exit_stages, num_stages):
  """Move one row's tokens through stages; return steps to the last answer."""
  at = [None] * num_stages  # the token each stage works on
  entering, steps = 0, 0
  while True:
    steps += 1
    at = [entering, *at[:-1]]
    entering = None
    held = [token for token in at if token is not None]
    assert held == sorted(held, reverse=True)  # no token passes another
    for stage, token in enumerate(at):
      if token is not None and exit_stages[token] == stage:
        if token == len(exit_stages) - 1:
          return steps
        entering = token + 1


class TestEqualsTheReference:
  @pytest.mark.parametrize('block', ['learned', 'around'])
  def test_other_kinds_of_blocks(self, lively, pair, block):
    config, params = lively('2:norm,3:block', **tiny.KINDS_OF_BLOCK[block])
    policy = early_exit((0.3, 0.4))
    result = generate_on(
      params,
      config=config,
      mesh=mesh(3),
      prompts=pair,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
    )
    assert_is_reference(result, params, config, policy, pair)

  @pytest.mark.parametrize('criterion, threshold', [
    ('max_prob', 0.25), ('margin', 0.15), ('entropy', 0.25), ('gate', 0.5),
  ])  # fmt: skip
  def test_four_stages(self, lively, prompts, criterion, threshold):
    config, params = lively()
    policy = early_exit((threshold,), criterion)
    result = generate_on(
      params,
      config=config,
      mesh=mesh(4),
      prompts=prompts,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
    )
    assert_is_reference(result, params, config, policy, prompts)
    assert len(depths(result)) >= 3
    assert (
      result.pipeline.decode_steps == result.pipeline.predicted_decode_steps
    )
    assert result.pipeline.decode_steps < 4 * NUM_TOKENS
    assert (
      result.pipeline.prefill_steps
      == result.pipeline.predicted_prefill_steps
      == 4
    )

  @pytest.mark.parametrize('stage_ends, thresholds', [
    (None, (None, 0.3, 0.3)),  # 2, 1 and 1 blocks
    ((1, 3, 4), (0.3, None, None)),  # a stage without an exit
  ])  # fmt: skip
  def test_three_stages_of_unequal_length(
    self, lively, pair, stage_ends, thresholds
  ):
    config, params = lively()
    policy = early_exit(thresholds)
    result = generate_on(
      params,
      config=config,
      mesh=mesh(3),
      prompts=pair,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
      stage_ends=stage_ends,
    )
    assert_is_reference(result, params, config, policy, pair)
    assert len(depths(result)) == 1 + sum(t is not None for t in thresholds)
    assert (
      result.pipeline.decode_steps == result.pipeline.predicted_decode_steps
    )

  @pytest.mark.parametrize('stages, model', [(2, 2), (1, 4)])
  def test_tensor_parallelism_inside_a_stage(self, lively, pair, stages, model):
    config, params = lively('2:mlp:gate')
    policy = early_exit((0.25 if stages > 1 else None,))
    result = generate_on(
      params,
      config=config,
      mesh=mesh(stages, model),
      prompts=pair,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
    )
    assert_is_reference(result, params, config, policy, pair)
    assert len(depths(result)) == stages
    assert (
      result.pipeline.decode_steps == result.pipeline.predicted_decode_steps
    )

  @pytest.mark.parametrize('exits, thresholds', [
    ('1:bottleneck_mlp(5),2:block,3:bottleneck_mlp(3):untied', (0.3,)),
    ('1:norm:untied,2:embedding,3:mlp:tied_embedding', (0.3, 0.9, 0.6)),
  ])  # fmt: skip
  def test_every_kind_of_head(self, lively, pair, exits, thresholds):
    config, params = lively(exits)
    policy = early_exit(thresholds)
    result = generate_on(
      params,
      config=config,
      mesh=mesh(4),
      prompts=pair,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
    )
    assert_is_reference(result, params, config, policy, pair)
    assert len(depths(result)) >= 3

  def test_gates_of_both_kinds(self, lively, pair):
    config, params = lively('1:norm:gate,2:norm:mlp_gate')
    policy = early_exit((0.6,), 'gate')
    result = generate_on(
      params,
      config=config,
      mesh=mesh(3),
      prompts=pair,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
      stage_ends=(1, 2, 4),
    )
    assert_is_reference(result, params, config, policy, pair)
    assert depths(result) == {1, 2, 4}

  def test_sliding_windows_that_differ_by_block(self, lively, pair):
    config, params = lively(
      '1:norm,2:norm', sliding_window=4, full_attention_blocks=1
    )
    policy = early_exit((0.4,))
    result = generate_on(
      params,
      config=config,
      mesh=mesh(3),
      prompts=pair,
      policy=policy,
      max_new_tokens=NUM_TOKENS,
      stage_ends=(1, 2, 4),
    )
    assert_is_reference(result, params, config, policy, pair)

  def test_full_mode_needs_no_exits(self, lively, pair):
    config, params = lively('')
    result = generate_on(
      params,
      config=config,
      mesh=mesh(2),
      prompts=pair,
      max_new_tokens=NUM_TOKENS,
    )
    assert_is_reference(result, params, config, Policy(), pair)
    assert result.pipeline.decode_steps == 2 * NUM_TOKENS
    assert result.pipeline.speedup == 1


class TestEqualsTheUnpipelinedDecoder:
  def compare(self, lively, pair, **settings):
    config, params = lively('2:mlp:gate')
    alike = dict(
      config=config,
      prompts=pair,
      # Among so few tokens, a window this long bounds nothing.
      policy=early_exit((0.25,), window=NUM_TOKENS + 1),
      max_new_tokens=NUM_TOKENS,
      **settings,
    )
    result = generate_on(params, mesh=mesh(2), **alike)
    expected = generate(params, **alike)
    for row, like in zip(result.rows, expected.rows, strict=True):
      assert row.tokens == like.tokens
      assert row.exit_depths == like.exit_depths
      assert row.finish_reason == like.finish_reason
      np.testing.assert_allclose(row.logprobs, like.logprobs, atol=1e-4)
      for top, wanted in zip(row.top_logprobs, like.top_logprobs, strict=True):
        assert [token for token, _ in top] == [token for token, _ in wanted]
        np.testing.assert_allclose(
          [p for _, p in top], [p for _, p in wanted], atol=1e-4
        )
    assert depths(result) == {2, 4}
    assert (
      result.pipeline.decode_steps == result.pipeline.predicted_decode_steps
    )
    return result

  @pytest.mark.parametrize('criterion, thresholds', [
    ('patience(1)', (1.0,)), ('js', (0.75,)), ('cosine', (0.5,)),
  ])  # fmt: skip
  def test_criteria_that_remember_earlier_exits(
    self, lively, pair, criterion, thresholds
  ):
    config, params = lively('1:norm,2:norm,3:mlp')
    alike = dict(
      config=config,
      prompts=pair,
      policy=early_exit(thresholds, criterion, window=NUM_TOKENS + 1),
      max_new_tokens=NUM_TOKENS,
    )
    # Two stages without a head of their own stand between exits.
    result = generate_on(params, mesh=mesh(4), **alike)
    expected = generate(params, **alike)
    for row, like in zip(result.rows, expected.rows, strict=True):
      assert row.tokens == like.tokens
      assert row.exit_depths == like.exit_depths
    assert len(depths(result)) >= 2 and 1 not in depths(result)

  def test_biases_and_the_likeliest_tokens(self, lively, pair):
    sampling = SamplingConfig(
      temperature=0.7, seed=3, logit_bias={7: 4.0}, min_tokens=6
    )
    result = self.compare(
      lively, pair, sampling=sampling, eos_ids=(7,), top_logprobs=3
    )
    assert 6 < len(result.rows[0].tokens) <= NUM_TOKENS
    for row in result.rows:
      assert all(len(top) == 3 for top in row.top_logprobs)

  def test_greedy_and_end_tokens(self, lively, pair):
    free = self.compare(lively, pair, eos_ids=(0,))
    eos = free.rows[1].tokens[4]
    ended = self.compare(lively, pair, eos_ids=(eos,))
    assert ended.rows[1].finish_reason is FinishReason.EOS
    assert [r.tokens for r in ended.rows] != [r.tokens for r in free.rows]

  def test_sampling(self, lively, pair):
    make = lambda seed: SamplingConfig(
      temperature=0.9, top_k=20, top_p=0.95, min_p=0.01, seed=seed
    )
    one = self.compare(lively, pair, sampling=make(3))
    other = self.compare(lively, pair, sampling=make(3), seeds=[4, 3])
    assert [r.tokens for r in one.rows] != [r.tokens for r in other.rows]


def calm(params):
  """Return parameters that bfloat16's rounding does not throw about."""
  return jax.tree.map(lambda leaf: leaf if leaf.ndim < 3 else leaf / 2, params)


def test_bfloat16(lively, pair):
  config, params = lively('2:mlp:gate')
  params = calm(params)
  run = lambda dtype, stages: generate_on(
    params,
    config=config,
    mesh=mesh(stages),
    prompts=pair,
    policy=early_exit((0.3,) if stages > 1 else (None,)),
    max_new_tokens=NUM_TOKENS,
    dtype=dtype,
  )
  result = run(jnp.bfloat16, 2)
  assert depths(result) == {2, 4}
  # Heads' log-probabilities of what was emitted, without any rounding.
  for row in result.rows:
    text = jnp.array([row.prompt_tokens + row.tokens])
    logits = decoder.logits(params, text, config=config)
    first = len(row.prompt_tokens) - 1
    for index, (token, depth) in enumerate(
      zip(row.tokens, row.exit_depths, strict=True)
    ):
      head = logits['final' if depth == 4 else 'exit_2'][0, first + index]
      expected = jax.nn.log_softmax(head)[token]
      assert abs(row.logprobs[index] - expected) < 0.1
  # Stages hand on in bfloat16 what one device would have kept.
  whole = [r.tokens for r in run(jnp.bfloat16, 1).rows]
  split = generate_on(
    params,
    config=config,
    mesh=mesh(4),
    prompts=pair,
    max_new_tokens=NUM_TOKENS,
    dtype=jnp.bfloat16,
  )
  assert [r.tokens for r in split.rows] == whole


@pytest.fixture(scope='module')
def pipeline(lively):
  config, params = lively()
  return Pipeline(
    params, config=config, mesh=mesh(4), policy=early_exit((0.4,))
  )


class TestRows:
  def test_each_takes_the_steps_it_takes_alone(self, pipeline, prompts):
    together = pipeline.generate(prompts, max_new_tokens=NUM_TOKENS)
    alone = [pipeline.generate([p], max_new_tokens=NUM_TOKENS) for p in prompts]
    for row, single in zip(together.rows, alone, strict=True):
      assert row.tokens == single.rows[0].tokens
      assert row.exit_depths == single.rows[0].exit_depths
    steps = [single.pipeline.decode_steps for single in alone]
    assert len(set(steps)) > 1
    assert together.pipeline.decode_steps == max(steps)

  def test_chunks_of_any_length_give_the_same_text(self, pipeline, prompts):
    whole = pipeline.generate(prompts, max_new_tokens=NUM_TOKENS)
    heard = []
    chunks = pipeline.generate(
      prompts,
      max_new_tokens=NUM_TOKENS,
      on_tokens=heard.append,
      tokens_per_call=3,
    )
    assert [r.tokens for r in chunks.rows] == [r.tokens for r in whole.rows]
    assert chunks.pipeline.exit_stages == whole.pipeline.exit_stages
    assert chunks.pipeline.decode_steps == whole.pipeline.decode_steps
    for number, row in enumerate(whole.rows):
      pieces = [u.tokens for u in heard if u.row == number]
      assert sum(pieces, ()) == row.tokens
      assert max(map(len, pieces)) == 3 and len(pieces) >= 4

  def test_a_stop_string_ends_one_row_and_not_the_others(
    self, pipeline, prompts
  ):
    whole = pipeline.generate(prompts, max_new_tokens=NUM_TOKENS)
    # Row 0 exits at different stages, so some token of it is on its way.
    stop = whole.rows[0].tokens[3]
    texts = [TextStream(Words(), stop=[f'<{stop}>'])]
    texts += [TextStream(Words()) for _ in prompts[1:]]
    result = pipeline.generate(
      prompts, max_new_tokens=NUM_TOKENS, texts=texts, tokens_per_call=2
    )
    first, *others = result.rows
    assert first.finish_reason is FinishReason.STOP
    end = whole.rows[0].tokens.index(stop)
    assert first.tokens == whole.rows[0].tokens[: end + 1]
    assert first.text == ''.join(f'<{t}>' for t in first.tokens[:-1])
    for row, like in zip(others, whole.rows[1:], strict=True):
      assert row.tokens == like.tokens
      assert row.exit_depths == like.exit_depths
    # No more than what was on its way and the rest of a call is thrown away.
    assert len(result.pipeline.exit_stages[0]) <= end + 1 + 2

  def test_an_end_token_ends_one_row_and_not_the_others(
    self, pipeline, prompts
  ):
    free = pipeline.generate(prompts, max_new_tokens=NUM_TOKENS)
    eos = free.rows[0].tokens[4]
    result = pipeline.generate(
      prompts, max_new_tokens=NUM_TOKENS, eos_ids=[eos]
    )
    for row, whole in zip(result.rows, free.rows, strict=True):
      length = NUM_TOKENS
      if eos in whole.tokens:
        length = whole.tokens.index(eos) + 1
      assert row.tokens == whole.tokens[:length]
      ended = row.tokens[-1] == eos
      reason = FinishReason.EOS if ended else FinishReason.LENGTH
      assert row.finish_reason is reason
    assert len({len(row.tokens) for row in result.rows}) > 1

  def test_the_context_ends_a_row(self, pipeline):
    prompts = [[5] * 46, [3, 17]]
    result = pipeline.generate(prompts, max_new_tokens=NUM_TOKENS)
    assert [len(r.tokens) for r in result.rows] == [2, NUM_TOKENS]
    assert {r.finish_reason for r in result.rows} == {FinishReason.LENGTH}

  def test_prompts_of_one_token_need_no_prefill(self, pipeline):
    result = pipeline.generate([[7], [9]], max_new_tokens=2)
    assert (
      result.pipeline.prefill_steps
      == result.pipeline.predicted_prefill_steps
      == 0
    )


def test_prompts_in_chunks_are_prompts_in_one_piece(lively, prompts):
  config, params = lively()
  results = [
    Pipeline(
      params,
      config=config,
      mesh=mesh(4),
      policy=early_exit((0.4,)),
      prefill_chunk=chunk,
    ).generate(prompts, max_new_tokens=NUM_TOKENS)
    for chunk in (3, 64)
  ]
  assert results[0].rows[2].tokens == results[1].rows[2].tokens
  # Prompts are 8 tokens long at most, without their last: 3 chunks.
  assert [r.pipeline.prefill_steps for r in results] == [3 + 3, 1 + 3]
  assert [r.pipeline.predicted_prefill_steps for r in results] == [6, 4]


@pytest.mark.parametrize('threshold, stages_run', [(0.0, 1), (1.0, 4)])
def test_latency_lies_between_one_stage_and_all(
  lively, prompts, threshold, stages_run
):
  config, params = lively()
  result = generate_on(
    params,
    config=config,
    mesh=mesh(4),
    prompts=prompts,
    policy=early_exit((threshold,)),
    max_new_tokens=NUM_TOKENS,
  )
  assert result.pipeline.decode_steps == stages_run * NUM_TOKENS
  assert result.pipeline.speedup == 4 / stages_run


def greedy_request(num_rows):
  return PipelineRequest(
    end_ids=jnp.zeros((num_rows, 0), jnp.int32),
    thresholds=jnp.array([0.4, 0.4, 0.4, jnp.inf]),
    sampling=row_sampling(SamplingConfig(), seeds=[0] * num_rows),
  )


def run_chunk(pipeline, state, ended, num_tokens=32):
  return decode_chunk(
    pipeline.params,
    greedy_request(len(ended)),
    state,
    jnp.array(ended),
    jnp.int32(num_tokens),
    layout=pipeline.layout,
    mesh=pipeline.mesh,
    method=SamplingMethod.GREEDY,
    capacity=32,
  )


def started(pipeline, prompts, num_tokens):
  caches, _ = pipeline.prefill(prompts, room=num_tokens)
  return first_state(
    first_rows(prompts, [num_tokens] * len(prompts)),
    caches,
    layout=pipeline.layout,
    mesh=pipeline.mesh,
    dtype=jnp.float32,
  )


def run_decode(pipeline, prompts, num_tokens):
  """Return what was emitted, and the state that is left."""
  state = started(pipeline, prompts, num_tokens)
  return run_chunk(pipeline, state, [False] * len(prompts))


def test_a_row_that_the_host_has_ended_emits_nothing(pipeline, prompts):
  state = started(pipeline, prompts, NUM_TOKENS)
  none = [False] * len(prompts)
  record, state = run_chunk(pipeline, state, none, num_tokens=3)
  counts = np.asarray(record.counts)
  behind = int(counts.argmin())
  assert counts[behind] < 3 == counts.max()  # its token is on its way
  ended = [row == behind for row in range(len(prompts))]
  record, state = run_chunk(pipeline, state, ended)
  emitted = np.asarray(record.counts)
  assert emitted[behind] == 0
  assert (np.delete(counts + emitted, behind) == NUM_TOKENS).all()


def test_keys_and_values_are_those_of_a_full_pass(pipeline, prompts):
  record, state = run_decode(pipeline, prompts, NUM_TOKENS)
  emitted = np.asarray(record.emitted.token)[:, :NUM_TOKENS].tolist()
  assert (np.asarray(record.emitted.stage)[:, :NUM_TOKENS] == 0).any()
  texts = [p + new for p, new in zip(prompts, emitted, strict=True)]
  expected, _ = pipeline.prefill(texts, room=1)
  for found, like in zip(
    jax.tree.leaves(state.caches), jax.tree.leaves(expected), strict=True
  ):
    for row, text in enumerate(texts):
      for stage in range(4):
        # The newest tokens may still be on their way to deeper stages.
        filled = slice(0, len(text) - 1 - stage)
        np.testing.assert_allclose(
          found[stage, row, :, filled], like[stage, row, :, filled], atol=1e-4
        )


@pytest.mark.parametrize('seed', range(2))
def test_random_thresholds(lively, pair, seed):
  config, params = lively()
  thresholds = np.random.default_rng(seed).uniform(0.1, 0.5, 3)
  policy = early_exit(tuple(thresholds.tolist()))
  result = generate_on(
    params,
    config=config,
    mesh=mesh(4),
    prompts=pair,
    policy=policy,
    max_new_tokens=NUM_TOKENS,
  )
  assert_is_reference(result, params, config, policy, pair)
  assert result.pipeline.decode_steps == result.pipeline.predicted_decode_steps


def test_a_mesh_takes_the_first_devices_that_it_needs():
  from_text = pipeline_mesh('stage=2,model=2')
  assert dict(from_text.shape) == {'stage': 2, 'model': 2}
  assert from_text.devices.ravel().tolist() == jax.devices()[:4]
  assert dict(pipeline_mesh('stage=-1').shape) == {'stage': 8, 'model': 1}
  assert pipeline_mesh(MeshConfig(stage=2, model=2)) == from_text
  # Devices that training arranged have all four axes.
  config = MeshConfig(data=1, stage=2, model=2)
  arranged = make_mesh(config, devices=jax.devices()[:4])
  assert pipeline_mesh(arranged) == from_text


def test_the_accounting_is_that_of_the_whole_model(lively, pair):
  config, params = lively('1:norm,2:block')
  result = generate_on(
    params,
    config=config,
    mesh=mesh(3),
    prompts=pair,
    policy=early_exit((0.4,)),
    stage_ends=(1, 2, 4),
    max_new_tokens=NUM_TOKENS,
  )
  for row, stages in zip(result.rows, result.pipeline.exit_stages, strict=True):
    work = row.accounting
    assert work.blocks_run == work.blocks_full == 4 * NUM_TOKENS
    assert work.catch_up_blocks == sum(4 - d for d in row.exit_depths)
    assert work.exit_blocks_run == NUM_TOKENS
    assert work.head_calls == sum(stage + 1 for stage in stages)
    assert row.exit_depths == tuple((1, 2, 4)[s] for s in stages)
  assert result.batch.segment_runs[0] <= result.pipeline.decode_steps
  assert result.batch.segment_head_reads[0] == result.batch.segment_runs[0]


def test_a_row_ends_before_logits_that_are_no_numbers(lively):
  config, params = lively('2:norm')
  head = {**params['backbone']['final_norm'], 'scale': jnp.full(16, jnp.nan)}
  broken = {**params, 'backbone': {**params['backbone'], 'final_norm': head}}
  row = generate_on(
    broken,
    config=config,
    mesh=mesh(2),
    prompts=[[3, 17]],
    max_new_tokens=3,
  ).rows[0]
  assert row.tokens == ()
  assert row.finish_reason is FinishReason.NON_FINITE


class TestPlacement:
  def test_a_device_holds_its_own_stage_alone(self, lively):
    config, params = lively('2:norm')
    placed = Pipeline(
      params, config=config, mesh=mesh(2), policy=early_exit((0.4,))
    ).params
    key = params['backbone']['blocks']['attention']['key']['kernel']
    for index, block in enumerate(placed.blocks):
      leaf = block['attention']['key']['kernel']
      assert len({s.device for s in leaf.addressable_shards}) == 2
      for shard in leaf.addressable_shards:
        stage = shard.index[0].start
        np.testing.assert_array_equal(shard.data[0], key[2 * stage + index])
    whole = sum(x.nbytes for x in jax.tree.leaves(params['backbone']['blocks']))
    for device in jax.devices()[:2]:
      held = [
        shard.data.nbytes
        for leaf in jax.tree.leaves(placed.blocks)
        for shard in leaf.addressable_shards
        if shard.device == device
      ]
      assert sum(held) == whole / 2
    shares = [s.data.shape for s in placed.table.addressable_shards]
    assert shares == [(1, 15, 16)] * 2  # of 29 rows

  def test_caches_stay_where_they_are(self, pipeline, prompts):
    _, state = run_decode(pipeline, prompts, 3)
    for leaf in jax.tree.leaves(state.caches):
      shards = leaf.addressable_shards
      assert len({s.device for s in shards}) == 4
      assert {s.data.shape for s in shards} == {(1, *leaf.shape[1:])}

  def test_tensor_parallelism_splits_each_stage(self, lively, prompts):
    config, params = lively('2:mlp')
    split = Pipeline(
      params, config=config, mesh=mesh(2, 2), policy=early_exit((0.4,))
    )
    shape = lambda leaf: leaf.addressable_shards[0].data.shape
    block = split.params.blocks[0]
    assert shape(block['attention']['query']['kernel']) == (1, 16, 2, 6)
    assert shape(block['attention']['value']['kernel']) == (1, 16, 1, 6)
    assert shape(block['attention']['output']['kernel']) == (1, 2, 6, 16)
    assert shape(block['mlp']['down']['kernel']) == (1, 10, 16)
    assert shape(split.params.heads['mlp']['mlp']['up']['kernel']) == (
      1, 16, 10,
    )  # fmt: skip
    caches, _ = split.prefill(prompts, room=3)
    assert shape(caches.keys[0])[:3] == (1, 4, 1)

  def test_no_cache_is_copied(self, pipeline):
    state = started(pipeline, [[3, 1]] * 2, 4000)
    keys = state.caches.keys
    size = sum(leaf.addressable_shards[0].data.nbytes for leaf in keys)
    # Lowering fills typed trees with what are no arrays.
    jaxtyping.config.update('jaxtyping_disable', True)
    try:
      compiled = self.compile(pipeline, state)
    finally:
      jaxtyping.config.update('jaxtyping_disable', False)
    assert compiled.memory_analysis().temp_size_in_bytes < size

  def compile(self, pipeline, state):
    return decode_chunk.lower(
      pipeline.params,
      greedy_request(2),
      state,
      jnp.zeros(2, bool),
      jnp.int32(8),
      layout=pipeline.layout,
      mesh=pipeline.mesh,
      method=SamplingMethod.GREEDY,
      capacity=32,
    ).compile()


class TestBadInput:
  @pytest.mark.parametrize('stages, settings, message', [
    (2, dict(policy=early_exit((0.5,))), 'the exit at depth 1 does not stand'),
    (2, dict(policy=early_exit((None, 0.5, None)), stage_ends=(1, 4)),
     'the exit at depth 2 does not stand'),
    (5, {}, '5 stages are more than the 4 blocks'),
    (2, dict(stage_ends=(2, 3)), 'stages cannot end at depths 2, 3'),
    (2, dict(stage_ends=(0, 4)), 'stages cannot end at depths 0, 4'),
    (2, dict(stage_ends=(1, 2, 4)), 'give 2 depths'),
    (4, dict(policy=Policy(Mode.SPECULATIVE)), 'mode full or early_exit'),
    (4, dict(policy=early_exit((0.5,), kv_strategy=KVStrategy.COPY)),
     'leave the K/V strategy at deferred'),
    (4, dict(policy=early_exit((0.5,), threshold_rule='decaying(4)')),
     'no threshold rule decaying'),
  ])  # fmt: skip
  def test_layouts(self, lively, stages, settings, message):
    config, _ = lively()
    with pytest.raises(ArgumentError, match=message) as caught:
      make_layout(config, num_stages=stages, **{'policy': Policy(), **settings})
    assert str(caught.value).count('. ') == 0

  def test_an_exit_beside_the_final_head(self, lively):
    config, _ = lively('4:norm')
    with pytest.raises(ArgumentError, match='before the last'):
      make_layout(config, policy=early_exit((0.5,)), num_stages=2)

  def test_a_mesh_without_stages(self, lively):
    config, params = lively()
    other = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2])
    with pytest.raises(ArgumentError, match="an axis 'stage'.*: data"):
      Pipeline(params, config=config, mesh=other)

  @pytest.mark.parametrize('text, message', [
    ('data=2,stage=2', 'and this one has data=2'),
    ('stage=2,fsdp=2', 'and this one has fsdp=2'),
    ('stage=9', 'needs 9 devices and there are 8.*JAX_NUM_CPU_DEVICES=9'),
    ('stages=2', "'stages=2' is no axis of a mesh"),
  ])  # fmt: skip
  def test_meshes(self, text, message):
    with pytest.raises(EejaxError, match=message):
      pipeline_mesh(text)

  @pytest.mark.parametrize('settings, message', [
    (dict(prompts=[]), 'there is no prompt'),
    (dict(prompts=[[99]]), 'token 99'),
    (dict(max_new_tokens=0), 'max_new_tokens must be at least 1'),
    (dict(seeds=[1, 2]), 'there are 2 seeds for 1 prompts'),
  ])  # fmt: skip
  def test_requests(self, pipeline, settings, message):
    settings = {'prompts': [[3]], **settings}
    with pytest.raises(ArgumentError, match=message):
      pipeline.generate(settings.pop('prompts'), **settings)


def test_an_exit_that_is_never_taken_may_stand_anywhere(lively):
  config, _ = lively()
  layout, thresholds = make_layout(
    config, policy=early_exit((None, 0.5, None)), num_stages=2
  )
  assert [s.exit and s.exit.depth for s in layout.stages] == [2, None]
  assert thresholds == (0.5, math.inf)


def test_the_first_stages_are_the_longer_ones(lively):
  config, _ = lively('')
  deep = dataclasses.replace(
    config, model=dataclasses.replace(config.model, num_layers=7)
  )
  layout, _ = make_layout(deep, policy=Policy(), num_stages=3)
  assert [s.num_blocks for s in layout.stages] == [3, 2, 2]
