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
"""Test the recipe of probing, with counted work in place of a clock."""

import json

import jax
import numpy as np
import pytest

from eejax.analysis.candidate import Answer
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError
from eejax.evaluation.part_times import PartTimes
from eejax.recipes.probe import probe
from eejax.recipes.text import read_text
from eejax.testing import tiny
from eejax.testing.planted import idle_from

# A block and a head cost their reads, whatever the machine does.
TIMES = PartTimes(blocks=6.0, head=0.1, widths=(1, 2, 4), factors=(1.0,) * 3)
WORDS = 'alpha beta gamma delta epsilon zeta eta theta iota kappa'.split()


def reads(result):
  reads = result.batch.block_reads + 0.1 * result.batch.head_reads
  return Timing(decode_s=float(reads))


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  random = np.random.default_rng(0)
  path = tmp_path_factory.mktemp('probe') / 'lines.txt'
  lines = [' '.join(random.choice(WORDS, 60)) for _ in range(40)]
  path.write_text('\n'.join(lines))
  return read_text(path, unit='line')


@pytest.fixture(scope='module')
def idle(text, tmp_path_factory):
  """Return a model whose blocks from the second on do nothing."""
  tokenizer = train_bpe(list(text.documents()), vocab_size=300)
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer.save(folder)
  config = tiny.tiny_config(
    '',
    num_layers=6,
    vocab_size=300,
    bos_id=tokenizer.bos_id,
    eos_ids=(),
    max_length=96,
  )
  params = idle_from(jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config)), 1)
  return Model(config, params, tokenizer_folder=folder)


@pytest.fixture(scope='module')
def result(idle, text):
  return probe(
    idle,
    text,
    window=4,
    max_tokens=600,
    sequence_length=30,
    num_prompts=3,
    new_tokens=8,
    repeats=1,
    times=TIMES,
    clock=reads,
  )


def test_exits_that_save_work_pay_without_loss(result):
  verdict = result.verdict
  assert verdict.answer is Answer.YES
  assert verdict.noise.value == 1.0 and verdict.prompts == 3
  assert verdict.is_forecast  # It has no exits of its own.
  best = verdict.best
  assert best.measured.loss.value == 0 and best.measured.speedup.low > 1.05
  # Each candidate that could be decoded was measured.
  assert all(c.measured for c in verdict.candidates if c.policy)
  exact = [c for c in verdict.candidates if c.promise.value == 'exact']
  assert len(exact) == 3
  assert all(c.measured.loss.value == 0 for c in exact)


def test_a_result_shows_and_saves_itself(result, tmp_path):
  values = json.loads(json.dumps(result.to_json()))
  assert values['answer'] == 'yes'
  assert values['headline'] == result.summary() in str(result)
  assert values['natural_exits']['saved_if_stable']['value'] > 0.5
  assert len(result.table()) == len(values['candidates'])
  assert [row['depth'] for row in result.depth_rows()] == list(range(7))
  assert 'Ceiling: ' in ' '.join(result.sentences())
  page = result.save(tmp_path / 'probe.html').read_text()
  assert page.startswith('<!DOCTYPE html>')
  assert '<script' not in page and 'http' not in page
  assert page.count('<svg viewBox') >= 2
  assert 'must take to pay' in page and 'What was probed' in page
  assert result.summary().replace("'", '&#x27;') in page


def test_it_draws_itself(result):
  axes = result.plot().axes[0]
  assert axes.get_lines()
  words = ' '.join(text.get_text() for text in axes.get_legend().get_texts())
  measured = [c for c in result.verdict.candidates if c.speedup is not None]
  assert measured and all(c.name in words for c in measured)


def test_another_machine_is_forecast(idle, text):
  found = probe(
    idle,
    text,
    hardware='h100_80g',
    max_tokens=300,
    sequence_length=30,
  )
  assert found.verdict.noise is None
  assert found.verdict.machine == 'H100 80GB SXM (roofline)'
  assert found.summary().startswith('Forecast (nothing was measured)')


@pytest.mark.parametrize(
  'wrong, sentence',
  [
    ({'loss': 1.0}, 'loss must lie in'),
    ({'window': 0}, 'window must be at least 1'),
    ({'max_exits': 0}, 'must be at least 1'),
    ({'hardware': 'abacus'}, "no hardware 'abacus'"),
  ],
)
def test_wrong_questions_are_refused(idle, text, wrong, sentence):
  with pytest.raises(ArgumentError, match=sentence):
    probe(idle, text, **wrong)
