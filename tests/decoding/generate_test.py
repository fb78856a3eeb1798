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
"""Tests of generation against a decoder that keeps nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.loop import cache, programs
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.criteria import Evidence, get_criterion
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.ops.sampling import SamplingConfig
from eejax.testing.reference_decoder import reference_generate
from eejax.testing.tiny import EVERY_KIND_OF_EXIT

NUM_TOKENS = 14


def early(criterion='max_prob', *thresholds, window=2, **fields):
  # A narrow window is little to compile.
  return Policy(
    Mode.EARLY_EXIT, criterion, thresholds or (None,), window=window, **fields
  )


@functools.cache
def score_of(name):
  """Return a criterion as the reference decoder calls it."""
  criterion = get_criterion(name)
  one = jax.jit(
    lambda logits, gate_logit: criterion.score(
      Evidence(gate_logit=gate_logit[None], logits=logits[None])
    )[0]
  )
  return lambda logits, gate: float(one(jnp.asarray(logits), jnp.float32(gate)))


def reference(model, prompt, policy, num_tokens=NUM_TOKENS):
  config, params = model
  thresholds = policy.thresholds
  if len(thresholds) == 1:
    thresholds = thresholds * len(config.exits)
  return reference_generate(
    params,
    config=config,
    prompt=prompt,
    num_tokens=num_tokens,
    score=score_of(policy.criterion),
    thresholds=thresholds,
    window=policy.window,
  )


def run(model, prompts, policy=FULL_DEPTH, num_tokens=NUM_TOKENS, **options):
  config, params = model
  return generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
    **options,
  )


def assert_row_equals(row, expected):
  assert list(row.tokens) == expected.tokens
  assert list(row.exit_depths) == expected.exit_depths
  assert [s is None for s in row.scores] == [s is None for s in expected.scores]
  at_exits = [s is not None for s in expected.scores]
  found, scores = np.array(row.scores), np.array(expected.scores)
  np.testing.assert_allclose(
    found[at_exits].astype(float), scores[at_exits].astype(float), atol=2e-4
  )
  np.testing.assert_allclose(row.logprobs, expected.logprobs, atol=2e-3)


def median_scores(model, prompts, criterion):
  """Return a threshold for each exit that about half of all tokens pass."""
  config, _ = model
  thresholds = []
  for index in range(len(config.exits)):
    only = [None] * len(config.exits)
    only[index] = 1e-9
    text = reference(model, prompts[0], early(criterion, *only, window=4))
    thresholds.append(float(np.median([s for s in text.scores if s])))
  return tuple(thresholds)


# MARK: Full depth


@pytest.mark.parametrize(
  'overrides',
  [
    {},
    {'tied_head': True, 'qkv_bias': True},
    {'qk_norm': True, 'num_kv_heads': 4},
    {'sliding_window': 3, 'full_attention_blocks': 1},
  ],
)
def test_full_depth_equals_the_reference(lively, prompts, overrides):
  model = lively(**overrides)
  result = run(model, prompts)
  for row, prompt in zip(result.rows, prompts, strict=True):
    expected = reference_generate(
      model[1], config=model[0], prompt=prompt, num_tokens=NUM_TOKENS
    )
    assert_row_equals(row, expected)
    assert row.finish_reason is FinishReason.LENGTH
  # Or the test would see little.
  assert len({t for row in result.rows for t in row.tokens}) > 5


@pytest.mark.parametrize('criterion', ['gate', 'max_prob'])
def test_never_equals_full(lively, prompts, criterion):
  model = lively()
  full, never = run(model, prompts), run(model, prompts, early(criterion))
  for a, b in zip(full.rows, never.rows, strict=True):
    assert (a.tokens, a.exit_depths, a.scores) == (
      b.tokens,
      b.exit_depths,
      b.scores,
    )
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


# MARK: Early exit


@pytest.mark.parametrize('criterion', ['gate', 'max_prob', 'margin', 'entropy'])
def test_early_exit_equals_the_reference(lively, prompts, criterion):
  model = lively()
  thresholds = median_scores(model, prompts, criterion)
  policy = early(criterion, *thresholds, window=3)
  result = run(model, prompts, policy)
  depths = [d for row in result.rows for d in row.exit_depths]
  assert len(set(depths)) >= 3
  for row, prompt in zip(result.rows, prompts, strict=True):
    assert_row_equals(row, reference(model, prompt, policy))


def test_every_kind_of_exit_equals_the_reference(lively, prompts):
  model = lively(EVERY_KIND_OF_EXIT, num_layers=5)
  medians = median_scores(model, prompts, 'max_prob')
  for skipped in range(5):
    # Never reached, where None would leave the exit out of the program.
    thresholds = [1.0] * skipped + list(medians[skipped:])
    policy = early('max_prob', *thresholds)
    result = run(model, prompts, policy)
    for row, prompt in zip(result.rows, prompts, strict=True):
      assert_row_equals(row, reference(model, prompt, policy))


def test_block_exits_see_every_token_that_passes_them(lively, prompts):
  # The exit at depth 2 must have keys of tokens that left at depth 1.
  model = lively('1:norm,2:block,4:block', sliding_window=4)
  thresholds = median_scores(model, prompts, 'max_prob')
  policy = early('max_prob', *thresholds, window=3)
  for prompt in prompts:
    row = run(model, [prompt], policy, 20).rows[0]
    assert_row_equals(row, reference(model, prompt, policy, 20))


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('window', [2, 3, 7])
def test_windows_of_any_width_equal_the_reference(
  lively, prompts, seed, window
):
  model = lively('1:norm,2:norm,3:norm', seed=seed)
  rng = np.random.default_rng(10 * seed + window)
  base = median_scores(model, prompts, 'margin')
  thresholds = [float(np.clip(t * rng.uniform(0.5, 1.5), 0, 1)) for t in base]
  policy = early('margin', *thresholds, window=window)
  result = run(model, prompts, policy, 24)
  for row, prompt in zip(result.rows, prompts, strict=True):
    assert_row_equals(row, reference(model, prompt, policy, 24))


def test_rows_equal_their_single_row_runs(lively, prompts):
  model = lively(seed=1)
  thresholds = median_scores(model, prompts, 'gate')
  policy = early('gate', *thresholds)
  together = run(model, prompts, policy, eos_ids=(3, 9))
  for row, prompt in zip(together.rows, prompts, strict=True):
    alone = run(model, [prompt], policy, eos_ids=(3, 9)).rows[0]
    assert row.tokens == alone.tokens
    assert row.exit_depths == alone.exit_depths
    assert row.finish_reason == alone.finish_reason


@pytest.mark.parametrize('window', [1, 2, 5])
def test_every_window_th_token_is_forced_to_full_depth(lively, prompts, window):
  # Every score passes 1e-30, so only the window forces depth.
  policy = early('max_prob', 1e-30, window=window)
  for row in run(lively(), prompts, policy, 2 * window + 3).rows:
    forced = [(n + 1) % window == 0 for n in range(len(row.tokens))]
    assert [d == 4 for d in row.exit_depths] == forced
    assert [s is None for s in row.scores] == forced


def test_threshold_0_ends_the_model_there(lively, prompts):
  model = lively()
  result = run(model, prompts, early('max_prob', None, 0.0, 0.5))
  assert {d for r in result.rows for d in r.exit_depths} == {2}
  for row in result.rows:
    # No catch-up, no forced depth: two blocks a token.
    assert row.accounting.blocks_run == 2 * len(row.tokens)
    assert row.accounting.catch_up_blocks == 0
    assert None not in row.scores
  unforced = early('max_prob', None, 1e-30, None, window=10**6)
  for row, prompt in zip(result.rows, prompts, strict=True):
    assert_row_equals(row, reference(model, prompt, unforced))


def test_threshold_0_reads_no_deeper_block(lively, prompts):
  config, params = lively()
  whole = prepare(params, config=config)
  shallow = dataclasses.replace(whole, blocks=whole.blocks[:2])
  policy = early('max_prob', None, 0.0, None)
  rows = run((config, shallow), prompts, policy).rows
  assert rows == run((config, whole), prompts, policy).rows
  with pytest.raises(ArgumentError, match='4 blocks, and 2 were loaded'):
    run((config, shallow), prompts)


def test_minimum_depth_leaves_shallow_exits_out(lively, prompts):
  model = lively()
  policy = early('max_prob', 1e-30, minimum_depth=2)
  depths = {d for r in run(model, prompts, policy).rows for d in r.exit_depths}
  assert depths == {2, 4}


def test_garbage_beyond_what_is_valid_is_never_read(
  lively, prompts, monkeypatch
):
  model = lively('1:block,2:mlp,3:norm', seed=2)
  thresholds = median_scores(model, prompts, 'max_prob')
  policy = early('max_prob', *thresholds)
  clean = run(model, prompts, policy)
  empty = cache.empty_segment

  def dirty(*args, **kwargs):
    state = empty(*args, **kwargs)
    fill = lambda x: None if x is None else x + 1e6
    return dataclasses.replace(
      state,
      keys=tuple(map(fill, state.keys)),
      values=tuple(map(fill, state.values)),
      waiting=fill(state.waiting),
    )

  monkeypatch.setattr(cache, 'empty_segment', dirty)
  programs.prefill.clear_cache()
  dirtied = run(model, prompts, policy)
  monkeypatch.undo()
  programs.prefill.clear_cache()
  assert [r.tokens for r in dirtied.rows] == [r.tokens for r in clean.rows]
  assert [r.scores for r in dirtied.rows] == [r.scores for r in clean.rows]


def test_bfloat16_runs_with_the_same_shapes(lively, prompts):
  result = run(lively(), prompts, early('gate', 0.5), dtype=jnp.bfloat16)
  assert all(len(r.tokens) == NUM_TOKENS for r in result.rows)
  assert np.isfinite([p for r in result.rows for p in r.logprobs]).all()


# MARK: Calls of the loop


@pytest.mark.parametrize('tokens_per_call', [1, 3, 32])
def test_how_calls_are_cut_changes_nothing(lively, prompts, tokens_per_call):
  model, policy = lively(), early('max_prob', 0.3)
  updates = []
  result = run(
    model,
    prompts,
    policy,
    tokens_per_call=tokens_per_call,
    on_tokens=updates.append,
  )
  assert result.rows == run(model, prompts, policy).rows
  for number, row in enumerate(result.rows):
    mine = [u for u in updates if u.row == number]
    assert sum((u.tokens for u in mine), ()) == row.tokens
    assert max(len(u.tokens) for u in mine) <= tokens_per_call
    assert [u.finish_reason for u in mine][-1] is row.finish_reason
    assert {u.finish_reason for u in mine[:-1]} <= {None}


def test_shapes_are_compiled_once(lively):
  model = lively('1:norm', seed=5, max_length=200)
  programs.decode_chunk.clear_cache()
  programs.prefill.clear_cache()
  for prompt, threshold, tokens in [
    ([3, 4, 5], 0.3, 5),
    ([3] * 9, 0.9, 40),  # the same buckets
    ([9, 9], None, 1),
  ]:
    run(model, [prompt], early('max_prob', threshold), tokens)
  assert programs.decode_chunk._cache_size() == 1
  run(model, [[3] * 20], early('max_prob', 0.3), 60)  # a larger cache
  assert programs.decode_chunk._cache_size() == 2


def test_prepared_parameters_give_the_same(lively, prompts):
  config, params = lively()
  prepared = prepare(params, config=config)
  policy = early('gate', 0.5)
  assert (
    run((config, prepared), prompts, policy).rows
    == run((config, params), prompts, policy).rows
  )


def test_timing_separates_compilation(lively):
  model = lively('2:norm', seed=6)
  programs.decode_chunk.clear_cache()
  programs.prefill.clear_cache()
  first, second = run(model, [[3, 4]]).timing, run(model, [[3, 4]]).timing
  assert first.compile_s > 10 * second.compile_s
  assert first.decode_s < first.compile_s
  assert second.tokens_per_s == pytest.approx(NUM_TOKENS / second.decode_s)


# MARK: Endings


def test_eos_ends_a_row_and_no_other(lively, prompts):
  model = lively()
  free = run(model, prompts)
  eos = free.rows[2].tokens[4]
  result = run(model, prompts, eos_ids=(eos, 999))
  for row, whole in zip(result.rows, free.rows, strict=True):
    ends = whole.tokens.index(eos) + 1 if eos in whole.tokens else NUM_TOKENS
    assert row.tokens == whole.tokens[:ends]
    reason = FinishReason.EOS if eos in whole.tokens else FinishReason.LENGTH
    assert row.finish_reason is reason
    # A row that has ended costs nothing, whatever the others do.
    assert row.accounting.blocks_run == 4 * ends
  assert len(result.rows[2].tokens) <= 5


def test_a_row_that_has_ended_asks_for_nothing(lively):
  # One row fills the context at its first token; the other always exits.
  model = lively('1:norm', seed=1)
  long, short = [11, 5, 23] * 15 + [9, 2], [7, 12]
  always = run(model, [short], early('max_prob', 1e-30), 30).rows[0]
  lowest = min(s for s in always.scores if s is not None)
  policy = early('max_prob', lowest * 0.999)
  alone = run(model, [short], policy, 30)
  beside = run(model, [long, short], policy, 30)
  assert len(beside.rows[0].tokens) == 1
  assert beside.rows[1].tokens == alone.rows[0].tokens == always.tokens
  # At most the long row's own token took the three deeper blocks along.
  assert beside.batch.block_reads <= alone.batch.block_reads + 3
  assert beside.batch.head_reads <= alone.batch.head_reads + 1


def test_the_models_own_eos_is_the_default(lively):
  config, params = lively()
  free = run((config, params), [[3, 4]]).rows[0]
  model = dataclasses.replace(config.model, eos_ids=(free.tokens[2],))
  ended = run((dataclasses.replace(config, model=model), params), [[3, 4]])
  assert (
    ended.rows[0].tokens == free.tokens[: free.tokens.index(free.tokens[2]) + 1]
  )


def test_the_context_ends_a_row(lively):
  model = lively(max_length=12)
  result = run(model, [[3] * 9, [4] * 2], num_tokens=30)
  assert [len(r.tokens) for r in result.rows] == [3, 10]
  assert all(r.finish_reason is FinishReason.LENGTH for r in result.rows)


# MARK: Sampling


def test_samples_do_not_depend_on_the_batch(lively, prompts):
  model, policy = lively(), early('max_prob', 0.3)
  sampling = SamplingConfig(temperature=1.5, top_k=20, seed=7)
  together = run(model, prompts, policy, sampling=sampling)
  for number, prompt in enumerate(prompts):
    alone = run(
      model, [prompt], policy, sampling=sampling, seeds=[7 + number]
    ).rows[0]
    assert alone.tokens == together.rows[number].tokens
  again = run(model, prompts, policy, sampling=sampling)
  assert again.rows == together.rows


def test_equal_prompts_get_different_samples(lively):
  sampling = SamplingConfig(temperature=1.0)
  rows = run(lively(), [[3, 4], [3, 4]], sampling=sampling).rows
  assert rows[0].tokens != rows[1].tokens


def test_logprobs_are_those_of_the_emitting_head(lively, prompts):
  # Sampled tokens differ from the likeliest, so an argmax would show.
  model, policy = lively(), early('max_prob', None, 1e-30, None)
  config, params = model
  sampling = SamplingConfig(temperature=2.0, seed=3)
  row = run(model, prompts[:1], policy, sampling=sampling).rows[0]
  tokens = jnp.array([prompts[0] + list(row.tokens)])
  heads = decoder.logits(params, tokens, config=config)
  for index, (token, depth) in enumerate(
    zip(row.tokens, row.exit_depths, strict=True)
  ):
    head = heads['final' if depth == 4 else f'exit_{depth}']
    logits = head[0, len(prompts[0]) - 1 + index]
    expected = logits[token] - np.logaddexp.reduce(logits)
    assert row.logprobs[index] == pytest.approx(float(expected), abs=2e-3)


# MARK: Bad input


@pytest.mark.parametrize(
  'prompts, message',
  [
    ([], 'no prompt'),
    ([[3] * 48], 'has 48 tokens and the context of the model is 48'),
    ([[3], [4, 29]], 'prompt 2 has token 29'),
    ([[-1]], 'has token -1'),
  ],
)
def test_prompts_that_cannot_be_used(lively, prompts, message):
  with pytest.raises(ArgumentError, match=message):
    run(lively(), prompts)


def test_an_empty_prompt_becomes_the_start_token(lively):
  model = lively()
  assert run(model, [[]]).rows[0].tokens == run(model, [[1]]).rows[0].tokens
  without = lively(bos_id=None)
  with pytest.raises(ArgumentError, match='no start token'):
    run(without, [[3], []])


def test_policies_that_do_not_fit(lively):
  with pytest.raises(ArgumentError, match='no exits'):
    run(lively(''), [[3]], early('max_prob', 0.5))
  with pytest.raises(ArgumentError, match='depth 1,? ?'):
    run(lively('1:norm,2:norm:gate'), [[3]], early('gate', 0.5))
  with pytest.raises(ArgumentError, match='2 thresholds for 3 exits'):
    run(lively(), [[3]], early('gate', 0.5, 0.5))


def test_numbers_that_do_not_fit(lively):
  with pytest.raises(ArgumentError, match='max_new_tokens'):
    run(lively(), [[3]], num_tokens=0)
  with pytest.raises(ArgumentError, match='1 seeds for 2 prompts'):
    run(lively(), [[3], [4]], seeds=[1])
