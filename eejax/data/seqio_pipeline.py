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
"""Documents of a seqio task or mixture, for the same packing as all others.

A task has the features that seqio's decoder-only converters know: `targets`
alone, which is learned, or `inputs` before it, which is read and not learned.
`loss_weights`, one for each token of `targets`, may say more.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eejax.data import seqio_tasks
from eejax.data.corpus import Split
from eejax.data.data_config import SEQIO_PREFIX, TFDS_PREFIX, DataConfig
from eejax.data.document import Document, WeightedDocument
from eejax.data.memory_source import Passes
from eejax.data.seqio_runtime import seqio, tf
from eejax.data.seqio_tasks import TfdsSpec
from eejax.data.seqio_vocabulary import HuggingFaceVocabulary
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, EejaxError

FILES_PREFIX = 'files:'
CACHED_PREFIX = 'cached:'
INPUTS, TARGETS, WEIGHTS = 'inputs', 'targets', 'loss_weights'
_BUILT_IN = (
  f"'{SEQIO_PREFIX}{seqio_tasks.STANDARD_LIBRARY}', "
  f"'{SEQIO_PREFIX}{FILES_PREFIX}PATH' or '{TFDS_PREFIX}NAME'"
)
# A corpus with so many documents in a row and nothing in them is a mistake.
_MOST_EMPTY = 10_000


class SeqioDocuments:
  """Serve the examples of a task or mixture as documents.

  A task is read epoch by epoch, each with a seed of its own, so every
  document comes once an epoch; a mixture for training is one endless sequence
  at its mixing rates, as seqio defines it.

  Attributes:
    fingerprint: digest of everything that decides the documents' order.
  """

  def __init__(
    self,
    provider: seqio.Task | seqio.Mixture,
    *,
    tokenizer: Tokenizer,
    split: str,
    passes: Passes,
    seed: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
    use_cached: bool = False,
  ):
    """Serve one split, or one shard of it.

    Args:
      provider: a registered task or mixture, see above for its features.
      tokenizer: of the run; documents get its start and end tokens where they
        lack them.
      split: name of the split.
      passes: `ENDLESS` shuffles, `ONCE` does not.
      seed: decides the order.
      shard_index: which shard, dealt out by seqio.
      num_shards: how many there are.
      use_cached: whether examples are read that seqio has cached.

    Raises:
      ArgumentError: there is no such split, the features do not fit, the
        task's vocabulary is another, or nothing is cached.
    """
    _check(provider, tokenizer=tokenizer, split=split)
    if use_cached:
      _check_cache(provider)
    self._use_cached = use_cached
    self._provider = provider
    self._tokenizer = tokenizer
    self._split = split
    self._passes = passes
    self._seed = seed
    self._shard = seqio.ShardInfo(index=shard_index, num_shards=num_shards)
    self._one_epoch = passes is Passes.ONCE or not isinstance(
      provider, seqio.Mixture
    )
    order = (provider.name, split, passes.value, seed, shard_index, num_shards)
    cached = ('cached',) if use_cached else ()
    self.fingerprint = _digest(repr((*order, tokenizer.fingerprint, *cached)))

  def documents(self, *, start: int) -> Iterator[Document]:
    """Return the documents from number `start` on; see `DocumentSource`."""
    epoch, skipped = 0, start
    while True:
      if self._one_epoch and skipped and self._passes is Passes.ENDLESS:
        # Counting must have a dataset of its own: one that is read a second
        # time shuffles in another order.
        size, constant = _size(self._dataset(epoch))
        if skipped >= size > 0:
          epochs = skipped // size if constant else 1
          epoch, skipped = epoch + epochs, skipped - epochs * size
          continue
      yield from self._read(self._dataset(epoch).skip(skipped))
      if self._passes is Passes.ONCE:
        return
      epoch, skipped = epoch + 1, 0

  def _read(self, dataset: tf.data.Dataset) -> Iterator[Document]:
    count = empty = 0
    for example in dataset.as_numpy_iterator():
      document = self._document(example)
      count += 1
      # Start and end token are all there is.
      empty = 0 if len(document) > 2 else empty + 1
      if empty > _MOST_EMPTY:
        raise EejaxError(
          f'{empty} documents of {self._provider.name} in a row hold no text; '
          'check the field the text is taken from.'
        )
      yield document
    if not count and self._passes is Passes.ENDLESS:
      # Another pass would find nothing either, and never end.
      raise ArgumentError(
        f'the {self._split} part of {self._provider.name} has no documents '
        f'for shard {self._shard.index} of {self._shard.num_shards}; give '
        "more or smaller documents (unit), or ask for the part 'all'."
      )

  def _dataset(self, epoch: int) -> tf.data.Dataset:
    endless = self._passes is Passes.ENDLESS
    seed = int(_digest(f'{self._seed} {epoch}'), 16) % 2**31
    sharded = self._shard.num_shards > 1
    dataset = self._provider.get_dataset(
      sequence_length=None,
      split=self._split,
      shuffle=endless,
      seed=seed,
      shard_info=self._shard if sharded else None,
      num_epochs=1 if self._one_epoch else None,
      use_cached=self._use_cached,
      # Each pass is a dataset of its own, so a cache would never be read.
      try_in_mem_cache=False,
    )
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)

  def _document(self, example: Mapping[str, Any]) -> Document:
    # Beside its features an example has what these were made of.
    features = self._provider.output_features.keys()
    example = {k: v for k, v in example.items() if k in features}
    targets = example[TARGETS]
    inputs = example.get(INPUTS, targets[:0])
    start, end = self._frame(np.concatenate([inputs, targets]))
    tokens = np.concatenate([start, inputs, targets, end]).astype(np.int32)
    if example.keys() == {TARGETS}:
      return tokens
    weights = example.get(WEIGHTS, np.ones(len(targets), np.float32))
    if len(weights) != len(targets):
      raise EejaxError(
        f'an example of {self._provider.name} has {len(weights)} {WEIGHTS} for '
        f'{len(targets)} {TARGETS}; there must be one for each.'
      )
    not_learned = np.zeros(len(start) + len(inputs))
    learned = [not_learned, weights, np.ones(len(end))]
    return WeightedDocument(tokens, np.concatenate(learned).astype(np.float32))

  def _frame(self, ids: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the start and the end token where a text lacks them."""
    start, end = [], []
    bos_id, eos_id = self._tokenizer.bos_id, self._tokenizer.eos_id
    if bos_id is not None and ids[:1].tolist() != [bos_id]:
      start = [bos_id]
    if eos_id is not None and ids[-1:].tolist() != [eos_id]:
      end = [eos_id]
    return start, end


def make_source(
  config: DataConfig, tokenizer: Tokenizer, split: Split, *, passes: Passes
) -> SeqioDocuments:
  """Return the documents of a `seqio:` or `tfds:` corpus.

  Sources for training are sharded by seqio, so that a host reads only what it
  uses. Those for evaluation are not: `PackedBatches` deals out their
  documents, and every host has the same number of batches.

  Raises:
    ArgumentError: there is no such task, dataset or file.
  """
  sharded = passes is Passes.ENDLESS
  cached = f'{SEQIO_PREFIX}{CACHED_PREFIX}'
  return SeqioDocuments(
    _provider(config, tokenizer),
    use_cached=config.corpus.startswith(cached),
    tokenizer=tokenizer,
    split=split.value,
    passes=passes,
    seed=config.seed,
    shard_index=config.shard_index if sharded else 0,
    num_shards=config.num_shards if sharded else 1,
  )


def _provider(
  config: DataConfig, tokenizer: Tokenizer
) -> seqio.Task | seqio.Mixture:
  if config.corpus.startswith(TFDS_PREFIX):
    spec = config.corpus.removeprefix(TFDS_PREFIX)
    return seqio_tasks.register_tfds(
      TfdsSpec.parse(spec), name=_name('tfds', spec), tokenizer=tokenizer
    )
  task = config.corpus.removeprefix(SEQIO_PREFIX)
  if task == seqio_tasks.STANDARD_LIBRARY:
    return seqio_tasks.register_standard_library(tokenizer)
  if task.startswith(FILES_PREFIX):
    return seqio_tasks.register_files(
      task.removeprefix(FILES_PREFIX),
      name=_name('files', f'{task} {config.unit.value} {config.field}'),
      tokenizer=tokenizer,
      unit=config.unit,
      field=config.field,
    )
  task = task.removeprefix(CACHED_PREFIX)
  try:
    return seqio.get_mixture_or_task(task)
  except ValueError as error:
    raise ArgumentError(
      f'no seqio task or mixture {task!r} is registered; import the module '
      f'that registers it, or use {_BUILT_IN}.'
    ) from error


def _name(kind: str, spec: str) -> str:
  return f'eejax_{kind}_{_digest(spec)}'


def _digest(text: str) -> str:
  return hashlib.blake2b(text.encode('utf-8'), digest_size=8).hexdigest()


def _size(dataset: tf.data.Dataset) -> tuple[int, bool]:
  """Return how many examples there are, and whether every epoch has as many.

  Where TensorFlow does not know (a task that filters), they are counted, and
  the next epoch may have another number.
  """
  size = int(dataset.cardinality())
  if size >= 0:
    return size, True
  return int(dataset.reduce(np.int64(0), lambda n, _: n + 1)), False


def _check(
  provider: seqio.Task | seqio.Mixture, *, tokenizer: Tokenizer, split: str
) -> None:
  features = provider.output_features
  known = {INPUTS, TARGETS, WEIGHTS}
  if TARGETS not in features or not known.issuperset(features):
    raise ArgumentError(
      f'{provider.name} has the features {", ".join(sorted(features))}; a task '
      f'must have {TARGETS}, and may have {INPUTS} and {WEIGHTS}.'
    )
  if split not in provider.splits:
    raise ArgumentError(
      f'{provider.name} has no split {split!r} (it has: '
      f'{", ".join(sorted(provider.splits))}).'
    )
  for name in features.keys() - {WEIGHTS}:
    vocabulary = features[name].vocabulary
    same = vocabulary == HuggingFaceVocabulary(tokenizer)
    if isinstance(vocabulary, HuggingFaceVocabulary):
      fits = same
    else:
      fits = vocabulary.vocab_size <= tokenizer.vocab_size
    if not fits:
      raise ArgumentError(
        f'{provider.name} was registered with another vocabulary than the '
        "model's tokenizer; register it with that one."
      )


def _check_cache(provider: seqio.Task | seqio.Mixture) -> None:
  tasks = [provider] if isinstance(provider, seqio.Task) else provider.tasks
  for task in tasks:
    if not task.supports_caching:
      raise ArgumentError(
        f'{task.name} says not where it may be cached; add a '
        'seqio.CacheDatasetPlaceholder to its preprocessors.'
      )
    if task.cache_dir is None:
      folders = ', '.join(seqio.get_global_cache_dirs())
      where = f'in {folders}' if folders else 'in any folder'
      raise ArgumentError(
        f'{task.name} is not cached {where}; write it with seqio_cache_tasks, '
        'and name its folder by seqio.add_global_cache_dirs.'
      )
