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
"""A Hugging Face tokenizer as a vocabulary of seqio."""

from collections.abc import Sequence

import numpy as np

from eejax.data.seqio_runtime import seqio, tf
from eejax.data.tokenizer import Tokenizer


class HuggingFaceVocabulary(seqio.Vocabulary):
  """Let seqio tasks encode and decode with a `Tokenizer`.

  As in every vocabulary of seqio, encoding adds no control tokens and
  decoding stops at the first end token.
  """

  def __init__(self, tokenizer: Tokenizer):
    """Wrap `tokenizer`."""
    super().__init__(extra_ids=0)
    self._tokenizer = tokenizer

  @property
  def tokenizer(self) -> Tokenizer:
    """Return the tokenizer inside."""
    return self._tokenizer

  @property
  def bos_id(self) -> int | None:
    """Return the start token, or None."""
    return self._tokenizer.bos_id

  @property
  def eos_id(self) -> int | None:
    """Return the end token, or None."""
    return self._tokenizer.eos_id

  @property
  def unk_id(self) -> int | None:
    """Return None: ids beyond the vocabulary decode to nothing."""
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self._tokenizer.vocab_size

  def _encode(self, s: str) -> Sequence[int]:
    return self._tokenizer.encode(s, add_bos=False)

  def _decode(self, ids: Sequence[int]) -> str:
    return self._tokenizer.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    """Encode a scalar to a vector, or a vector to a ragged matrix."""
    flat, lengths = tf.numpy_function(
      self._encode_numpy, [tf.reshape(s, [-1])], [tf.int32, tf.int64]
    )
    flat.set_shape([None])
    lengths.set_shape([None])
    if s.shape.rank == 0:
      return flat
    return tf.RaggedTensor.from_row_lengths(flat, lengths)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Decode a vector to a scalar, or a matrix to a vector."""
    text = tf.numpy_function(self._decode_numpy, [ids], tf.string)
    text.set_shape(ids.shape[:-1])
    return text

  def _encode_numpy(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    decoded = [t.decode('utf-8', errors='replace') for t in texts.tolist()]
    rows = self._tokenizer.encode_batch(decoded, add_bos=False)
    flat = np.concatenate([np.asarray(r, np.int32) for r in [[], *rows]])
    return flat, np.asarray([len(r) for r in rows], np.int64)

  def _decode_numpy(self, ids: np.ndarray) -> np.ndarray:
    rows = ids.reshape(-1, ids.shape[-1]).tolist()
    texts = [self.decode(row).encode('utf-8') for row in rows]
    return np.asarray(texts, object).reshape(ids.shape[:-1])

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, HuggingFaceVocabulary):
      return False
    return self._tokenizer.fingerprint == other._tokenizer.fingerprint

  def __hash__(self) -> int:
    return hash(self._tokenizer.fingerprint)

  def __str__(self) -> str:
    return (
      f'HuggingFaceVocabulary(size={self.vocab_size}, '
      f'fingerprint={self._tokenizer.fingerprint})'
    )
