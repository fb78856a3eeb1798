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
"""Where the texts of eejax's seqio tasks come from."""

import itertools
from collections.abc import Callable, Iterable

from eejax.data.corpus import Split
from eejax.data.seqio_runtime import seqio, tf

# Documents among which the order is random; all of a small corpus. Sources
# shuffle texts, before any is encoded and before seqio repeats them, so that
# nobody waits for a buffer full of token ids of several epochs.
_SHUFFLE_BUFFER = 10_000


class TextSource(seqio.DataSource):
  """Serve texts that a function reads, with the splits of `Split`.

  Documents are dealt out to shards one by one, so there may be any number of
  shards.
  """

  def __init__(self, read: Callable[[Split], Iterable[str]]):
    """Serve `read(split)`, which must always yield the same texts."""
    super().__init__(
      splits=[s.value for s in Split],
      caching_permitted=False,
      performs_internal_shuffling=True,
    )
    self._read = read
    self._counts: dict[Split, int] = {}

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Return that any number of shards is possible."""
    return True

  def list_shards(self, split: str) -> list[str]:
    """Return one name: the texts are read as one sequence."""
    return [split]

  def num_input_examples(self, split: str) -> int:
    """Return how many documents there are.

    Counting reads them all once, outside TensorFlow, so that what is wrong
    with a file is reported as such.
    """
    part = Split(split)
    if part not in self._counts:
      self._counts[part] = sum(1 for _ in self._read(part))
    return self._counts[part]

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused,
  ) -> tf.data.Dataset:
    """Return examples with `targets`."""
    shard = shard_info or seqio.ShardInfo(index=0, num_shards=1)
    size = len(
      range(shard.index, self.num_input_examples(split), shard.num_shards)
    )

    def examples():
      texts = self._read(Split(split))
      for text in itertools.islice(texts, shard.index, None, shard.num_shards):
        yield {'targets': text}

    signature = {'targets': tf.TensorSpec((), tf.string)}
    dataset = tf.data.Dataset.from_generator(
      examples, output_signature=signature
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(size))
    return dataset.shuffle(_SHUFFLE_BUFFER, seed=seed) if shuffle else dataset


class TfdsSource(seqio.TfdsDataSource):
  """Serve a tfds dataset that may be ordered.

  The files of an ordered dataset must not be shuffled (tfds refuses it), so
  only its examples are.
  """

  @property
  def performs_internal_shuffling(self) -> bool:
    """Return that the task need not shuffle."""
    return True

  def get_dataset(
    self,
    split: str | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused,
  ) -> tf.data.Dataset:
    """Return examples with the features of the dataset."""
    ordered = self.tfds_dataset.info.disable_shuffling
    dataset = super().get_dataset(
      split,
      shuffle=shuffle and not ordered,
      seed=seed,
      shard_info=shard_info,
    )
    return dataset.shuffle(_SHUFFLE_BUFFER, seed=seed) if shuffle else dataset
