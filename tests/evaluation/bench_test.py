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
"""Test the measuring of ways to decode."""

import jax
import pytest

from eejax import serialization
from eejax.decoding.generate import generate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError
from eejax.evaluation import bench as bench_lib
from eejax.evaluation.bench import Bench, BenchmarkRow
from eejax.evaluation.strategies import Strategy
from eejax.testing import tiny

PROMPTS = [[3, 4, 5, 6], [9, 8], [20, 7, 11]]
NEW = 7
LOOSE = Policy(Mode.EARLY_EXIT, 'max_prob', (1e-9, None), window=4)
DRAFTS = Policy(Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=2)


@pytest.fixture(scope='module')
def model():
  """Return a model whose exits often disagree with it."""
  config = tiny.tiny_config('1:norm,3:mlp')
  return jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config)), config


def bench_of(model, **changes):
  params, config = model
  settings = {
    'prompts': PROMPTS,
    'repeats': 2,
    # A block takes a second and a head two.
    'predict': lambda work, batch, *, policy, tokens, rows: (
      batch.block_reads + 2 * batch.head_reads
    ),
  }
  return Bench(
    params,
    config=config,
    max_new_tokens=NEW,
    dtype='float32',
    **{**settings, **changes},
  )


def rows_of(model, policy):
  params, config = model
  return [
    generate(
      params,
      config=config,
      prompts=[prompt],
      policy=policy,
      max_new_tokens=NEW,
      eos_ids=(),
    )
    for prompt in PROMPTS
  ]


def work_clock(result):
  """Take a second for a block, two for a head."""
  reads = result.batch
  seconds = reads.block_reads + 2 * reads.head_reads
  return Timing(prefill_s=1.0, decode_s=float(seconds))


def test_a_row_counts_what_generate_counts(model):
  bench = bench_of(model, clock=work_clock)
  (measurement,) = bench.measure([Strategy(LOOSE, 1)])
  row = measurement.row
  full, ours = (rows_of(model, policy) for policy in (Policy(), LOOSE))
  pairs = [
    (a, b)
    for theirs, mine in zip(full, ours, strict=True)
    for a, b in zip(theirs.rows[0].tokens, mine.rows[0].tokens, strict=True)
  ]
  total = len(PROMPTS) * NEW
  assert row.tokens == len(pairs) == total
  assert row.same_place == sum(a == b for a, b in pairs) / total < 1
  assert 0 <= row.same_start <= row.same_place
  assert row.texts == len(PROMPTS) > row.same_texts
  assert [g.tokens for g in measurement.generated] == [
    r.rows[0].tokens for r in ours
  ]
  work = [r.accounting for r in ours]
  assert row.blocks_per_token == sum(w.blocks_run for w in work) / total
  assert row.head_calls_per_token == sum(w.head_calls for w in work) / total
  depths = [d for r in ours for d in r.rows[0].exit_depths]
  assert row.mean_depth == sum(depths) / total
  assert row.exit_shares == tuple(depths.count(d) / total for d in (1, 3, 4))
  assert row.acceptance is None and row.drafted == 0


def test_the_clock_is_believed_and_the_prediction_stands_beside(model):
  bench = bench_of(model, clock=work_clock)
  (measurement,) = bench.measure([Strategy(LOOSE, 1)])
  row = measurement.row
  seconds = lambda policy: [
    work_clock(result).decode_s for result in rows_of(model, policy)
  ]
  full, ours = seconds(Policy()), seconds(LOOSE)
  ratios = [a / b for a, b in zip(full, ours, strict=True)]
  assert row.speedup.value == pytest.approx(sum(full) / sum(ours))
  assert row.speedup.low == pytest.approx(min(ratios))
  assert row.speedup.high == pytest.approx(max(ratios))
  assert row.predicted_speedup == pytest.approx(row.speedup.value)
  assert row.tokens_per_s == pytest.approx(row.tokens / sum(ours))
  assert row.full_tokens_per_s == pytest.approx(row.tokens / sum(full))
  # Each batch has a prefill of a second.
  whole = sum(ours) + len(PROMPTS)
  assert row.tokens_per_s_with_prefill == pytest.approx(row.tokens / whole)


def test_full_is_timed_against_itself_beside_the_others(model):
  seconds = iter(range(1, 1000))
  clock = lambda result: Timing(decode_s=float(next(seconds)))
  bench = bench_of(model, repeats=1, prompts=PROMPTS[:1], clock=clock)
  runs = []
  strategies = [Strategy(Policy(), 2), Strategy(DRAFTS, 2)]
  full, drafted = (
    measurement.row
    for measurement in bench.measure(strategies, on_run=lambda: runs.append(1))
  )
  assert full.same_place == full.same_start == full.predicted_speedup == 1
  assert full.speedup.value != 1
  assert drafted.same_place == 1 and drafted.same_texts == drafted.texts == 2
  assert drafted.acceptance == drafted.accepted / drafted.drafted
  # Full decoding, itself again and drafts, each warmed up once.
  assert len(runs) == bench.num_runs(strategies) == 3 * 2


def test_every_batch_is_full_and_counted(model):
  runs = []
  bench = bench_of(model, repeats=1)
  strategies = [Strategy(Policy(), 2)]
  (measurement,) = bench.measure(strategies, on_run=lambda: runs.append(1))
  # Three prompts make two batches of two: the first stands twice.
  assert measurement.row.tokens == 4 * NEW
  assert len(runs) == bench.num_runs(strategies) == 2 * 2 * 2
  speedup = measurement.row.speedup
  assert speedup.low <= speedup.value <= speedup.high


def test_a_text_that_ends_sooner_agrees_in_part(model):
  params, config = model
  go_on = lambda n: (
    generate(
      params, config=config, prompts=PROMPTS[:1], max_new_tokens=n, eos_ids=()
    ).rows
  )
  assert bench_lib._agreement(go_on(6), go_on(3)) == (0.5, 0.5)


def test_continuations_are_a_text(model):
  params, config = model
  result = generate(
    params,
    config=config,
    prompts=[[3, 4], [9, 8]],
    max_new_tokens=3,
    eos_ids=(),
  )
  batch = bench_lib.continuations(result.rows)
  whole = [[*row.prompt_tokens, *row.tokens] for row in result.rows]
  assert batch.tokens.tolist() == [text[:-1] for text in whole]
  assert batch.targets.tolist() == [text[1:] for text in whole]
  assert batch.positions.tolist() == [[0, 1, 2, 3]] * 2
  mixed = [*result.rows, *rows_of(model, Policy())[0].rows]
  with pytest.raises(ArgumentError, match='equally long'):
    bench_lib.continuations(mixed)


def test_a_row_is_rebuilt_from_json(model):
  bench = bench_of(model, repeats=1, clock=work_clock)
  (measurement,) = bench.measure([Strategy(LOOSE, 1)])
  values = serialization.plain(measurement.row)
  assert BenchmarkRow.from_json(values) == measurement.row
  # Rows that were written before there were shares are still read.
  del values['exit_shares'], values['texts']
  assert BenchmarkRow.from_json(values).exit_shares == ()


@pytest.mark.parametrize('sizes', [(), (1, 2)])
def test_strategies_that_take_turns_have_one_batch_size(model, sizes):
  with pytest.raises(ArgumentError, match='one batch size'):
    bench_of(model).measure([Strategy(Policy(), size) for size in sizes])


@pytest.mark.parametrize('changes', [{'repeats': 0}, {'prompts': []}])
def test_there_must_be_something_to_measure(model, changes):
  with pytest.raises(ArgumentError, match='at least'):
    bench_of(model, **changes)
