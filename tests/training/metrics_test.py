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
"""Test means, records and the metrics file."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.testing import tiny
from eejax.training import metrics
from eejax.training.loss_sums import HeadSums, LossSums, no_sums
from eejax.training.metrics import MetricsRecord, MetricWriter


def sums_of(exits, final=None, tokens=4.0, objective=6.0):
  names = ('tokens', 'loss', 'correct', 'agree', 'confidence')
  rest = ('divergence', 'gate_loss', 'gate_correct')
  columns = {n: jnp.array([e.get(n, 0.0) for e in exits]) for n in names + rest}
  return LossSums(
    objective=jnp.array(objective),
    tokens=jnp.array(tokens),
    final=final or no_sums(()),
    exits=HeadSums(**columns),
  )


FULL = {
  'tokens': 4.0,
  'loss': 8.0,
  'correct': 1.0,
  'agree': 3.0,
  'confidence': 2.0,
  'gate_loss': 1.0,
  'gate_correct': 4.0,
}


def test_means_are_sums_over_tokens():
  config = tiny.tiny_config('1:norm,3:norm:gate')
  final = no_sums(()).replace(tokens=jnp.array(4.0), loss=jnp.array(2.0))
  values = metrics.means(sums_of([FULL, FULL], final), config=config)
  assert values['loss'] == 1.5
  assert values['final/loss'] == 0.5
  assert values['exit_1/loss'] == 2.0
  assert values['exit_1/accuracy'] == 0.25
  assert values['exit_1/agreement'] == 0.75
  assert values['exit_1/confidence'] == 0.5
  assert values['exit_3/gate_loss'] == 0.25
  assert values['exit_3/gate_accuracy'] == 1.0
  # What does not exist is not shown as a zero.
  assert 'exit_1/gate_loss' not in values
  assert 'exit_1/divergence' not in values
  assert 'final/agreement' not in values


def test_heads_that_took_no_part_are_left_out():
  config = tiny.tiny_config('1:norm,3:norm:gate')
  values = metrics.means(sums_of([{}, FULL]), config=config)
  assert not any(name.startswith(('final', 'exit_1')) for name in values)
  assert values['exit_3/loss'] == 2.0
  # Nobody knows whether an exit agrees with a head that was not run.
  assert 'exit_3/agreement' not in values


def test_an_empty_batch_divides_by_one():
  config = tiny.tiny_config('1:norm')
  empty = sums_of([{}], tokens=0.0, objective=0.0)
  assert metrics.means(empty, config=config) == {'loss': 0.0}


def test_sums_add_up_in_float64():
  config = tiny.tiny_config('1:norm')
  big = sums_of([{**FULL, 'loss': 2.0**24}])
  one = sums_of([{**FULL, 'loss': 1.0}])
  total = metrics.add_sums([big, one, one])
  assert total.exits.loss[0] == 2.0**24 + 2
  assert metrics.means(total, config=config)['exit_1/accuracy'] == 0.25


def steps(folder):
  return [r['step'] for r in metrics.read_records(folder)]


class TestMetricWriter:
  def test_records_are_lines_of_json(self, tmp_path):
    with MetricWriter(tmp_path, resume_step=None) as writer:
      writer.write([MetricsRecord(1, metrics.TRAIN, {'loss': 0.1 + 0.2})])
    line = (tmp_path / metrics.FILE).read_text()
    assert json.loads(line) == {
      'step': 1,
      'kind': 'train',
      'loss': 0.1 + 0.2,
    }

  def test_numbers_are_on_the_disk_at_once(self, tmp_path):
    with MetricWriter(tmp_path, resume_step=None) as writer:
      writer.write([MetricsRecord(1, metrics.TRAIN, {'loss': 1.0})])
      assert steps(tmp_path) == [1]

  def test_what_lies_beyond_the_checkpoint_is_removed(self, tmp_path):
    with MetricWriter(tmp_path, resume_step=None) as writer:
      writer.write([MetricsRecord(s, metrics.TRAIN, {}) for s in (1, 2, 3, 4)])
    with (tmp_path / metrics.FILE).open('a') as file:
      file.write('{"step": 5, "ki')
    with MetricWriter(tmp_path, resume_step=2) as writer:
      writer.write([MetricsRecord(3, metrics.TRAIN, {'again': 1.0})])
    assert steps(tmp_path) == [1, 2, 3]

  def test_a_run_without_a_checkpoint_starts_anew(self, tmp_path):
    for _ in range(2):
      with MetricWriter(tmp_path, resume_step=None) as writer:
        writer.write([MetricsRecord(0, metrics.HELD_OUT, {})])
    assert steps(tmp_path) == [0]

  @pytest.mark.parametrize('value', (math.nan, math.inf))
  def test_no_number_is_null(self, value):
    line = MetricsRecord(1, metrics.TRAIN, {'loss': value}).line()
    assert json.loads(line)['loss'] is None


def test_newest_held_out_means(tmp_path):
  assert metrics.last_held_out(tmp_path) == {}
  with MetricWriter(tmp_path, resume_step=None) as writer:
    writer.write(
      [
        MetricsRecord(0, metrics.HELD_OUT, {'final/loss': 2.0}),
        MetricsRecord(4, metrics.HELD_OUT, {'final/loss': 1.0}),
        MetricsRecord(5, metrics.TRAIN, {'loss': 9.0}),
      ]
    )
  assert metrics.last_held_out(tmp_path) == {'final/loss': 1.0}


def test_means_take_numpy_and_numbers():
  config = tiny.tiny_config('1:norm')
  sums = metrics.add_sums([sums_of([FULL])])
  assert isinstance(sums.tokens, (float, np.floating, np.ndarray))
  assert metrics.means(sums, config=config)['exit_1/loss'] == 2.0
