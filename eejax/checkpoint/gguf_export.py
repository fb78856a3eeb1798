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
"""Write the backbone of a model as a GGUF file, which llama.cpp runs."""

import contextlib
import dataclasses
import enum
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eejax import storage
from eejax.checkpoint import (
  gguf_architectures,
  gguf_config,
  gguf_rotary,
  gguf_vocabulary,
  shapes,
  tree,
)
from eejax.checkpoint.atomic import Existing, is_disk_full
from eejax.checkpoint.gguf_architecture import Architecture
from eejax.checkpoint.gguf_file import GGUFFile, GGUFTensor, library
from eejax.checkpoint.huggingface_export import backbone_entries
from eejax.checkpoint.model import Model
from eejax.checkpoint.safetensors_file import Entry
from eejax.config import ModelConfig, RotaryScaling
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import families

SUFFIX = '.gguf'


class OutType(enum.Enum):
  """How matrices are written; vectors are always F32, as llama.cpp has them.

  F32: as they are.
  F16: in half precision.
  Q8_0: in 8 bits with a scale for each 32 values, F16 where rows have another
    length.
  """

  F32 = 'f32'
  F16 = 'f16'
  Q8_0 = 'q8_0'


def export_file(
  checkpoint: Model,
  dest: str | os.PathLike,
  *,
  out_type: OutType = OutType.F32,
  existing: Existing = Existing.REFUSE,
) -> None:
  """Write a model's backbone and tokenizer as a GGUF file; exits stay behind.

  Args:
    checkpoint: the model; its backbone must be whole, stacked or not.
    dest: the file to make; it is there whole or not at all.
    out_type: how matrices are written.
    existing: what to do when something is at `dest`.

  Raises:
    ArgumentError: `dest` is occupied, or llama.cpp has no name for a part of
      the model or its tokenizer.
    CheckpointError: the arrays do not fit the configuration or F16, or the
      disk is full.
  """
  dest = storage.local_path(dest)
  config = checkpoint.config.model
  shapes.check_backbone(tree.shapes(checkpoint.params), config)
  architecture = _architecture(config)
  metadata = {
    **_about(checkpoint, out_type),
    **gguf_config.write_config(config, architecture),
    **gguf_vocabulary.metadata(checkpoint),
  }
  _check_said(dest, checkpoint, architecture, metadata)
  check_free(dest, existing=existing)
  with _whole_file(dest) as path:
    _write(path, checkpoint, architecture, metadata, out_type)


def check_free(
  dest: str | os.PathLike, *, existing: Existing = Existing.REFUSE
) -> None:
  """Check that a file may be written.

  Raises:
    ArgumentError: something is there that is not to be replaced.
  """
  dest = storage.local_path(dest)
  if dest.is_dir():
    raise ArgumentError(f'{dest} is a folder; name a file for the GGUF.')
  if dest.exists() and existing is Existing.REFUSE:
    raise ArgumentError(
      f'{dest} is there already; name another file, or ask to overwrite it.'
    )


def _architecture(config: ModelConfig) -> Architecture:
  name = gguf_architectures.WRITTEN_AS.get(config.family, config.family)
  for architecture in gguf_architectures.ARCHITECTURES.values():
    if architecture.model_type == name:
      return architecture
  known = ', '.join(gguf_architectures.ARCHITECTURES)
  raise ArgumentError(
    f'models of {config.family!r} cannot be written as GGUF files yet; those '
    f'of {known} can.'
  )


def _check_said(
  dest: pathlib.Path,
  checkpoint: Model,
  architecture: Architecture,
  metadata: Mapping[str, Any],
) -> None:
  """Check that what is written says what the model is.

  Raises:
    ArgumentError: something about the model has no key.
  """
  config = checkpoint.config.model
  held = {
    architecture.to_gguf(e.name): GGUFTensor(
      architecture.to_gguf(e.name), 'F32', e.shape, dest, 0, 0
    )
    for e in backbone_entries(checkpoint.params, config)
  }
  try:
    values = gguf_config.read_config(
      GGUFFile(dest, metadata, held), architecture
    )
    found = families.read_config(values)
  except CheckpointError as error:
    raise ArgumentError(f'{dest} cannot be written: {error}') from error
  same = {n: getattr(config, n) for n in ('family', 'bos_id', 'eos_ids')}
  if config.rotary.scaling in gguf_rotary.IN_TENSORS:
    same['rotary'] = config.rotary
  if config.rotary.scaling is RotaryScaling.LONGROPE:  # bounds it
    same['max_length'] = config.max_length
  found = dataclasses.replace(found, **same)
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if getattr(found, field.name) != value:
      raise ArgumentError(
        f'GGUF files of {architecture.name!r} cannot say that {field.name} is '
        f'{value}; export a Hugging Face folder.'
      )


def _about(checkpoint: Model, out_type: OutType) -> dict[str, Any]:
  gguf = library()
  kinds = {
    OutType.F32: gguf.LlamaFileType.ALL_F32,
    OutType.F16: gguf.LlamaFileType.MOSTLY_F16,
    OutType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
  }
  values: dict[str, Any] = {
    'general.type': 'model',
    'general.file_type': int(kinds[out_type]),
  }
  if out_type is OutType.Q8_0:
    values['general.quantization_version'] = gguf.GGML_QUANT_VERSION
  return values


@contextlib.contextmanager
def _whole_file(dest: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a hidden file that becomes `dest` when the block ends well."""
  partial = None
  try:
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
      dir=dest.parent, prefix=f'.{dest.name}.part-', delete=False
    ) as made:
      partial = pathlib.Path(made.name)
    yield partial
    with partial.open('rb') as file:
      os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    partial.chmod(0o666 & ~mask)
    os.replace(partial, dest)
  except OSError as error:
    why = 'the disk is full' if is_disk_full(error) else error.strerror
    raise CheckpointError(f'{dest} was not written: {why}.') from error
  finally:
    if partial is not None:
      partial.unlink(missing_ok=True)


def _write(
  path: pathlib.Path,
  checkpoint: Model,
  architecture: Architecture,
  metadata: Mapping[str, Any],
  out_type: OutType,
) -> None:
  gguf = library()
  config = checkpoint.config.model
  writer = gguf.GGUFWriter(path, architecture.name)
  with contextlib.closing(writer):
    for key, value in metadata.items():
      _add(writer, key, value)
    factors = gguf_rotary.write_tensors(config.rotary, head_dim=config.head_dim)
    for name, array in factors.items():
      _describe(writer, name, array.shape, OutType.F32)
    entries = backbone_entries(checkpoint.params, config)
    for entry in entries:
      name = architecture.to_gguf(entry.name)
      change = architecture.change_of(name)
      shape = entry.shape
      if change is not None:
        shape = change.write_shape(shape)
      _describe(writer, name, shape, out_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for array in factors.values():
      writer.write_tensor_data(array)
    values = families.write_config(config)
    for entry in entries:
      array = _array(entry, architecture, values)
      name = architecture.to_gguf(entry.name)
      writer.write_tensor_data(_stored(array, name, out_type))


def _add(writer: Any, key: str, value: Any) -> None:
  """Add a key with the type that llama.cpp expects of it."""
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  else:
    writer.add_array(key, value)


def _describe(
  writer: Any, name: str, shape: tuple[int, ...], out_type: OutType
) -> None:
  gguf = library()
  kind = gguf.GGMLQuantizationType[_kind(name, shape, out_type)]
  values, size = gguf.GGML_QUANT_SIZES[kind]
  writer.add_tensor_info(
    name, shape, np.dtype(np.float32), math.prod(shape) // values * size, kind
  )


def _kind(name: str, shape: tuple[int, ...], out_type: OutType) -> str:
  is_matrix = len(shape) > 1 and name.endswith('.weight')
  # llama.cpp convolves in float32.
  is_convolution = name.endswith('.ssm_conv1d.weight')
  if out_type is OutType.F32 or is_convolution or not is_matrix:
    return 'F32'
  is_whole = shape[-1] % 32 == 0
  return 'Q8_0' if out_type is OutType.Q8_0 and is_whole else 'F16'


def _array(
  entry: Entry, architecture: Architecture, values: Mapping[str, Any]
) -> np.ndarray:
  """Return a tensor as the file has it, in float32."""
  array = entry.read().astype(np.float32)
  change = architecture.change_of(architecture.to_gguf(entry.name))
  if change is not None:
    array = change.write(array, values)
  return np.ascontiguousarray(array)


def _stored(array: np.ndarray, name: str, out_type: OutType) -> np.ndarray:
  kind = _kind(name, array.shape, out_type)
  if kind == 'F32':
    return array
  if kind == 'F16':
    if np.abs(array).max() > np.finfo(np.float16).max:
      raise CheckpointError(
        f'{name} has values that F16 cannot hold; export in f32.'
      )
    return array.astype(np.float16)
  gguf = library()
  return gguf.quantize(array, gguf.GGMLQuantizationType[kind])
