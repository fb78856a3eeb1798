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
"""Test the file of a captured text and what can be asked of one."""

import json

import numpy as np
import pytest

from eejax.capture import file as capture_file
from eejax.capture.captured import (
  POSITION_FIELDS,
  Captured,
  CaptureFacts,
  Readout,
  ReadoutKind,
  compared_with,
)
from eejax.errors import ArgumentError, CheckpointError

NATURAL, EXIT = ReadoutKind.NATURAL, ReadoutKind.EXIT
READOUTS = (
  Readout('depth_0', 0.0, NATURAL),
  Readout('attention_1', 0.5, ReadoutKind.ATTENTION),
  Readout('depth_1', 1.0, NATURAL),
  Readout('exit_1', 1.0, EXIT),
  Readout('depth_2', 2.0, NATURAL),
)
FACTS = CaptureFacts(
  readouts=READOUTS,
  fields=('loss', 'top_tokens'),
  num_candidates=2,
  num_layers=2,
  vocab_size=7,
  model={'name': 'm'},
)
NUMBER = 6


def arrays(size=NUMBER, seed=0):
  random = np.random.default_rng(seed)
  return {
    **{
      k: random.integers(0, 3, size).astype(t)
      for k, t in POSITION_FIELDS.items()
    },
    'row': np.sort(random.integers(0, 3, size)).astype(np.int32),
    'weight': np.ones(size, np.float32),
    'loss': random.random((5, size)).astype(np.float32),
    'top_tokens': random.integers(0, 7, (5, size, 2)).astype(np.int32),
  }


@pytest.fixture
def folder(tmp_path):
  for i in range(2):
    capture_file.write_part(tmp_path, i, arrays(seed=i))
  capture_file.write_facts(tmp_path, FACTS, parts=2, complete=True, text={})
  return tmp_path


def test_parts_are_read_as_one(folder):
  found = capture_file.read(folder)
  assert found.facts == FACTS
  assert found.num_positions == 2 * NUMBER
  np.testing.assert_array_equal(found.loss[:, NUMBER:], arrays(seed=1)['loss'])
  np.testing.assert_array_equal(found.top1, found.top_tokens[..., 0])
  # What the docstring promises to those who have numpy alone.
  part = np.load(folder / 'part-00001.npz')
  np.testing.assert_array_equal(part['loss'], arrays(seed=1)['loss'])


def test_arrays_are_read_when_asked_for(folder):
  found = capture_file.read(folder)
  (folder / 'part-00001.npz').unlink()
  with pytest.raises(CheckpointError, match='part-00001.npz is missing'):
    _ = found.loss


@pytest.mark.parametrize('content', ['{', '{}', '{"format": 1, "facts": 3}'])
def test_facts_that_are_broken(folder, content):
  (folder / capture_file.NAME).write_text(content)
  with pytest.raises(CheckpointError, match='broken'):
    capture_file.read(folder)


def test_a_format_of_tomorrow(folder):
  file = folder / capture_file.NAME
  file.write_text(json.dumps({**json.loads(file.read_text()), 'format': 9}))
  with pytest.raises(CheckpointError, match='update eejax'):
    capture_file.read(folder)


def test_a_part_that_is_cut_short(folder):
  file = folder / 'part-00000.npz'
  file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(CheckpointError, match='part-00000.npz is broken'):
    _ = capture_file.read(folder).loss


def test_no_capture(tmp_path):
  with pytest.raises(ArgumentError, match='no captured text'):
    capture_file.read(tmp_path)


class TestCaptured:
  @pytest.fixture
  def captured(self):
    return Captured(FACTS, arrays())

  def test_readouts_by_kind(self, captured):
    names = lambda *kinds: [r.name for r in captured.only(*kinds).readouts]
    assert names(NATURAL) == ['depth_0', 'depth_1', 'depth_2']
    # The full model's output stays, for all is compared with it.
    assert names(EXIT) == ['exit_1', 'depth_2']
    np.testing.assert_array_equal(
      captured.only(EXIT).loss, captured.loss[[3, 4]]
    )
    np.testing.assert_array_equal(captured.only(EXIT).row, captured.row)

  def test_kinds_that_are_not_there(self, captured):
    with pytest.raises(ArgumentError, match='no exit read-outs'):
      captured.only(NATURAL).at_readouts([0, 1]).only(EXIT)

  def test_positions(self, captured):
    found = captured.at_positions(captured.target == 1)
    assert (found.target == 1).all()
    np.testing.assert_array_equal(
      found.loss, captured.loss[:, captured.target == 1]
    )

  def test_sums_by_row(self, captured):
    sums, counts = captured.by_row(captured.loss)
    rows = np.unique(captured.row)
    wanted = [captured.loss[:, captured.row == r].sum(axis=1) for r in rows]
    np.testing.assert_allclose(sums, np.stack(wanted, axis=1), rtol=1e-6)
    assert counts.tolist() == [(captured.row == r).sum() for r in rows]

  def test_other_names_are_missed(self, captured):
    with pytest.raises(AttributeError, match='perplexity'):
      _ = captured.perplexity
    with pytest.raises(ArgumentError, match='no entropy'):
      _ = captured.entropy
    assert 'entropy' not in captured and 'loss' in captured

  def test_rows_need_not_stand_in_order(self):
    values = arrays()
    values['row'] = np.array([2, 0, 2, 1, 0, 0], np.int32)
    sums, counts = Captured(FACTS, values).by_row(np.arange(6.0))
    assert sums.tolist() == [10.0, 3.0, 2.0]
    assert counts.tolist() == [3, 1, 2]


def test_what_each_readout_is_compared_with():
  assert compared_with(READOUTS) == (None, 0, 0, None, 2)


def test_facts_survive_a_file():
  values = json.loads(json.dumps(FACTS.to_json()))
  assert CaptureFacts.from_json(values) == FACTS
