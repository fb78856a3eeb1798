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
"""Packing, sharding and resumption of batches."""

import itertools
import json

import numpy as np
import pytest

from eejax.data.batch import PackedBatches, Packing
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.errors import ArgumentError, EejaxError


def make_documents(lengths, *, seed=0):
  """Documents whose tokens are all different, so each pair is unique."""
  counter = itertools.count(1)
  return [
    np.array([next(counter) for _ in range(n)], np.int32) for n in lengths
  ]


LENGTHS = (5, 1, 23, 2, 9, 4, 0, 16, 3, 8, 31)


def make_batches(
  documents, *, passes=Passes.ONCE, packing=Packing.PACKED, seed=0, **kwargs
):
  source = InMemoryDocuments(documents, passes=passes, seed=seed)
  settings = {'sequence_length': 8, 'batch_size': 3, **kwargs}
  return PackedBatches(source, packing=packing, **settings)


def pairs_of(batches):
  found = []
  for batch in batches:
    counted = batch.weights > 0
    found += zip(batch.tokens[counted], batch.targets[counted], strict=True)
  return found


def pairs_in(documents):
  return [p for d in documents for p in itertools.pairwise(d)]


def assert_equal(a, b):
  for name, value in a.as_dict().items():
    np.testing.assert_array_equal(value, b.as_dict()[name], err_msg=name)


class TestPacking:
  def test_rows_are_as_written_out_by_hand(self):
    documents = [np.array(d, np.int32) for d in ([1, 2, 3], [4, 5, 6, 7, 8])]
    batches = make_batches(documents, sequence_length=4, batch_size=2)
    (batch,) = list(batches)
    np.testing.assert_array_equal(batch.tokens, [[1, 2, 4, 5], [6, 7, 0, 0]])
    np.testing.assert_array_equal(batch.targets, [[2, 3, 5, 6], [7, 8, 0, 0]])
    np.testing.assert_array_equal(batch.weights, [[1, 1, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(batch.positions, [[0, 1, 0, 1], [0, 1, 0, 0]])
    np.testing.assert_array_equal(
      batch.segment_ids, [[1, 1, 2, 2], [1, 1, 0, 0]]
    )
    for name in ('tokens', 'targets', 'positions', 'segment_ids'):
      assert batch.as_dict()[name].dtype == np.int32
    assert batch.weights.dtype == np.float32

  def test_one_per_row_by_hand(self):
    documents = [
      np.array(d, np.int32) for d in ([1, 2, 3], [4, 5, 6, 7, 8, 9], [3, 2])
    ]
    batches = make_batches(
      documents, packing=Packing.ONE_PER_ROW, sequence_length=3, batch_size=4
    )
    (batch,) = list(batches)
    np.testing.assert_array_equal(
      batch.tokens, [[1, 2, 0], [4, 5, 6], [7, 8, 0], [3, 0, 0]]
    )
    np.testing.assert_array_equal(
      batch.targets, [[2, 3, 0], [5, 6, 7], [8, 9, 0], [2, 0, 0]]
    )
    np.testing.assert_array_equal(
      batch.segment_ids, [[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    )

  @pytest.mark.parametrize('packing', Packing)
  @pytest.mark.parametrize('sequence_length', [1, 3, 8, 64])
  def test_every_prediction_is_made_once(self, packing, sequence_length):
    documents = make_documents(LENGTHS)
    batches = make_batches(
      documents, packing=packing, sequence_length=sequence_length
    )
    assert pairs_of(batches) == pairs_in(documents)

  def test_packed_rows_are_full_but_the_last(self):
    batches = list(make_batches(make_documents(LENGTHS)))
    rows = np.concatenate([b.weights for b in batches])
    used = rows[rows.sum(1) > 0]
    assert (used[:-1] == 1).all()

  @pytest.mark.parametrize('packing', Packing)
  def test_positions_and_segments_tell_documents_apart(self, packing):
    documents = make_documents(LENGTHS)
    document_of = {t: i for i, d in enumerate(documents) for t in d}
    for batch in make_batches(documents, packing=packing):
      for row in range(len(batch.tokens)):
        for column in range(1, batch.tokens.shape[1]):
          if not batch.weights[row, column]:
            continue
          before, here = batch.tokens[row, column - 1 : column + 1]
          same = document_of[before] == document_of[here]
          segments = batch.segment_ids[row, column - 1 : column + 1]
          assert (segments[0] == segments[1]) == same
          position = batch.positions[row, column]
          expected = batch.positions[row, column - 1] + 1 if same else 0
          assert position == expected

  def test_it_stays_at_its_end(self):
    batches = make_batches(make_documents((5, 6)))
    list(batches)
    with pytest.raises(StopIteration):
      next(batches)


class TestEpochs:
  def test_every_epoch_has_every_document_in_another_order(self):
    documents = make_documents([4] * 40)
    source = InMemoryDocuments(documents, passes=Passes.ENDLESS, seed=3)
    stream = [tuple(d) for d in itertools.islice(source.documents(start=0), 80)]
    first, second = stream[:40], stream[40:]
    assert sorted(first) == sorted(second) == [tuple(d) for d in documents]
    assert first != second
    assert first != sorted(first)

  def test_the_seed_decides(self):
    documents = make_documents([4] * 40)

    def stream(seed):
      batches = make_batches(documents, passes=Passes.ENDLESS, seed=seed)
      return pairs_of(itertools.islice(batches, 10))

    assert stream(1) == stream(1)
    assert stream(1) != stream(2)

  def test_the_order_is_the_same_on_every_machine(self):
    source = InMemoryDocuments(
      make_documents([2] * 8), passes=Passes.ENDLESS, seed=17
    )
    firsts = [
      int(d[0]) // 2 for d in itertools.islice(source.documents(start=8), 8)
    ]
    assert firsts == [6, 4, 0, 3, 1, 5, 7, 2]


class TestSharding:
  @pytest.mark.parametrize('packing', Packing)
  @pytest.mark.parametrize('num_shards', [2, 3, 5])
  def test_shards_are_disjoint_complete_and_equally_long(
    self, packing, num_shards
  ):
    documents = make_documents(LENGTHS)
    shards = [
      list(
        make_batches(
          documents, packing=packing, shard_index=i, num_shards=num_shards
        )
      )
      for i in range(num_shards)
    ]
    assert len({len(s) for s in shards}) == 1
    found = [p for s in shards for p in pairs_of(s)]
    assert sorted(found) == sorted(pairs_in(documents))

  def test_endless_shards_are_disjoint_and_complete_in_an_epoch(self):
    documents = make_documents([9] * 12)  # one document fills one row of 8
    batches = [
      make_batches(
        documents,
        passes=Passes.ENDLESS,
        shard_index=i,
        num_shards=2,
        batch_size=3,
      )
      for i in range(2)
    ]
    found = [p for b in batches for p in pairs_of(itertools.islice(b, 2))]
    assert sorted(found) == sorted(pairs_in(documents))


class TestResumption:
  @pytest.mark.parametrize('packing', Packing)
  @pytest.mark.parametrize('passes', Passes)
  @pytest.mark.parametrize('shard', [(0, 1), (1, 3)])
  def test_interrupted_at_every_batch(self, packing, passes, shard):
    documents = make_documents(LENGTHS)

    def fresh():
      return make_batches(
        documents,
        packing=packing,
        passes=passes,
        shard_index=shard[0],
        num_shards=shard[1],
      )

    whole = list(itertools.islice(fresh(), 25))
    for interrupted in range(len(whole) + 1):
      before = fresh()
      for expected in whole[:interrupted]:
        assert_equal(next(before), expected)
      state = json.loads(json.dumps(before.state()))
      after = fresh()
      next(after)  # what it did before must not matter
      after.restore(state)
      assert after.state() == state
      rest = list(itertools.islice(after, len(whole) - interrupted + 1))
      if passes is Passes.ONCE:
        assert len(rest) == len(whole) - interrupted
      for a, b in zip(rest, whole[interrupted:], strict=False):
        assert_equal(a, b)

  @pytest.mark.parametrize(
    'change',
    [
      {'sequence_length': 16},
      {'batch_size': 2},
      {'packing': Packing.ONE_PER_ROW},
      {'shard_index': 1, 'num_shards': 2},
      {'seed': 1},
    ],
  )
  def test_other_settings_are_refused(self, change):
    documents = make_documents(LENGTHS)
    batches = make_batches(documents, passes=Passes.ENDLESS)
    next(batches)
    other = make_batches(documents, passes=Passes.ENDLESS, **change)
    with pytest.raises(EejaxError, match='resume with the same data'):
      other.restore(batches.state())

  def test_another_corpus_is_refused(self):
    state = make_batches(make_documents(LENGTHS)).state()
    changed = make_documents(LENGTHS)
    changed[2][7] = 999
    with pytest.raises(EejaxError, match='fingerprint'):
      make_batches(changed).restore(state)


class TestBadInput:
  @pytest.mark.parametrize(
    'settings',
    [
      {'sequence_length': 0},
      {'batch_size': 0},
      {'shard_index': 2, 'num_shards': 2},
      {'shard_index': -1},
    ],
  )
  def test_numbers_out_of_range(self, settings):
    with pytest.raises(ArgumentError):
      make_batches(make_documents(LENGTHS), **settings)

  def test_nothing_to_predict(self):
    with pytest.raises(EejaxError, match='nothing to predict'):
      make_batches(make_documents((1, 0, 1)))
