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
"""Test the benchmark: rows, files, resuming, wrong arguments."""

import dataclasses
import json

import jax
import pytest

from eejax.checkpoint.model import Model
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError
from eejax.evaluation.bench import Bench
from eejax.evaluation.part_times import PartTimes
from eejax.evaluation.strategies import Grid
from eejax.progress import Progress
from eejax.recipes.bench import bench
from eejax.report import bench_page
from eejax.testing import tiny

HASH = '1' * 64
EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (1e-9, None), window=4)
BOTH = Grid(modes=(Mode.SPECULATIVE,), prompt_lookups=(None,))
TIMES = {size: PartTimes(4.0, 1.0, rows=size) for size in (1, 2)}


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm,3:mlp')
  params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config))
  return Model(config, params, backbone_hash=HASH)


def work_clock(result):
  """Take a second for a block and one for a head."""
  reads = result.batch
  return Timing(decode_s=float(reads.block_reads + reads.head_reads))


def run(model, policies=None, **changes):
  arguments = {
    'prompts': [[3, 4, 5]],
    'batch_sizes': (1,),
    'max_new_tokens': 5,
    'repeats': 1,
    'times': TIMES,
    'clock': work_clock,
  }
  return bench(model, policies, **{**arguments, **changes})


def test_policies_are_measured_beside_full_decoding(model):
  result = run(model, [EARLY], batch_sizes=(1, 2))
  settings = [
    (row.setting['mode'], row.setting['batch_size']) for row in result.measured
  ]
  modes = ('full', 'early_exit')
  assert settings == [(mode, size) for size in (1, 2) for mode in modes]
  assert {size: noise.value for size, noise in result.noise.items()} == {
    1: 1.0,
    2: 1.0,
  }
  row = result.measured[1]
  # Blocks take a second each, and so do heads, as the clock has it; the
  # prediction counts the norms of exits, too.
  assert row.speedup.value == pytest.approx(row.predicted_speedup, rel=0.01)
  assert row.speedup.value > 1 and row.tokens == 5
  assert 'At batch 2 the fastest is early exit max_prob' in result.summary()
  assert result.table()[1]['strategy'] == 'early exit max_prob 1e-09,never'
  assert result.values['prompts'] == 'the caller'


def test_a_result_shows_itself(model, tmp_path):
  result = run(model, [EARLY], name='<model>')
  page = result.save(tmp_path / 'bench.html').read_text()
  assert '<svg' in page and '&lt;model&gt;' in page
  assert 'src=' not in page and 'href=' not in page
  assert 'early exit max_prob' in page
  saved = json.loads(result.save(tmp_path / 'bench.json').read_text())
  assert saved['lines'][1]['speedup']['value'] > 1
  assert {'eejax', 'jax', 'device', 'cores', 'load'} <= set(
    saved['environment']
  )
  assert [times['blocks'] for times in saved['part_times']] == [4.0]
  assert result.plot().axes[0].get_ylabel().startswith('speed-up')


def test_a_grid_is_the_usual_thing(model):
  result = run(model, batch_sizes=(1,), grid=Grid(thresholds=(0.5,)))
  names = [bench_page.name_of(row.setting) for row in result.measured]
  assert names == [
    'full',
    'early exit max_prob 0.5',
    'speculative max_prob 0.4',
    'speculative max_prob lookup 2 0.4',
  ]
  speculative = result.measured[2:]
  assert all(row.same_place == 1 for row in speculative)
  assert [row.setting['window'] for row in speculative] == [8, 8]


def test_the_parts_of_decoding_are_timed_where_nobody_knows(model):
  result = run(model, [EARLY], times=None)
  (times,) = result.values['part_times']
  assert times['blocks'] > 0 and times['widths'] == [1, 2, 4]
  assert result.measured[1].predicted_speedup > 0


class Notes(Progress):
  """Keep what is said."""

  def __init__(self):
    self.notes = []

  def say(self, text):
    self.notes.append(text)


def test_what_is_there_is_not_measured_again(model, tmp_path, monkeypatch):
  out = tmp_path / 'new' / 'bench.json'
  measured, honest = [], Bench.measure

  def measure(self, strategies, **kwargs):
    modes = [s.policy.mode.value for s in strategies]
    if len(measured) == 1 and modes == ['speculative']:
      raise KeyboardInterrupt
    measured.extend(modes)
    return honest(self, strategies, **kwargs)

  monkeypatch.setattr(Bench, 'measure', measure)
  # Stopped: the row before is kept.
  with pytest.raises(KeyboardInterrupt):
    run(model, grid=BOTH, out=out)
  first = json.loads(out.read_text())['lines']
  assert [x['setting']['mode'] for x in first] == ['full']
  measured.append('again')
  notes = Notes()
  run(model, grid=BOTH, out=out, progress=notes)
  assert measured == ['full', 'again', 'speculative']
  assert notes.notes == [f'1 of 2 strategies are in {out} already']
  assert json.loads(out.read_text())['lines'][0] == first[0]
  # Nothing is left to do, and nothing is done.
  result = run(model, grid=BOTH, out=out)
  assert len(measured) == 3 and len(result.measured) == 2
  # Neither another model nor other tokens belong there.
  before = out.read_bytes()
  exits = jax.tree.map(lambda x: 2 * x, model.params['exits'])
  other = dataclasses.replace(model, params={**model.params, 'exits': exits})
  with pytest.raises(ArgumentError, match='of another model or other exits'):
    run(other, grid=BOTH, out=out)
  with pytest.raises(ArgumentError, match='with other prompts'):
    run(model, grid=BOTH, out=out, max_new_tokens=4)
  assert out.read_bytes() == before


@pytest.mark.parametrize('text', ['{', '[]', '{"format": 1}'])
def test_a_file_of_something_else_is_left_alone(model, tmp_path, text):
  out = tmp_path / 'bench.json'
  out.write_text(text)
  with pytest.raises(ArgumentError):
    run(model, [EARLY], out=out)
  assert out.read_text() == text
  with pytest.raises(ArgumentError, match='is a folder'):
    run(model, [EARLY], out=tmp_path)


QUEUE = Grid(
  batchings=(Batching.DEPTH_QUEUE,), kv_strategies=(KVStrategy.RECOMPUTE,)
)


@pytest.mark.parametrize(
  'changes, sentence',
  [
    ({'grid': Grid(criteria=('luck',))}, "no criterion 'luck'"),
    ({'grid': Grid(criteria=('gate',))}, 'none at depths 1, 3'),
    ({'grid': Grid(criteria=('patience(2,3)',))}, 'patience'),
    ({'grid': Grid(thresholds=(2.0,))}, 'must lie in'),
    ({'grid': QUEUE}, 'cannot wait halfway'),
    ({'batch_sizes': (0,)}, 'batch_sizes must be positive'),
    ({'batch_sizes': ()}, 'batch_sizes must be positive'),
    ({'repeats': 0}, 'repeats must be at least 1'),
    ({'window': 99}, 'window of 99'),
    ({'max_new_tokens': 48}, 'leave room'),
    ({'peers': 'absent.json'}, 'cannot be read'),
    ({'policies': [Policy(backbone_hash='0' * 64)]}, 'fitted for another'),
  ],
)
def test_wrong_arguments_leave_nothing(model, tmp_path, changes, sentence):
  out = tmp_path / 'never' / 'bench.json'
  with pytest.raises(ArgumentError, match=sentence):
    run(model, out=out, **changes)
  assert not out.parent.exists()


def test_a_model_without_exits_has_nothing_to_compare(model):
  bare = dataclasses.replace(model, config=model.config.with_exits(()))
  with pytest.raises(ArgumentError, match='has no exits'):
    run(bare)


def peers_file(tmp_path, **changes):
  values = {
    'backbone_hashes': [HASH],
    'lines': [
      {
        'decoder': 'transformers <generate>',
        'batch_size': 1,
        'tokens_per_s_with_prefill': 2.0,
      }
    ],
  }
  path = tmp_path / 'peers.json'
  path.write_text(json.dumps({**values, **changes}))
  return path


def test_peers_stand_on_the_page(model, tmp_path):
  result = run(model, [EARLY], peers=peers_file(tmp_path))
  assert result.peer_rows()[0]['decoder'] == 'transformers <generate>'
  assert 'transformers &lt;generate&gt;' in result.page()


@pytest.mark.parametrize(
  'changes, sentence',
  [
    ({'backbone_hashes': ['x']}, 'other weights'),
    ({'lines': [{}]}, 'benchmarks/peers.py'),
    ({'lines': [3]}, 'benchmarks/peers.py'),
  ],
)
def test_peers_must_be_of_this_model(model, tmp_path, changes, sentence):
  out = tmp_path / 'bench.json'
  with pytest.raises(ArgumentError, match=sentence):
    run(model, [EARLY], peers=peers_file(tmp_path, **changes), out=out)
  assert not out.exists()
