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
"""Tests of self-speculation: it says what the whole model says, for less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.batching import (
  ACCELERATOR,
  CPU,
  Batching,
  PlatformCosts,
  platform_costs,
)
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.decoding.results import FinishReason
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig
from eejax.testing.tiny import EVERY_KIND_OF_EXIT

NUM_TOKENS = 13
# Two blocks, three drafts, two more blocks over four tokens.
FIXED = {'draft_depth': 2, 'draft_length': 3}
# No token has it; one end token makes all runs share a program.
NO_EOS = (999,)


def speculative(*thresholds, **fields):
  return Policy(Mode.SPECULATIVE, 'max_prob', thresholds, **fields)


def run(model, prompts, policy, num_tokens=NUM_TOKENS, **options):
  return generate(
    model[1],
    config=model[0],
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
    **{'eos_ids': NO_EOS, **options},
  )


def with_weak_blocks(model, *, after, share, exit_scale=1.0):
  """Return a model whose blocks from `after` on add `share` of what they did.

  Heads of its `norm` exits are `exit_scale` times its final one: with share
  0 they agree with it always, or, turned round, never.
  """
  config, params = model
  backbone = params['backbone']
  blocks = dict(backbone['blocks'])
  weak = jnp.where(jnp.arange(config.model.num_layers) < after, 1.0, share)
  scaled = lambda leaf: leaf * weak.reshape(-1, *(1,) * (leaf.ndim - 1))
  for part, name in (('attention', 'output'), ('mlp', 'down')):
    matrix = jax.tree.map(scaled, blocks[part][name])
    blocks[part] = {**blocks[part], name: matrix}
  final = backbone['final_norm']['scale']
  exits = {
    name: {**e, 'norm': {'scale': exit_scale * final}} if 'norm' in e else e
    for name, e in params['exits'].items()
  }
  return config, {'backbone': {**backbone, 'blocks': blocks}, 'exits': exits}


@pytest.fixture(scope='module')
def agreeing(lively):
  model = lively('1:norm,2:norm')
  return with_weak_blocks(model, after=2, share=0.0)


@pytest.fixture(scope='module')
def free(agreeing, prompts):
  """Return what `agreeing` generates where nothing ends it."""
  return run(agreeing, prompts, speculative(0.0, **FIXED))


@pytest.fixture(scope='module')
def disagreeing(lively):
  model = lively('1:norm,2:norm')
  return with_weak_blocks(model, after=2, share=0.0, exit_scale=-1.0)


# MARK: The text of the whole model


@pytest.mark.parametrize('depth', [0, 1, 2, 3, 4])
def test_every_kind_of_exit_drafts(lively, prompts, assert_is_reference, depth):
  model = lively(EVERY_KIND_OF_EXIT, num_layers=5)
  model = with_weak_blocks(model, after=depth, share=0.3)
  fields = {'draft_depth': depth, 'draft_length': 3}
  result = run(model, prompts, speculative(0.0, **fields))
  assert_is_reference(model, result)
  assert result.accounting.drafted > 3 * NUM_TOKENS
  unsure = run(model, prompts, speculative(0.4, **fields))
  assert [r.tokens for r in unsure.rows] == [r.tokens for r in result.rows]
  # An embedding is sure of its own token; the others are not of theirs.
  assert depth == 0 or unsure.accounting.drafted < result.accounting.drafted


@pytest.mark.parametrize(
  'criterion, temperature',
  [('max_prob', 0.0), ('max_prob', 0.8), ('gate', 0.0)],
)
def test_drafts_of_a_frequent_vocabulary_leave_the_text_alone(
  lively, prompts, criterion, temperature
):
  model = lively('1:norm:gate,2:norm:gate')
  agreeing = with_weak_blocks(model, after=2, share=0.0)
  fields = {'criterion': criterion, 'thresholds': (0.0,), **FIXED}
  sampling = SamplingConfig(temperature=temperature, seed=3)
  whole = run(agreeing, prompts, Policy(), sampling=sampling)
  texts = [row.tokens for row in whole.rows]
  counts = np.bincount(sum(texts, ()), minlength=29)
  ids = np.argsort(-counts, kind='stable').tolist()
  policy = Policy(Mode.SPECULATIVE, scored_vocabulary='frequent(4)', **fields)
  result = run(agreeing, prompts, policy, sampling=sampling, frequent_ids=ids)
  assert [row.tokens for row in result.rows] == texts
  kept = [
    token
    for row in result.rows
    for token, depth in zip(row.tokens, row.exit_depths, strict=True)
    if depth < 4
  ]
  assert kept and set(kept) <= set(ids[:4])
  # Whole heads are asked by those that verify, for all of their window.
  work = result.accounting
  everything = run(
    agreeing, prompts, Policy(Mode.SPECULATIVE, **fields), sampling=sampling
  ).accounting
  assert work.head_calls == 4 * work.drafted // 3
  assert everything.head_calls == everything.drafted + 4 * (
    everything.drafted // 3
  )
  assert work.accepted < everything.accepted


# How far drafts go, and which rows wait; exits draft as it pays where they do.
WAYS = [
  {'batching': Batching.RIDE_ALONG, 'draft_length': 3},
  {'batching': Batching.DEPTH_QUEUE, 'window': 4},
]


@pytest.mark.parametrize('ways', WAYS, ids=['ride_along', 'depth_queue'])
def test_random_cases_equal_the_reference(case, assert_is_reference, ways):
  kept = rejected = 0
  for seed in range(3):
    model, prompts, thresholds = case(seed)
    model = with_weak_blocks(model, after=1, share=0.1)
    policy = speculative(*thresholds, **ways)
    result = run(model, prompts, policy, platform=ACCELERATOR)
    assert_is_reference(model, result)
    for row in result.rows:
      # What an exit proposed is said with its depth and score.
      drafts = [s for s in row.scores if s is not None]
      shallow = [d for d in row.exit_depths if d < 4]
      assert len(drafts) == len(shallow) <= row.accounting.accepted
      assert len(drafts) >= row.accounting.accepted - 4
    kept += result.accounting.accepted
    rejected += result.accounting.drafted - result.accounting.accepted
  assert kept > 10 and rejected > 10


def test_one_row_drafts_as_several_do(case, assert_is_reference):
  model, prompts, thresholds = case(1, batch_size=1)
  model = with_weak_blocks(model, after=1, share=0.1)
  result = run(model, prompts, speculative(*thresholds, window=4))
  assert_is_reference(model, result)


def test_who_never_drafts_decodes_in_full(agreeing, prompts):
  # LayerSkip divides by the number of drafts, of which there may be none.
  full = run(agreeing, prompts, Policy())
  never = run(agreeing, prompts, speculative(None, **FIXED))
  for a, b in zip(full.rows, never.rows, strict=True):
    assert (a.tokens, a.exit_depths) == (b.tokens, b.exit_depths)
    assert b.accounting.blocks_run == 4 * NUM_TOKENS
    assert b.accounting.drafted == 0 and b.accounting.acceptance is None


# MARK: Work and what is kept of it


def test_drafts_that_are_always_kept(agreeing, prompts):
  result = run(agreeing, prompts, speculative(0.0, **FIXED), 12)
  for row in result.rows:
    work = row.accounting
    # Three verifications of three drafts each, every token fed once.
    assert (work.drafted, work.accepted, work.acceptance) == (9, 9, 1.0)
    assert work.blocks_run == work.blocks_full == 4 * 12
    assert work.head_calls == 9 + 12
    assert row.exit_depths == (2, 2, 2, 4) * 3
    assert [s is None for s in row.scores] == [False, False, False, True] * 3
  # Two blocks a token, and two more a verification, for all rows together.
  assert result.batch.block_reads == 2 * 12 + 2 * 3


def test_drafts_that_are_never_kept(disagreeing, prompts):
  result = run(disagreeing, prompts, speculative(0.0, **FIXED), 5)
  for row in result.rows:
    work = row.accounting
    assert (work.drafted, work.accepted, work.acceptance) == (15, 0, 0.0)
    # Each window is one token that stays and three that do not.
    assert work.blocks_run == 4 * 4 * 5
    assert row.exit_depths == (4,) * 5


def test_adaptive_drafting_follows_what_is_kept(agreeing, disagreeing, prompts):
  policy = speculative(0.0, draft_depth=2, window=4)
  for prompt in prompts:
    (row,) = run(disagreeing, [prompt], policy, 32).rows
    # It stops within some tokens, and costs what full decoding does.
    assert 0 < row.accounting.drafted < 32
    assert row.accounting.accepted == 0
    (row,) = run(agreeing, [prompt], policy, 32).rows
    assert row.accounting.acceptance == 1.0
    assert row.exit_depths.count(4) <= 32 // 3


def test_a_batch_decodes_in_full_where_drafts_do_not_pay(agreeing, prompts):
  full = run(agreeing, prompts, Policy(), 24)
  texts = [row.tokens for row in full.rows]
  policy = speculative(0.0, draft_depth=2, window=4, prompt_lookup=1)
  drafted = {}
  for platform in (CPU, ACCELERATOR):
    result = run(agreeing, prompts, policy, 24, platform=platform)
    assert [row.tokens for row in result.rows] == texts
    drafted[platform] = result.accounting.drafted
    if platform is CPU:
      # The very blocks and heads of full decoding.
      assert result.accounting.blocks_run == full.accounting.blocks_run
      assert result.batch.block_reads == full.batch.block_reads
      assert result.batch.head_reads == full.batch.head_reads
  assert drafted[CPU] == 0 < drafted[ACCELERATOR]


@pytest.mark.parametrize('share', [0.0, 0.1])
def test_keys_and_values_are_those_of_a_full_pass(
  lively, session, prompts, share
):
  model = with_weak_blocks(lively('1:norm,2:norm'), after=2, share=share)
  policy = speculative(0.0, **FIXED)
  batch = session(model, policy, prompts, num_tokens=30)
  emitted = batch.run(22)
  num, tokens = np.asarray(emitted.num), np.asarray(emitted.token)
  texts = [
    [
      *p,
      *(
        int(t)
        for n, ts in zip(num, tokens, strict=True)
        for t in ts[row, : n[row]]
      ),
    ]
    for row, p in enumerate(prompts)
  ]
  full_pass = batch.prefill([t[:40] for t in texts])
  for ours, theirs in zip(batch.state.segments, full_pass, strict=True):
    pairs = zip(
      ours.keys + ours.values, theirs.keys + theirs.values, strict=True
    )
    verified = np.asarray(batch.state.segments[-1].cache_length)
    for found, expected in pairs:
      for row, end in enumerate(verified):
        np.testing.assert_allclose(
          found[row, :, :end],
          expected[row, :, :end],
          atol=1e-5 * float(jnp.abs(expected).max()),
          rtol=0,
        )


def test_nothing_is_computed_twice(lively, session, prompts):
  model = with_weak_blocks(lively('1:norm,2:norm'), after=2, share=0.1)
  batch = session(model, speculative(0.0, **FIXED), prompts, num_tokens=30)
  for _ in range(3):
    batch.run(7)
    counts, state = batch.state.counts, batch.state
    passes = np.asarray(counts.passes)
    rejected = np.asarray(counts.drafted - counts.accepted).sum(axis=1)
    done = np.stack(
      [np.asarray(s.cache_length) for s in state.segments], axis=1
    )
    kept = done - batch.lengths[:, None]
    assert (passes == kept + rejected[:, None]).all()
    # A step feeds one token of each row, if it lives.
    assert (passes[:, 0] <= int(counts.segment_runs[0])).all()
  assert rejected.sum() > 0


# MARK: Endings


@pytest.mark.parametrize('place', [0, 1, 2, 3, 4, 5])
def test_nothing_is_emitted_after_an_end_token(agreeing, prompts, free, place):
  policy = speculative(0.0, **FIXED)
  eos = free.rows[0].tokens[place]
  ended = run(agreeing, prompts, policy, eos_ids=(eos,))
  for row, whole in zip(ended.rows, free.rows, strict=True):
    stops = eos in whole.tokens
    end = whole.tokens.index(eos) + 1 if stops else NUM_TOKENS
    assert row.tokens == whole.tokens[:end]
    reason = FinishReason.EOS if stops else FinishReason.LENGTH
    assert row.finish_reason is reason


@pytest.mark.parametrize('num_tokens', [1, 2, 3, 4, 5, 10])
def test_rows_get_no_more_tokens_than_asked_for(
  agreeing, prompts, free, num_tokens
):
  policy = speculative(0.0, **FIXED)
  result = run(agreeing, prompts, policy, num_tokens)
  for row, whole in zip(result.rows, free.rows, strict=True):
    assert row.tokens == whole.tokens[:num_tokens]
    assert row.finish_reason is FinishReason.LENGTH


def test_the_context_ends_a_row_inside_a_window(agreeing):
  long = [3, 17, 8, 25, 11, 21, 4, 19, 28] * 5
  rows = [long, long[:44], [7], [5, 14]]
  result = run(agreeing, rows, speculative(0.0, **FIXED))
  full = run(agreeing, rows, Policy())
  assert [r.tokens for r in result.rows] == [r.tokens for r in full.rows]
  assert [len(r.tokens) for r in result.rows] == [3, 4, 13, 13]


class Letters:
  """Turn each id into one letter."""

  def push(self, token_id):
    return chr(ord('A') + token_id)

  def flush(self):
    return ''


@pytest.mark.parametrize('place', [0, 1, 2, 4])
def test_a_stop_string_inside_a_window_leaks_nothing(
  agreeing, prompts, free, place
):
  policy = speculative(0.0, **FIXED)
  letters = [''.join(map(Letters().push, r.tokens)) for r in free.rows]
  stop = letters[0][place : place + 2]
  streams = [TextStream(Letters(), stop=[stop]) for _ in prompts]
  shown = [''] * len(prompts)

  def show(update):
    shown[update.row] += ''.join(update.pieces)

  result = run(agreeing, prompts, policy, texts=streams, on_tokens=show)
  for row, text, seen in zip(result.rows, letters, shown, strict=True):
    assert row.text == seen == text.split(stop)[0]
    stops = stop in text
    assert (row.finish_reason is FinishReason.STOP) == stops
    assert len(row.tokens) == (text.index(stop) + 2 if stops else NUM_TOKENS)


def test_logits_that_are_no_numbers_end_one_row_alone(agreeing, prompts, free):
  config, params = agreeing
  policy = speculative(0.0, **FIXED)
  others = {t for r in free.rows[1:] for t in r.tokens} | set(sum(prompts, []))
  poison = next(t for t in free.rows[0].tokens[1:] if t not in others)
  end = free.rows[0].tokens.index(poison) + 1
  table = params['backbone']['embedding']['table'].at[poison].set(jnp.nan)
  backbone = {**params['backbone'], 'embedding': {'table': table}}
  result = run((config, {**params, 'backbone': backbone}), prompts, policy)
  first, *rest = result.rows
  assert first.finish_reason is FinishReason.NON_FINITE
  # A window with such a token in it says nothing at all.
  kept = len(first.tokens)
  assert first.tokens == free.rows[0].tokens[:kept] and end - 3 <= kept <= end
  assert np.isfinite(first.logprobs).all()
  assert [r.tokens for r in rest] == [r.tokens for r in free.rows[1:]]
  assert {r.finish_reason for r in rest} == {FinishReason.LENGTH}


# MARK: Sampling

MANY = 256
PROMPT = [3, 17, 8]


@pytest.fixture(scope='module')
def partly(lively):
  return with_weak_blocks(lively('1:norm,2:norm'), after=2, share=0.5)


@pytest.mark.parametrize(
  'sampling',
  [
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.7, top_k=5, seed=1000),
    SamplingConfig(temperature=2.0, top_p=0.8, seed=2000),
  ],
  ids=['plain', 'top_k', 'top_p'],
)
def test_samples_are_those_of_full_decoding(partly, sampling):
  prompts = [PROMPT] * MANY
  drafted = run(
    partly, prompts, speculative(0.0, **FIXED), 6, sampling=sampling
  )
  full = run(partly, prompts, Policy(), 6, sampling=sampling)
  assert [r.tokens for r in drafted.rows] == [r.tokens for r in full.rows]
  for a, b in zip(drafted.rows, full.rows, strict=True):
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-3)
  work = drafted.accounting
  assert 0.1 < work.acceptance < 0.9
  assert len({r.tokens for r in drafted.rows}) > MANY / 8


def test_samples_have_the_distribution_of_the_full_model(partly):
  config, params = partly
  # Of the second token, which a draft proposes and the model verifies.
  texts = jnp.array([[*PROMPT, t] for t in range(29)])
  heads = decoder.logits(params, texts, config=config)
  exact = {}
  for name in ('final', 'exit_2'):
    first = jax.nn.softmax(heads[name][0, 2])
    second = jax.nn.softmax(heads[name][:, 3])
    exact[name] = np.asarray(first @ second)
  counts = np.zeros(29)
  for start in range(6):
    result = run(
      partly,
      [PROMPT] * MANY,
      speculative(0.0, **FIXED),
      6,
      sampling=SamplingConfig(temperature=1.0, seed=10**6 + start * MANY),
    )
    np.add.at(counts, [r.tokens[1] for r in result.rows], 1)
  found = counts / counts.sum()
  distance = lambda p, q: float(np.abs(p - q).sum() / 2)
  # What 1,536 samples are off by, on average, is 0.054 at most.
  assert distance(found, exact['final']) < 0.08
  assert distance(exact['exit_2'], exact['final']) > 0.16


# MARK: Drafts from the text

# Each ends as it began, so there is something to be looked up at once.
REPEATING = [[3, 17, 8, 25, 3, 17], [7], [21, 4, 21, 4, 21, 4], [5, 14, 5, 14]]


@pytest.mark.parametrize(
  'batching', [Batching.RIDE_ALONG, Batching.DEPTH_QUEUE]
)
@pytest.mark.parametrize('shortest', [1, 2])
def test_looked_up_drafts_leave_the_text_alone(
  case, assert_is_reference, batching, shortest
):
  by_text = by_exits = rejected = 0
  for seed in range(3):
    model, prompts, thresholds = case(seed)
    model = with_weak_blocks(model, after=1, share=0.1)
    prompts = [[*p, *p] for p in prompts]
    policy = speculative(
      *thresholds, draft_length=3, batching=batching, prompt_lookup=shortest
    )
    result = run(model, prompts, policy)
    assert_is_reference(model, result)
    work = result.accounting
    by_text += work.looked_up_accepted
    by_exits += work.accepted - work.looked_up_accepted
    rejected += work.drafted - work.accepted
  assert by_text > 10 and by_exits > 3 and rejected > 10


@pytest.mark.parametrize('depth', [0, 1, 3])
def test_every_kind_of_exit_drafts_beside_the_text(
  lively, assert_is_reference, depth
):
  model = lively(EVERY_KIND_OF_EXIT, num_layers=5)
  model = with_weak_blocks(model, after=depth, share=0.3)
  policy = speculative(0.0, draft_depth=depth, draft_length=3, prompt_lookup=2)
  result = run(model, REPEATING, policy, 24)
  assert_is_reference(model, result)
  work = result.accounting
  assert 0 < work.looked_up_accepted <= work.looked_up < work.drafted
  assert sum(work.accepted_at) == work.accepted
  assert work.draft_windows >= work.accepted_at[0] >= work.accepted_at[1]


def test_samples_are_the_same_with_drafts_from_the_text(partly):
  sampling = SamplingConfig(temperature=0.7, top_k=3, seed=5)
  policy = speculative(0.0, **FIXED, prompt_lookup=1)
  drafted = run(partly, REPEATING * 8, policy, 24, sampling=sampling)
  full = run(partly, REPEATING * 8, Policy(), 24, sampling=sampling)
  assert [r.tokens for r in drafted.rows] == [r.tokens for r in full.rows]
  assert 0.1 < drafted.accounting.acceptance < 0.9
  assert drafted.accounting.looked_up_accepted > 32


def in_a_circle(model, *, period):
  """Return a model that counts on: after t comes t + 1, `period` times."""
  config, params = model
  backbone = params['backbone']
  width, size = config.model.embed_dim, config.model.vocab_size
  table = jnp.eye(size, width)
  after = [t - t % period + (t + 1) % period for t in range(size)]
  head = jnp.zeros((width, size)).at[jnp.arange(size), jnp.array(after)]
  blocks = jax.tree.map(jnp.zeros_like, backbone['blocks'])
  return config, {
    **params,
    'backbone': {
      **backbone,
      'embedding': {'table': table},
      'blocks': blocks,
      'head': {'kernel': head.set(10.0)},
    },
  }


def test_work_of_a_text_that_is_foretold(lively):
  model = in_a_circle(lively('2:norm', embed_dim=32), period=4)
  prompts = [[4, 5, 6, 7, 4, 5], [12, 13, 14, 15, 12, 13]]
  policy = speculative(None, **FIXED, prompt_lookup=2)
  result = run(model, prompts, policy, 12)
  for row in result.rows:
    begin = row.prompt_tokens[0]
    assert row.tokens == tuple(begin + (2 + i) % 4 for i in range(12))
    work = row.accounting
    # Three windows of four tokens, and nothing is fed twice.
    assert work.drafted == work.looked_up == work.looked_up_accepted == 9
    assert work.blocks_run == 4 * 12 and work.head_calls == 12
    # No block ran for a token before it was proposed.
    assert row.exit_depths == (0, 0, 0, 4) * 3
    assert row.scores == (None,) * 12
  # All blocks and the final head, three times, for both rows.
  assert (result.batch.block_reads, result.batch.head_reads) == (12, 3)


def test_exits_draft_where_the_text_foretells_nothing(lively, prompts):
  model = with_weak_blocks(lively('1:norm,2:norm'), after=2, share=0.1)
  alone = run(model, prompts, speculative(0.0, **FIXED), 3)
  never = {'prompt_lookup': 40}
  result = run(model, prompts, speculative(0.0, **FIXED, **never), 3)
  assert result.accounting == alone.accounting
  assert [r.exit_depths for r in result.rows] == [
    r.exit_depths for r in alone.rows
  ]


@pytest.mark.parametrize('exits', ['', '2:norm'])
def test_no_exit_is_compiled_where_only_the_text_drafts(lively, exits):
  model = in_a_circle(lively(exits, embed_dim=32), period=8)
  # Seven tokens that nothing foretells, then a circle that the text knows.
  policy = speculative(None, draft_length=3, prompt_lookup=2)
  result = run(model, [[3, 8]], policy, 12)
  assert len(result.batch.segment_runs) == 1
  assert 0 < result.accounting.looked_up_accepted < 12


NUMBERS = {
  'float32': {},
  'int8': {'quantization': Quantization.INT8},
  'int8_caches': {'kv_quantization': Quantization.INT8},
}


@pytest.mark.parametrize('numbers', NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize('batch', [slice(0, 1), slice(0, 4)], ids=['1', '4'])
def test_a_model_without_exits_loses_nothing(lively, numbers, batch):
  config, params = lively('')
  model = config, prepare(params, config=config, **numbers)
  prompts = REPEATING[batch]
  policy = speculative(None, draft_length=3, prompt_lookup=1)
  found = run(model, prompts, policy, 24)
  full = run(model, prompts, Policy(), 24)
  assert [r.tokens for r in found.rows] == [r.tokens for r in full.rows]
  for ours, theirs in zip(found.rows, full.rows, strict=True):
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=2e-3)
  work = found.accounting
  # Some stand and some do not.
  assert 0 < work.looked_up_accepted < work.looked_up == work.drafted


@pytest.mark.parametrize('rows', [1, 4])
def test_nothing_is_lost_in_bfloat16_where_no_tokens_are_near(lively, rows):
  # Its first choices are far from its second ones.
  model = in_a_circle(lively('', embed_dim=32), period=8)
  model = model[0], prepare(model[1], config=model[0], dtype=jnp.bfloat16)
  policy = speculative(None, draft_length=3, prompt_lookup=1)
  found = run(model, REPEATING[:rows], policy, 24)
  full = run(model, REPEATING[:rows], Policy(), 24)
  assert [r.tokens for r in found.rows] == [r.tokens for r in full.rows]
  work = found.accounting
  assert 0 < work.looked_up_accepted < work.looked_up


def test_rows_without_exits_have_the_text_they_have_alone(lively):
  model = lively('')
  policy = speculative(None, window=4, prompt_lookup=1)
  free = PlatformCosts(free_tokens=10**6, window_cost=0.0)
  together = run(model, REPEATING, policy, 24, platform=free)
  assert together.accounting.looked_up > 0
  for prompt, row in zip(REPEATING, together.rows, strict=True):
    assert run(model, [prompt], policy, 24).rows[0].tokens == row.tokens


def test_lookups_follow_what_is_kept(lively, prompts):
  model = with_weak_blocks(lively('1:norm,2:norm'), after=2, share=0.1)
  # Nobody repeats what the prompt says over and over.
  prompts = [[3, 3, 9, 3, 3, 9, 3, 3], [5, 6, 5, 6, 5, 6]]
  sampling = SamplingConfig(temperature=5.0, seed=1)
  policy = speculative(None, window=4, prompt_lookup=1)
  for prompt in prompts:
    work = run(model, [prompt], policy, 40, sampling=sampling).accounting
    assert work.looked_up_accepted < work.looked_up / 4
    # One step and a hundredth of the tokens may be lost, as windows cost.
    lost = platform_costs().window_cost * work.looked_up
    assert 0 < lost < work.looked_up_accepted + 1 + 0.01 * 40


@pytest.mark.parametrize('num_tokens', [1, 2, 5])
def test_the_context_ends_a_row_inside_looked_up_drafts(lively, num_tokens):
  model = in_a_circle(lively('2:norm', embed_dim=32), period=4)
  long = [4, 5, 6, 7] * 12
  rows = [long[: 48 - num_tokens], [4, 5, 6, 7, 4]]
  policy = speculative(None, **FIXED, prompt_lookup=2)
  result = run(model, rows, policy, num_tokens=9)
  full = run(model, rows, Policy(), num_tokens=9)
  assert [r.tokens for r in result.rows] == [r.tokens for r in full.rows]
  assert [len(r.tokens) for r in result.rows] == [num_tokens, 9]


@pytest.mark.parametrize('place', [0, 1, 2, 3, 6])
def test_nothing_is_emitted_after_an_end_token_that_was_looked_up(
  lively, place
):
  model = in_a_circle(lively('2:norm', embed_dim=32), period=8)
  prompt = [8 + i % 8 for i in range(10)]
  eos = 8 + (2 + place) % 8
  policy = speculative(None, **FIXED, prompt_lookup=2)
  (row,) = run(model, [prompt], policy, eos_ids=(eos,)).rows
  assert row.tokens == tuple(8 + (2 + i) % 8 for i in range(place + 1))
  assert row.finish_reason is FinishReason.EOS


# MARK: Bad input


@pytest.mark.parametrize(
  'exits, fields, message',
  [
    ('', {}, 'this model has no exits'),
    ('', {'prompt_lookup': 2, 'draft_depth': 1}, 'there is no exit at depth 1'),
    ('4:norm', {}, 'no exit of this model can draft'),
    ('1:norm,2:norm', {'draft_depth': 3}, 'there is no exit at depth 3'),
    (
      '1:norm,2:norm',
      {'draft_depth': 1, 'minimum_depth': 2},
      'no exit of this model can draft',
    ),
    ('1:norm,2:norm', {'draft_length': 48}, 'a window of 49 tokens is longer'),
    ('1:norm,2:norm', {'thresholds': (0.5,) * 3}, '3 thresholds for 2 exits'),
  ],
)
def test_models_that_cannot_speculate(lively, exits, fields, message):
  policy = Policy(
    **{
      'mode': Mode.SPECULATIVE,
      'thresholds': (0.5,),
      **fields,
    }
  )
  with pytest.raises(ArgumentError, match=message) as caught:
    run(lively(exits), [[3, 4]], policy)
  assert str(caught.value).endswith('.') and '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'draft_length': 0}, 'draft length must be at least 1'),
    ({'prompt_lookup': 0}, 'prompt lookup must be from 1 to 64'),
    ({'kv_strategy': KVStrategy.PROPAGATE}, 'kv strategy deferred'),
    ({'batching': Batching.REFERENCE}, 'ride_along and depth_queue'),
    ({'threshold_rule': 'decaying(4)'}, 'thresholds stay constant'),
    ({'criterion': 'js'}, 'js compares exits'),
    ({'scored_vocabulary': 'candidates(3)'}, 'settled by the first exit'),
  ],
)
def test_policies_that_speculation_refuses(fields, message):
  with pytest.raises(ArgumentError, match=message):
    Policy(**{'mode': Mode.SPECULATIVE, 'thresholds': (0.5,), **fields})
