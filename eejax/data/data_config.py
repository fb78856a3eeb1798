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
"""The data settings of a run."""

import dataclasses

from eejax.config.field_types import check_fields
from eejax.data.batch import Packing
from eejax.data.conversations import MESSAGES
from eejax.data.corpus import TextUnit
from eejax.errors import ArgumentError

STANDARD_LIBRARY = 'stdlib'
SEQIO_PREFIX = 'seqio:'
TFDS_PREFIX = 'tfds:'
TOKENS_PREFIX = 'tokens:'


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Describe the data of a run.

  Attributes:
    corpus: `stdlib`; a file, folder or glob of the user's, here or in a store;
      `tokens:FOLDER` of a text that `batches.prepare_tokens` has read;
      through seqio: `seqio:TASK` for a registered task or mixture,
      `seqio:cached:TASK` for what seqio has cached of it,
      `seqio:eejax_stdlib`, `seqio:files:PATH`, and
      `tfds:NAME[/CONFIG][:VERSION][:SPLIT[:FIELD]]`.
    sequence_length: columns of a batch (T).
    batch_size: rows of a batch over all shards together.
    packing: how documents share rows; conversations are never packed other
      than whole.
    unit: what one document of a text file is.
    field: where the text is in the objects of a .jsonl file; of conversations
      'text' is the usual `messages`.
    seed: decides the order of training documents.
    shard_index: which shard of the documents this host takes.
    num_shards: how many hosts share the documents.
  """

  corpus: str = STANDARD_LIBRARY
  sequence_length: int = 512
  batch_size: int = 8
  packing: Packing = Packing.PACKED
  unit: TextUnit = TextUnit.FILE
  field: str = 'text'
  seed: int = 0
  shard_index: int = 0
  num_shards: int = 1

  def __post_init__(self):
    check_fields(self)
    if self.sequence_length < 1 or self.batch_size < 1:
      raise ArgumentError(
        'sequence_length and batch_size must be at least 1, not '
        f'{self.sequence_length} and {self.batch_size}.'
      )
    if not 0 <= self.shard_index < self.num_shards:
      raise ArgumentError(
        f'shard_index must lie in 0..{self.num_shards - 1}, not '
        f'{self.shard_index}.'
      )
    if self.batch_size % self.num_shards:
      raise ArgumentError(
        f'batch_size ({self.batch_size}) must be a multiple of num_shards '
        f'({self.num_shards}).'
      )
    if self.has_conversations and (
      self.uses_seqio
      or self.corpus == STANDARD_LIBRARY
      or self.tokens_folder is not None
    ):
      raise ArgumentError(
        f'{self.corpus} has no conversations; name .jsonl files of messages.'
      )

  @property
  def has_conversations(self) -> bool:
    """Return whether documents are conversations."""
    return self.unit is TextUnit.CONVERSATION

  @property
  def row_packing(self) -> Packing:
    """Return how documents share rows: no conversation is cut to fill one."""
    if self.has_conversations and self.packing is Packing.PACKED:
      return Packing.WHOLE
    return self.packing

  @property
  def messages_field(self) -> str:
    """Return where the messages are in the objects of a .jsonl file."""
    return MESSAGES if self.field == 'text' else self.field

  @property
  def tokens_folder(self) -> str | None:
    """Return the folder of tokens that the corpus is, None of others."""
    if self.corpus.startswith(TOKENS_PREFIX):
      return self.corpus.removeprefix(TOKENS_PREFIX)
    return None

  @property
  def uses_seqio(self) -> bool:
    """Return whether the corpus comes through seqio, hence TensorFlow."""
    return self.corpus.startswith((SEQIO_PREFIX, TFDS_PREFIX))
