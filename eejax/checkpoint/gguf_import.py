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
"""Read models from GGUF files, as llama.cpp and its relatives keep them."""

import os
import pathlib
from typing import Any

import numpy as np

from eejax import storage
from eejax.checkpoint import (
  gguf_architectures,
  gguf_config,
  gguf_rotary,
  gguf_tokenizer,
  huggingface,
  huggingface_config,
  tree,
)
from eejax.checkpoint.gguf_architecture import Architecture, Values
from eejax.checkpoint.gguf_file import GGUFFile, GGUFTensor, read_file
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import check_vocabulary
from eejax.checkpoint.tree import Layout
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError, CheckpointError


def import_file(
  path: str | os.PathLike,
  *,
  layout: Layout = Layout.STACKED,
  dtype: Any = None,
) -> Model:
  """Return the model of a GGUF file.

  Args:
    path: the file, or any part of it if it is split.
    layout: whether the blocks are stacked.
    dtype: what every array is converted to; by default F32, F16 and BF16 stay
      as stored, and everything else becomes float32.

  Raises:
    ArgumentError: there is no such file.
    CheckpointError: it is incomplete, broken or not supported.
  """
  mapped = map_file(path)
  params = tree.on_device(
    tree.outer(mapped.params),
    mapped.params['backbone']['blocks'],
    {},
    layout=layout,
    dtype=dtype,
  )
  return Model(
    config=mapped.config,
    params=params,
    tokenizer_folder=mapped.tokenizer_folder,
    provenance=mapped.provenance,
  )


def map_file(path: str | os.PathLike) -> Model:
  """Return the model of a GGUF file without loading it.

  Blocks are unstacked; every leaf is read and dequantised when it is used.

  Raises:
    ArgumentError: there is no such file.
    CheckpointError: it is incomplete, broken or not supported.
  """
  path = storage.local_path(path)
  if not path.is_file():
    raise ArgumentError(f'there is no file {path}.')
  file = read_file(path)
  architecture = gguf_architectures.find(file.need('general.architecture', str))
  try:
    values = gguf_config.read_config(file, architecture)
    config = huggingface_config.read_model(values)
    tensors = _huggingface_tensors(file, architecture, values)
    backbone = huggingface.read_backbone(tensors, config)
  except CheckpointError as error:
    raise CheckpointError(_in_its_words(path, error)) from error
  tokenizer = gguf_tokenizer.make_folder(file)
  if tokenizer is not None:
    check_vocabulary(tokenizer, vocab_size=config.vocab_size)
  return Model(
    config=EarlyExitConfig(config),
    params={'backbone': backbone, 'exits': {}},
    tokenizer_folder=tokenizer,
    provenance={
      'source': str(path),
      'huggingface': {'config': values, 'generation_config': None},
      'gguf': {'quantization': quantization(file)},
    },
  )


def quantization(file: GGUFFile) -> str:
  """Return the name of the type that most of a file's values have."""
  counts: dict[str, int] = {}
  for tensor in file.tensors.values():
    size = int(np.prod(tensor.shape))
    counts[tensor.kind] = counts.get(tensor.kind, 0) + size
  return max(counts, key=lambda kind: counts[kind])


class _TensorFile:
  """One tensor of a GGUF file, as a Hugging Face file has it."""

  def __init__(
    self, tensor: GGUFTensor, architecture: Architecture, values: Values
  ):
    self._tensor, self._values = tensor, values
    self._change = architecture.change_of(tensor.name)

  def dtype(self, name: str) -> np.dtype:
    return self._tensor.dtype

  def shape(self, name: str) -> tuple[int, ...]:
    shape = self._tensor.shape
    return shape if self._change is None else self._change.read_shape(shape)

  def tensor(self, name: str) -> np.ndarray:
    array = self._tensor.read()
    if self._change is None:
      return array
    return self._change.read(array, self._values)


def _huggingface_tensors(
  file: GGUFFile, architecture: Architecture, values: Values
) -> dict[str, _TensorFile]:
  found = {}
  for name, tensor in file.tensors.items():
    if name in gguf_rotary.TENSORS:
      continue  # Read with the rotary scaling.
    if name == 'output.weight' and values['tie_word_embeddings']:
      continue  # The table once more.
    theirs = architecture.to_huggingface(name)
    if theirs is None:
      raise CheckpointError(
        f'the tensor {name!r:.80} has no place in a model of '
        f'{architecture.name!r}; it is not passed over, for the model might '
        'need it.'
      )
    found[theirs] = _TensorFile(tensor, architecture, values)
  return found


def _in_its_words(path: pathlib.Path, error: CheckpointError) -> str:
  """Return what is wrong with a file, which has no config.json of its own."""
  words = str(error).replace('config.json', 'its metadata')
  return words if str(path) in words else f'{path}: {words}'
