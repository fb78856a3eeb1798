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
"""Read Hugging Face folders, and those with exits that we write.

Beside what transformers knows, a folder may hold `exits.safetensors` (every
parameter of every exit in the layout of our tree, named `exit_6.mlp.up.kernel`)
and `exits.json` (their configurations and the hash of the backbone that they
were made for). Writing is in `eejax.checkpoint.huggingface_export`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eejax import storage
from eejax.checkpoint import arrays, hub, shapes, tree
from eejax.checkpoint.arrays import Path
from eejax.checkpoint.huggingface_config import read_json, read_model
from eejax.checkpoint.huggingface_export import (
  EXITS,
  EXITS_CONFIG,
  WEIGHTS,
  WEIGHTS_INDEX,
  export_folder,
)
from eejax.checkpoint.lazy_array import LazyArray, TensorFile, lazy_stack
from eejax.checkpoint.model import Model
from eejax.checkpoint.safetensors_file import SafetensorsFile
from eejax.checkpoint.tokenizer_files import check_vocabulary, find_tokenizer
from eejax.checkpoint.tree import Layout, backbone_hash
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.config.config_json import exit_from_json
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families.tensors import Tensor, names_of, tensors
from eejax.types import Params

__all__ = ['export_folder', 'import_folder', 'map_folder']

CONFIG = 'config.json'
_PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl')


def import_folder(
  source: str | os.PathLike,
  *,
  layout: Layout = Layout.STACKED,
  dtype: Any = None,
) -> Model:
  """Return the model of a Hugging Face folder or hub name.

  Args:
    source: the folder, or `organisation/model` where no such folder is.
    layout: whether the blocks are stacked.
    dtype: what every array is converted to; by default each stays as stored.

  Raises:
    ArgumentError: there is no such folder.
    CheckpointError: the folder is incomplete, broken or not supported.
  """
  checkpoint = map_folder(source)
  params = tree.on_device(
    tree.outer(checkpoint.params),
    checkpoint.params['backbone']['blocks'],
    checkpoint.params['exits'],
    layout=layout,
    dtype=dtype,
  )
  return Model(
    config=checkpoint.config,
    params=params,
    tokenizer_folder=checkpoint.tokenizer_folder,
    provenance=checkpoint.provenance,
  )


def map_folder(source: str | os.PathLike) -> Model:
  """Return the model of a folder without loading it.

  Blocks are unstacked; every leaf is a NumPy view of its file, read when it
  is used, so that a model larger than the memory can be saved elsewhere.

  Raises:
    ArgumentError: there is no such folder.
    CheckpointError: the folder is incomplete, broken or not supported.
  """
  folder = _find(source)
  files = dict(_open(folder))
  model, described = read_description(folder, files)
  backbone = read_backbone(files, model)
  config, exits = read_exits(folder, model, backbone)
  check_vocabulary(folder, vocab_size=model.vocab_size)
  return Model(
    config=config,
    params={'backbone': backbone, 'exits': exits},
    tokenizer_folder=find_tokenizer(folder),
    provenance={'source': str(source), 'huggingface': described},
  )


def read_description(
  folder: pathlib.Path, files: dict[str, SafetensorsFile] | None = None
) -> tuple[ModelConfig, dict[str, Any]]:
  """Return the model that a folder describes, and the JSON that does it.

  Args:
    folder: where `config.json` lies.
    files: the folder's tensors by name, if it has any.

  Raises:
    CheckpointError: a file cannot be read, or the model is not supported.
  """
  values = read_json(folder / CONFIG)
  generation = None
  if (folder / 'generation_config.json').is_file():
    generation = read_json(folder / 'generation_config.json')
  model = _read_model(values, generation, {} if files is None else files)
  return model, {'config': values, 'generation_config': generation}


def _find(source: str | os.PathLike) -> pathlib.Path:
  folder = storage.local_path(source)
  if not folder.exists() and hub.is_hub_name(str(source)):
    folder = hub.download(str(source))
  if not folder.is_dir():
    raise ArgumentError(f'there is no folder {source}.')
  if not (folder / CONFIG).is_file():
    raise CheckpointError(
      f'{folder} has no config.json, so it is not a Hugging Face model.'
    )
  return folder


def _open(folder: pathlib.Path) -> Iterator[tuple[str, SafetensorsFile]]:
  """Yield every tensor of a folder with the file it is in."""
  if (folder / WEIGHTS_INDEX).is_file():
    index = read_json(folder / WEIGHTS_INDEX).get('weight_map')
    if not isinstance(index, dict):
      raise CheckpointError(f'{folder / WEIGHTS_INDEX} has no weight_map.')
    names = sorted(set(index.values()))
  elif (folder / WEIGHTS).is_file():
    names = [WEIGHTS]
  else:
    raise _no_weights(folder)
  for name in names:
    # An index must not lead out of its folder.
    if pathlib.PurePath(name).name != name or not (folder / name).is_file():
      raise CheckpointError(f'{folder} lacks {name}, which its index names.')
    file = SafetensorsFile(folder / name)
    yield from ((tensor, file) for tensor in file)


def _no_weights(folder: pathlib.Path) -> CheckpointError:
  pickles = [p.name for end in _PICKLES for p in folder.glob(end)]
  if pickles:
    return CheckpointError(
      f'{folder} has {pickles[0]} but no safetensors: a pickle can run any '
      'code, so none is read; convert it with transformers, '
      'model.save_pretrained(folder).'
    )
  return CheckpointError(f'{folder} has neither {WEIGHTS} nor {WEIGHTS_INDEX}.')


def _read_model(
  values: Mapping[str, Any],
  generation: Mapping[str, Any] | None,
  files: dict[str, SafetensorsFile],
) -> ModelConfig:
  """Return the configuration, settling what only the tensors can tell.

  Where a head is said to be tied and both matrices are there, transformers
  ties them only if they are equal; where the table is missing, the head takes
  its place.
  """
  values = dict(values)
  stops = (generation or {}).get('eos_token_id')
  if stops is not None:
    values['eos_token_id'] = stops
  model = read_model(values)
  table, head = _table_and_head(files, model)
  if model.tied_head and head in files:
    if table not in files:
      raise CheckpointError(
        f'the head is tied, but {table} is missing and {head} is there; save '
        'the model again with transformers.'
      )
    if np.array_equal(files[table].tensor(table), files[head].tensor(head)):
      del files[head]
    else:
      model = read_model({**values, 'tie_word_embeddings': False})
  return model


def _table_and_head(
  files: Mapping[str, TensorFile], model: ModelConfig
) -> tuple[str, str]:
  names = names_of(model)
  table = f'{names.outer["embedding/table"]}.weight'
  if _lacks_prefix(files, names.prefix):
    table = table.removeprefix(names.prefix)
  return table, f'{names.outer["head"]}.weight'


def _expected(
  files: Mapping[str, TensorFile], model: ModelConfig
) -> list[Tensor]:
  """Return the tensors of a model by the names that these files use."""
  prefix = names_of(model).prefix
  if not _lacks_prefix(files, prefix):
    return list(tensors(model))
  return [
    dataclasses.replace(t, name=t.name.removeprefix(prefix))
    for t in tensors(model)
  ]


def _lacks_prefix(files: Mapping[str, TensorFile], prefix: str) -> bool:
  return not any(name.startswith(prefix) for name in files)


def read_backbone(
  files: Mapping[str, TensorFile], model: ModelConfig
) -> Params:
  """Return a backbone, blocks apart, of tensors with Hugging Face's names.

  Args:
    files: by the names of the tensors that they hold.
    model: what the tensors must fit.

  Returns:
    The tree; its leaves are views of files that are mapped, or are read when
    they are used.

  Raises:
    CheckpointError: a tensor is missing, misshapen, or has no place.
  """
  if model.num_layers > len(files):
    raise CheckpointError(
      f'config.json says that there are {model.num_layers} blocks, but there '
      f'are only {len(files)} tensors; download the model again.'
    )
  experts = 0 if model.experts is None else model.experts.num_experts
  if experts * model.num_layers > len(files):
    raise CheckpointError(
      f'config.json says that each of {model.num_layers} blocks has {experts} '
      f'experts, but there are only {len(files)} tensors; download the model '
      'again.'
    )
  leaves, blocks = {}, [{} for _ in range(model.num_layers)]  # type: ignore
  expected = _expected(files, model)
  for name in files.keys() - {t.name for t in expected}:
    if not name.endswith(names_of(model).ignored):
      raise CheckpointError(
        f'the tensor {name} has no place in a {model.family} model of this '
        'configuration; it is not passed over, for the model might need it.'
      )
  stacks: dict[Path, list[LazyArray | np.ndarray]] = {}
  for tensor in expected:
    leaf = _read_tensor(files, tensor, model)
    if tensor.expert is not None:
      held = stacks.setdefault(tensor.path, [])
      held.append(leaf)
      if len(held) < tensor.expert.count:
        continue
      leaf = lazy_stack(held)
    if tensor.path[0] == 'blocks':
      blocks[int(tensor.path[1])][tensor.path[2:]] = leaf
    else:
      leaves[tensor.path] = leaf
  stack = tuple(arrays.unflatten(b) for b in blocks)
  return {**arrays.unflatten(leaves), 'blocks': stack}


def _read_tensor(
  files: Mapping[str, TensorFile], tensor: Tensor, model: ModelConfig
) -> np.ndarray | LazyArray:
  if tensor.name not in files:
    hint = ''
    if tensor.path[0] == 'head':
      hint = ' (or tie_word_embeddings should be true)'
    raise CheckpointError(
      f'the tensor {tensor.name} of shape {tensor.file_shape} is missing'
      f'{hint}; copy or download the model again.'
    )
  file = files[tensor.name]
  found = file.shape(tensor.name)
  if found != tensor.file_shape:
    is_table = tensor.path == ('embedding', 'table')
    if is_table and found[1:] == tensor.file_shape[1:]:
      raise CheckpointError(
        f'config.json says vocab_size {model.vocab_size}, but {tensor.name} '
        f'has {found[0]} rows; correct config.json.'
      )
    raise CheckpointError(
      f'the tensor {tensor.name} has shape {found}, but config.json asks for '
      f'{tensor.file_shape}.'
    )
  read = lambda: tensor.from_file(file.tensor(tensor.name))
  if isinstance(file, SafetensorsFile):
    return read()
  shape = tensor.inputs + tensor.outputs
  return LazyArray(shape, file.dtype(tensor.name), read)


def read_exits(
  folder: pathlib.Path, model: ModelConfig, backbone: Params
) -> tuple[EarlyExitConfig, Params]:
  """Return the exits that `export_folder` put beside the backbone.

  Raises:
    CheckpointError: they are broken, or were made for another backbone.
  """
  if not (folder / EXITS_CONFIG).is_file():
    return EarlyExitConfig(model), {}
  values = read_json(folder / EXITS_CONFIG)
  try:
    exits = tuple(exit_from_json(e) for e in values['exits'])
    config = EarlyExitConfig(model, exits)
    digest = values['backbone_hash']
  except (KeyError, TypeError, ValueError) as error:
    raise CheckpointError(f'{folder / EXITS_CONFIG}: {error}.') from error
  if digest != backbone_hash({'backbone': backbone}):
    raise CheckpointError(
      f'the exits in {folder} were made for another backbone; remove '
      f'{EXITS_CONFIG} and {EXITS} to import the backbone alone.'
    )
  held: dict[str, Any] = {e.name: {} for e in exits}
  if (folder / EXITS).is_file():
    file = SafetensorsFile(folder / EXITS)
    leaves = {tuple(name.split('.')): file.tensor(name) for name in file}
    held |= arrays.unflatten(leaves)
  shapes.check_exits(held, config)
  return config, held
