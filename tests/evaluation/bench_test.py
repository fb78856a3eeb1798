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

from eejax.decoding.generate import generate
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation import bench
from eejax.evaluation.bench import Bench, Grid, Strategy
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


def test_a_line_counts_what_generate_counts(model):
  line = bench_of(model).measure(Strategy(LOOSE, 1))
  full, ours = (rows_of(model, policy) for policy in (Policy(), LOOSE))
  pairs = [
    (a, b)
    for theirs, mine in zip(full, ours, strict=True)
    for a, b in zip(theirs.rows[0].tokens, mine.rows[0].tokens, strict=True)
  ]
  total = len(PROMPTS) * NEW
  assert line.tokens == len(pairs) == total
  assert line.same_place == sum(a == b for a, b in pairs) / total < 1
  assert 0 <= line.same_start <= line.same_place
  work = [r.accounting for r in ours]
  assert line.blocks_per_token == sum(w.blocks_run for w in work) / total
  assert line.head_calls_per_token == sum(w.head_calls for w in work) / total
  depths = [d for r in ours for d in r.rows[0].exit_depths]
  assert line.mean_depth == sum(depths) / total
  cost = lambda rs: sum(
    r.batch.block_reads + 2 * r.batch.head_reads for r in rs
  )
  assert line.predicted_speedup == pytest.approx(cost(full) / cost(ours))
  assert line.speedup.low <= line.speedup.value <= line.speedup.high
  assert 0 < line.tokens_per_s_with_prefill < line.tokens_per_s
  assert line.acceptance is None


def test_full_and_speculative_agree_with_full(model):
  measuring = bench_of(model, repeats=1)
  full = measuring.measure(Strategy(Policy(), 2))
  assert full.same_place == full.same_start == full.predicted_speedup == 1
  drafted = measuring.measure(Strategy(DRAFTS, 2))
  assert drafted.same_place == 1 and drafted.acceptance is not None


def test_every_batch_is_full_and_counted(model):
  runs = []
  measuring = bench_of(model, repeats=1)
  setting = Strategy(Policy(), 2)
  line = measuring.measure(setting, on_run=lambda: runs.append(1))
  # Three prompts make two batches of two: the first stands twice.
  assert line.tokens == 4 * NEW
  assert len(runs) == measuring.num_runs(setting) == 2 * 2 * 2


def test_a_text_that_ends_sooner_agrees_in_part(model):
  (whole,) = bench_of(model, prompts=PROMPTS[:1])._batches(1)
  params, config = model
  go_on = lambda n: generate(
    params, config=config, prompts=whole, max_new_tokens=n, eos_ids=()
  )
  assert bench._agreement([go_on(6)], [go_on(3)]) == (0.5, 0.5)


def test_a_grid_combines_what_makes_sense():
  grid = Grid(
    criteria=('max_prob', 'margin'),
    thresholds=(0.5, None),
    kv_strategies=(KVStrategy.DEFERRED, KVStrategy.COPY),
    batchings=(Batching.RIDE_ALONG, Batching.ALL_AGREE),
    batch_sizes=(1, 4),
  )
  settings = grid.settings()
  assert len(set(settings)) == len(settings)
  count = lambda mode, size: sum(
    s.policy.mode is mode and s.batch_size == size for s in settings
  )
  assert settings[0] == Strategy(Policy(), 1)
  assert [count(Mode.FULL, n) for n in (1, 4)] == [1, 1]
  assert [count(Mode.EARLY_EXIT, n) for n in (1, 4)] == [8, 16]
  # Speculation has exact keys and values, and no batching all_agree.
  assert [count(Mode.SPECULATIVE, n) for n in (1, 4)] == [2, 2]


def test_a_setting_is_known_by_plain_values():
  values = Strategy(LOOSE, 3).values()
  assert values['batch_size'] == 3 and values['thresholds'] == [1e-9, 'never']
  assert 'backbone_hash' not in values


@pytest.mark.parametrize('changes', [{'repeats': 0}, {'prompts': []}])
def test_there_must_be_something_to_measure(model, changes):
  with pytest.raises(ArgumentError, match='at least'):
    bench_of(model, **changes)
