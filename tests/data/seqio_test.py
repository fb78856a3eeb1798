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
"""The vocabulary, tasks and document source of seqio."""

import collections
import dataclasses
import functools
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

pytest.importorskip('seqio', reason='needs the train extra')

from eejax.data import seqio_pipeline, seqio_tasks
from eejax.data.batch import Packing
from eejax.data.batches import DataConfig, make_batches, make_source
from eejax.data.corpus import Split, TextUnit
from eejax.data.memory_source import Passes
from eejax.data.seqio_pipeline import SeqioDocuments
from eejax.data.seqio_runtime import seqio, tf, tfds
from eejax.data.seqio_tasks import TfdsSpec
from eejax.data.seqio_vocabulary import HuggingFaceVocabulary
from eejax.data.special_tokens import SpecialTokens
from eejax.data.tokenizer import Tokenizer, train_bpe
from eejax.errors import ArgumentError, EejaxError

pytestmark = pytest.mark.seqio

LINES = [f'line {i}: ' + 'abc ' * (i % 7) + '☃' for i in range(60)]


@pytest.fixture(scope='module')
def tokenizer():
  return train_bpe(LINES, vocab_size=300)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('text') / 'a.txt'
  path.write_text('\n'.join(LINES))
  return path


@pytest.fixture
def config(file):
  return DataConfig(
    corpus=f'seqio:files:{file}',
    unit=TextUnit.LINE,
    sequence_length=16,
    batch_size=4,
    seed=5,
  )


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """A tfds data folder with the dataset `tiny/plain`, written here."""
  folder = tmp_path_factory.mktemp('tfds')

  def split(lines):
    return tf.data.Dataset.from_tensor_slices(
      {'text': lines, 'label': list(range(len(lines)))}
    )

  tfds.dataset_builders.store_as_tfds_dataset(
    name='tiny',
    version='1.0.0',
    config='plain',
    features=tfds.features.FeaturesDict(
      {'text': tfds.features.Text(), 'label': np.int64}
    ),
    split_datasets={'train': split(LINES[:40]), 'test': split(LINES[40:])},
    data_dir=folder,
    disable_shuffling=True,
  )
  return folder


def texts_of(source, tokenizer, *, start=0, count=None):
  documents = itertools.islice(source.documents(start=start), count)
  return [tokenizer.decode(d) for d in documents]


def assert_equal(a, b):
  for name, value in a.as_dict().items():
    np.testing.assert_array_equal(value, b.as_dict()[name], err_msg=name)


class TestVocabulary:
  def test_python(self, tokenizer):
    vocabulary = HuggingFaceVocabulary(tokenizer)
    ids = vocabulary.encode('a ☃ b')
    assert ids == tokenizer.encode('a ☃ b', add_bos=False)
    assert vocabulary.decode([*ids, tokenizer.eos_id, *ids]) == 'a ☃ b'
    assert vocabulary.vocab_size == 300
    assert (vocabulary.bos_id, vocabulary.eos_id) == (1, 2)

  def test_tensorflow(self, tokenizer):
    vocabulary = HuggingFaceVocabulary(tokenizer)
    texts = ['a ☃ b', '', 'abc abc']
    for text in texts:
      ids = vocabulary.encode_tf(tf.constant(text))
      assert ids.dtype == tf.int32
      assert ids.numpy().tolist() == vocabulary.encode(text)
      assert vocabulary.decode_tf(ids).numpy().decode() == text
    rows = vocabulary.encode_tf(tf.constant(texts))
    assert rows.to_list() == [vocabulary.encode(t) for t in texts]

  def test_tensorflow_decodes_up_to_the_end_token(self, tokenizer):
    vocabulary = HuggingFaceVocabulary(tokenizer)
    ids = [*vocabulary.encode('ab'), tokenizer.eos_id, *vocabulary.encode('c')]
    texts = vocabulary.decode_tf(tf.constant([ids, ids[::-1]])).numpy()
    assert [t.decode() for t in texts] == ['ab', 'c']

  def test_padding_that_is_a_token_decodes_to_nothing(self):
    """Qwen's id 0 is an exclamation mark, and seqio pads with 0."""
    inner = tokenizers.Tokenizer(
      tokenizers.models.WordLevel({'!': 0, 'ab': 1}, unk_token='!')
    )
    inner.add_special_tokens(['<end>'])
    special = SpecialTokens(eos_ids=(2,))
    vocabulary = HuggingFaceVocabulary(Tokenizer(inner, special=special))
    assert vocabulary.decode_tf(tf.constant([1, 2, 1, 1])).numpy() == b'ab'

  def test_in_a_graph(self, tokenizer):
    vocabulary = HuggingFaceVocabulary(tokenizer)
    dataset = tf.data.Dataset.from_tensor_slices(LINES)
    dataset = dataset.map(
      lambda s: vocabulary.decode_tf(vocabulary.encode_tf(s))
    )
    assert [s.decode() for s in dataset.as_numpy_iterator()] == LINES

  def test_equality(self, tokenizer):
    again = HuggingFaceVocabulary(train_bpe(LINES, vocab_size=300))
    other = HuggingFaceVocabulary(train_bpe(LINES, vocab_size=299))
    assert HuggingFaceVocabulary(tokenizer) == again
    assert HuggingFaceVocabulary(tokenizer) != other


class TestSource:
  def test_it_has_the_documents_of_the_plain_path(
    self, config, file, tokenizer
  ):
    plain = DataConfig(corpus=str(file), unit=TextUnit.LINE)
    for split in Split:
      ours, theirs = (
        list(
          make_source(c, tokenizer, split, passes=Passes.ONCE).documents(
            start=3
          )
        )
        for c in (config, plain)
      )
      assert len(ours) == len(theirs)
      for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.int32

  def test_standard_library(self, tokenizer):
    ours, theirs = (
      next(
        make_batches(
          DataConfig(corpus=corpus), tokenizer, Split.TEST, passes=Passes.ONCE
        )
      )
      for corpus in ('seqio:eejax_stdlib', 'stdlib')
    )
    assert_equal(ours, theirs)

  def test_every_epoch_has_every_document_in_another_order(
    self, config, tokenizer
  ):
    source = make_source(config, tokenizer, Split.ALL)
    texts = texts_of(source, tokenizer, count=180)
    epochs = [texts[i : i + 60] for i in (0, 60, 120)]
    for epoch in epochs:
      assert sorted(epoch) == sorted(LINES)
    assert len(set(map(tuple, epochs))) == 3

  @pytest.mark.parametrize('start', [1, 59, 60, 61, 130])
  def test_start(self, config, tokenizer, start):
    source = make_source(config, tokenizer, Split.ALL)
    texts = texts_of(source, tokenizer, count=150)
    again = make_source(config, tokenizer, Split.ALL)
    rest = texts_of(again, tokenizer, start=start, count=150 - start)
    assert rest == texts[start:]

  def test_the_seed_decides(self, config, tokenizer):
    def texts(seed):
      source = SeqioDocuments(
        seqio_pipeline._provider(config, tokenizer),
        tokenizer=tokenizer,
        split='train',
        passes=Passes.ENDLESS,
        seed=seed,
      )
      return texts_of(source, tokenizer, count=40)

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)

  def test_shards_are_disjoint_and_complete(self, config, tokenizer):
    provider = seqio_pipeline._provider(config, tokenizer)
    found = []
    for i in range(7):
      source = SeqioDocuments(
        provider,
        tokenizer=tokenizer,
        split='all',
        passes=Passes.ENDLESS,
        seed=5,
        shard_index=i,
        num_shards=7,
      )
      size = 9 if i < 4 else 8
      found += texts_of(source, tokenizer, count=size)
    assert sorted(found) == sorted(LINES)

  def test_evaluation_shards_have_equally_many_batches(self, config, tokenizer):
    shards = []
    for i in range(4):
      shard = dataclasses.replace(config, shard_index=i, num_shards=4)
      batches = make_batches(shard, tokenizer, Split.ALL, passes=Passes.ONCE)
      shards.append(list(batches))
    assert len({len(s) for s in shards}) == 1
    targets = [b.targets[b.weights > 0] for s in shards for b in s]
    ends = (np.concatenate(targets) == tokenizer.eos_id).sum()
    assert ends == len(LINES)

  def test_training_shards_are_disjoint_and_complete(self, config, tokenizer):
    found = []
    for i in range(2):
      shard = dataclasses.replace(
        config,
        sequence_length=64,
        packing=Packing.ONE_PER_ROW,
        shard_index=i,
        num_shards=2,
      )
      batches = make_batches(shard, tokenizer, Split.ALL)
      for batch in itertools.islice(batches, 15):  # of 2 documents
        found += [tokenizer.decode(row) for row in batch.tokens]
    assert sorted(found) == sorted(LINES)

  def test_a_task_without_known_size(self, tokenizer, config):
    """A filter hides how many examples there are."""
    task = seqio_pipeline._provider(config, tokenizer)
    seqio.TaskRegistry.remove('filtered')
    seqio.TaskRegistry.add(
      'filtered',
      source=task.source,
      output_features=task.output_features,
      preprocessors=[
        seqio.preprocessors.tokenize,
        lambda ds: ds.filter(lambda x: tf.size(x['targets']) > 8),
      ],
    )
    config = DataConfig(corpus='seqio:filtered')
    texts = texts_of(
      make_source(config, tokenizer, Split.ALL), tokenizer, count=150
    )
    size = sum(len(tokenizer.encode(x, add_bos=False)) > 8 for x in LINES)
    assert 0 < size < 60
    assert sorted(texts[:size]) == sorted(texts[size : 2 * size])
    again = make_source(config, tokenizer, Split.ALL)
    assert (
      texts_of(again, tokenizer, start=size + 7, count=20)
      == (texts[size + 7 : size + 27])
    )


PAIRS = [(f'ask {i}', f'answer {i}') for i in range(12)]


def register_pairs(tokenizer, *, weights=None):
  """Register questions with answers, and weights of these if given."""
  vocabulary = HuggingFaceVocabulary(tokenizer)
  features = {
    'inputs': seqio.Feature(vocabulary, add_eos=False),
    'targets': seqio.Feature(vocabulary, add_eos=False),
  }
  if weights is not None:
    features['loss_weights'] = seqio.ContinuousFeature(dtype=tf.float32, rank=1)

  def read(split, shuffle_files=False, seed=None):
    asked, answered = zip(*PAIRS, strict=True)
    return tf.data.Dataset.from_tensor_slices(
      {'inputs': list(asked), 'targets': list(answered)}
    )

  def weigh(example):
    count = tf.size(example['targets'])
    return {**example, 'loss_weights': weights(count)}

  tokenize = functools.partial(
    seqio.preprocessors.tokenize, copy_pretokenized=False
  )
  steps = [tokenize, seqio.CacheDatasetPlaceholder()]
  if weights is not None:
    steps.append(lambda ds: ds.map(weigh))
  seqio.TaskRegistry.remove('pairs')
  return seqio.TaskRegistry.add(
    'pairs',
    source=seqio.FunctionDataSource(read, splits=('train', 'validation')),
    preprocessors=steps,
    output_features=features,
  )


def write_cache(folder, split, rows):
  """Write rows as `seqio_cache_tasks` does, which needs Apache Beam."""
  folder.mkdir()
  path = str(folder / f'{split}.tfrecord-00000-of-00001')
  number = lambda ids: tf.train.Feature(
    int64_list=tf.train.Int64List(value=ids.tolist())
  )
  with tf.io.TFRecordWriter(path) as writer:
    for row in rows:
      features = tf.train.Features(
        feature={k: number(v) for k, v in row.items()}
      )
      writer.write(tf.train.Example(features=features).SerializeToString())
  described = {k: {'shape': [None], 'dtype': 'int32'} for k in rows[0]}
  info = {'features': described, 'num_shards': 1, 'seqio_version': '0.0.20'}
  (folder / f'info.{split}.json').write_text(json.dumps(info))
  (folder / f'stats.{split}.json').write_text(
    json.dumps({'examples': len(rows)})
  )
  (folder / 'COMPLETED').touch()


def pairs_of(tokenizer, **settings):
  source = SeqioDocuments(
    seqio.get_mixture_or_task('pairs'),
    tokenizer=tokenizer,
    split='validation',
    passes=Passes.ONCE,
    **settings,
  )
  return list(source.documents(start=0))


class TestFeatures:
  def test_inputs_are_read_and_targets_learned(self, tokenizer):
    register_pairs(tokenizer)
    documents = pairs_of(tokenizer)
    assert len(documents) == len(PAIRS)
    for document, (asked, answered) in zip(documents, PAIRS, strict=True):
      inputs, targets = (
        tokenizer.encode(x, add_bos=False) for x in (asked, answered)
      )
      tokens = [tokenizer.bos_id, *inputs, *targets, tokenizer.eos_id]
      assert document.tokens.tolist() == tokens
      learned = len(targets) + 1
      expected = [0] * (len(tokens) - learned) + [1] * learned
      assert document.weights.tolist() == expected

  def test_a_mask_says_more(self, tokenizer):
    register_pairs(
      tokenizer, weights=lambda n: tf.cast(tf.range(n) % 2, tf.float32)
    )
    (document, *_) = pairs_of(tokenizer)
    count = len(tokenizer.encode(PAIRS[0][1], add_bos=False))
    mask = document.weights[-count - 1 : -1].tolist()
    assert mask == [i % 2 for i in range(count)]

  def test_a_mask_of_another_length_is_refused(self, tokenizer):
    register_pairs(tokenizer, weights=lambda n: tf.ones([n + 1]))
    with pytest.raises(EejaxError, match='loss_weights for'):
      pairs_of(tokenizer)

  def test_batches_count_the_targets_alone(self, tokenizer):
    register_pairs(tokenizer)
    config = DataConfig(
      corpus='seqio:pairs', sequence_length=24, batch_size=2, seed=1
    )
    batch = next(make_batches(config, tokenizer, Split.TRAIN))
    text = tokenizer.decode(batch.targets[batch.weights > 0])
    assert 'answer' in text and 'ask' not in text

  def test_what_seqio_has_cached(self, tokenizer, tmp_path):
    task = register_pairs(tokenizer)
    whole = pairs_of(tokenizer)
    rows = task.get_dataset(None, 'validation', shuffle=False)
    write_cache(
      tmp_path / task.name, 'validation', list(rows.as_numpy_iterator())[:3]
    )
    seqio.set_global_cache_dirs([str(tmp_path)])
    try:
      cached = pairs_of(tokenizer, use_cached=True)
    finally:
      seqio.set_global_cache_dirs([])
    assert len(cached) == 3  # so it was the cache that was read
    for found, expected in zip(cached, whole, strict=False):
      np.testing.assert_array_equal(found.tokens, expected.tokens)
      np.testing.assert_array_equal(found.weights, expected.weights)


class TestMixture:
  @pytest.fixture
  def mixture(self, config, file, tokenizer):
    for name, part in (('first', LINES[:20]), ('second', LINES[20:])):
      path = file.parent / f'{name}.txt'
      path.write_text('\n'.join(part))
      seqio_tasks.register_files(
        path, name=name, tokenizer=tokenizer, unit=TextUnit.LINE
      )
    seqio.MixtureRegistry.remove('both')
    return seqio.MixtureRegistry.add('both', [('first', 1), ('second', 3)])

  def test_resumption(self, mixture, tokenizer):
    config = DataConfig(corpus='seqio:both', seed=3)
    texts = texts_of(
      make_source(config, tokenizer, Split.ALL), tokenizer, count=200
    )
    first = sum(x in LINES[:20] for x in texts)
    assert 25 < first < 75  # a quarter
    again = make_source(config, tokenizer, Split.ALL)
    assert texts_of(again, tokenizer, start=77, count=123) == texts[77:]


class TestResumption:
  def test_interrupted_at_every_batch(self, config, tokenizer):
    config = dataclasses.replace(config, sequence_length=40)

    def fresh():
      return make_batches(config, tokenizer, Split.ALL)

    batches = fresh()
    states, whole = [], []
    for _ in range(12):
      states.append(json.dumps(batches.state()))
      whole.append(next(batches))
    assert json.loads(states[-1])['document'] > len(LINES)
    for state, expected in zip(states, whole, strict=True):
      after = fresh()
      after.restore(json.loads(state))
      assert_equal(next(after), expected)

  def test_another_order_is_refused(self, config, tokenizer):
    state = make_batches(config, tokenizer, Split.ALL).state()
    with pytest.raises(EejaxError, match='fingerprint'):
      make_batches(config, tokenizer, Split.TRAIN).restore(state)


class TestTfds:
  @pytest.fixture(autouse=True)
  def _folder(self, data_dir, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', str(data_dir))

  def register(self, spec, tokenizer, data_dir):
    return seqio_tasks.register_tfds(
      TfdsSpec.parse(spec), name='tiny', tokenizer=tokenizer, data_dir=data_dir
    )

  def texts(self, task, tokenizer, split, *, passes=Passes.ONCE, count=None):
    source = SeqioDocuments(
      task, tokenizer=tokenizer, split=split, passes=passes
    )
    return texts_of(source, tokenizer, count=count)

  def test_the_splits_it_has(self, tokenizer, data_dir):
    task = self.register('tiny/plain', tokenizer, data_dir)
    assert self.texts(task, tokenizer, 'train') == LINES[:40]
    assert self.texts(task, tokenizer, 'test') == LINES[40:]
    assert self.texts(task, tokenizer, 'all') == LINES
    with pytest.raises(ArgumentError, match="no split 'validation'.*all, test"):
      self.texts(task, tokenizer, 'validation')

  @pytest.mark.parametrize(
    'split, lines',
    [
      ('train', LINES[:40]),
      ('train[:50%]', LINES[:20]),
      ('train+test', LINES),
      ('test[-10:]', LINES[-10:]),
    ],
  )
  def test_a_split_is_cut(self, tokenizer, data_dir, split, lines):
    task = self.register(f'tiny/plain:1.0.0:{split}:text', tokenizer, data_dir)
    assert self.texts(task, tokenizer, 'all') == lines
    parts = [self.texts(task, tokenizer, s) for s in task.splits if s != 'all']
    assert collections.Counter(sum(parts, [])) == collections.Counter(lines)
    assert len(parts[0]) == round(0.9 * len(lines))

  def test_endless(self, tokenizer, data_dir):
    task = self.register('tiny/plain', tokenizer, data_dir)
    texts = self.texts(
      task, tokenizer, 'train', passes=Passes.ENDLESS, count=80
    )
    assert sorted(texts[:40]) == sorted(texts[40:]) == sorted(LINES[:40])
    again = self.texts(
      task, tokenizer, 'train', passes=Passes.ENDLESS, count=80
    )
    assert texts == again

  def test_as_a_corpus(self, tokenizer, data_dir):
    config = DataConfig(
      corpus='tfds:tiny/plain:test:text', sequence_length=8, batch_size=2
    )
    batches = make_batches(config, tokenizer, Split.ALL, passes=Passes.ONCE)
    found = np.concatenate([b.targets[b.weights > 0] for b in batches])
    assert (found == tokenizer.eos_id).sum() == 20

  def test_bad_names(self, tokenizer, data_dir):
    with pytest.raises(ArgumentError, match="'label'.*text, label|label, text"):
      self.register('tiny/plain:train:label', tokenizer, data_dir)
    with pytest.raises(ArgumentError, match='no dataset'):
      self.register('no_such_dataset', tokenizer, data_dir)
    with pytest.raises(ArgumentError, match="no split 'dev'.*train, test"):
      self.register('tiny/plain:dev:text', tokenizer, data_dir)

  @pytest.mark.parametrize(
    'text, expected',
    [
      ('a', ('a', None, 'text')),
      ('a/b:1.0.0', ('a/b:1.0.0', None, 'text')),
      ('a:2.*.*:train', ('a:2.*.*', 'train', 'text')),
      ('a:train[5:10]:body', ('a', 'train[5:10]', 'body')),
      ('a::body', ('a', None, 'body')),
    ],
  )
  def test_specifications(self, text, expected):
    spec = TfdsSpec.parse(text)
    assert (spec.dataset, spec.split, spec.field) == expected

  @pytest.mark.parametrize('text', ['', ':train', 'a:b:c:d'])
  def test_bad_specifications(self, text):
    with pytest.raises(ArgumentError, match='NAME/CONFIG:SPLIT:FIELD'):
      TfdsSpec.parse(text)


class TestBadInput:
  def test_no_such_task(self, tokenizer):
    config = DataConfig(corpus='seqio:nothing')
    with pytest.raises(ArgumentError, match="'nothing' is registered"):
      make_batches(config, tokenizer, Split.TRAIN)

  def test_no_such_file(self, tokenizer, tmp_path):
    config = DataConfig(corpus=f'seqio:files:{tmp_path}/a.txt')
    with pytest.raises(ArgumentError, match='no file'):
      make_batches(config, tokenizer, Split.TRAIN)

  def test_a_broken_file(self, tokenizer, tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "a"}\n{')
    config = DataConfig(corpus=f'seqio:files:{tmp_path}')
    with pytest.raises(EejaxError, match='line 2, is not JSON'):
      next(make_batches(config, tokenizer, Split.ALL))

  def test_an_empty_part(self, tokenizer, tmp_path):
    (tmp_path / 'a.txt').write_text('one document')
    config = DataConfig(
      corpus=f'seqio:files:{tmp_path}', sequence_length=4, batch_size=1
    )
    empty = 0
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
      try:
        next(make_batches(config, tokenizer, split))
      except ArgumentError as error:
        assert f'the {split.value} part' in str(error)
        empty += 1
    assert empty == 2

  def test_another_vocabulary(self, config, tokenizer):
    other = train_bpe(LINES, vocab_size=280)
    seqio_tasks.register_standard_library(tokenizer, name='mine')
    with pytest.raises(ArgumentError, match='another vocabulary'):
      make_batches(DataConfig(corpus='seqio:mine'), other, Split.TRAIN)

  def test_other_features(self, config, tokenizer):
    task = seqio_pipeline._provider(config, tokenizer)
    feature = task.output_features['targets']
    seqio.TaskRegistry.remove('pictures')
    seqio.TaskRegistry.add(
      'pictures',
      source=task.source,
      output_features={'pictures': feature, 'targets': feature},
    )
    with pytest.raises(ArgumentError, match='features pictures, targets'):
      make_batches(DataConfig(corpus='seqio:pictures'), tokenizer, Split.TRAIN)

  def test_nothing_cached(self, config, tokenizer):
    register_pairs(tokenizer)
    with pytest.raises(
      ArgumentError, match='pairs is not cached in any folder'
    ):
      make_batches(
        DataConfig(corpus='seqio:cached:pairs'), tokenizer, Split.TRAIN
      )
    seqio_tasks.register_standard_library(tokenizer, name='mine')
    with pytest.raises(ArgumentError, match='CacheDatasetPlaceholder'):
      make_batches(
        DataConfig(corpus='seqio:cached:mine'), tokenizer, Split.TRAIN
      )

  def test_documents_without_text(self, tokenizer, config, monkeypatch):
    monkeypatch.setattr(seqio_pipeline, '_MOST_EMPTY', 100)
    task = seqio_pipeline._provider(config, tokenizer)
    seqio.TaskRegistry.remove('empty')
    seqio.TaskRegistry.add(
      'empty',
      source=task.source,
      output_features=task.output_features,
      preprocessors=[
        lambda ds: ds.repeat(3).map(
          lambda x: {'targets': tf.zeros([0], tf.int32)}
        )
      ],
    )
    config = DataConfig(corpus='seqio:empty')
    with pytest.raises(EejaxError, match='hold no text'):
      next(make_batches(config, tokenizer, Split.TRAIN))


class TestRuntime:
  def test_tensorflow_takes_no_gpu_and_keeps_quiet(self):
    program = (
      'from eejax.data.seqio_runtime import tf;'
      "print(tf.config.get_visible_devices('GPU'), tf.constant(1).device)"
    )
    done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True
    )
    assert done.stdout.startswith('[] ')
    assert 'CPU' in done.stdout
    assert done.stderr == ''
