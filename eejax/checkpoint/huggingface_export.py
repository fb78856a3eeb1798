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
"""Write Hugging Face folders that transformers loads, with the exits beside.

The backbone is as transformers would write it. `exits.safetensors` and
`exits.json`, which it does not look at, hold the rest; see
`eejax.checkpoint.huggingface`.
"""

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax.numpy as jnp
import numpy as np

from eejax.checkpoint import arrays, shapes, tree
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.checkpoint.model import Model
from eejax.checkpoint.safetensors_file import Entry, write_safetensors
from eejax.checkpoint.tokenizer_files import copy_tokenizer
from eejax.config import EarlyExitConfig, ModelConfig, config_json
from eejax.errors import CheckpointError
from eejax.models import families
from eejax.models.families.keys import is_harmless
from eejax.models.families.tensors import Tensor, tensors
from eejax.types import Params

WEIGHTS = 'model.safetensors'
WEIGHTS_INDEX = 'model.safetensors.index.json'
EXITS = 'exits.safetensors'
EXITS_CONFIG = 'exits.json'
# Largest file by default, as transformers has it.
SHARD_BYTES = 5_000_000_000


def export_folder(
  checkpoint: Model,
  dest: str | os.PathLike,
  *,
  shard_bytes: int = SHARD_BYTES,
  existing: Existing = Existing.REFUSE,
) -> None:
  """Write a model as a Hugging Face folder, whole or not at all.

  Args:
    checkpoint: the model; its backbone must be whole, stacked or not.
    dest: the folder to make.
    shard_bytes: above this the weights are split into several files.
    existing: what to do when something is at `dest`.

  Raises:
    ArgumentError: `dest` is occupied, or the family cannot have a part of
      the model.
    CheckpointError: the arrays do not fit the configuration, or the disk is
      full.
  """
  config, params = checkpoint.config, checkpoint.params
  shapes.check_backbone(tree.shapes(params), config.model)
  shapes.check_exits(params['exits'], config)
  entries = backbone_entries(params, config.model)
  with whole_folder(dest, existing=existing, marker='config.json') as new:
    write_description(new, checkpoint)
    _write_shards(new, entries, shard_bytes)
    if config.exits:
      write_exits(new, params, config)


def write_description(folder: pathlib.Path, checkpoint: Model) -> None:
  """Write what says what a model is: `config.json` and its tokenizer."""
  config, params = checkpoint.config.model, checkpoint.params
  source = checkpoint.provenance.get('huggingface') or {}
  dtypes = {tree.leaf_dtype(params, t.path) for t in tensors(config)}
  _write_json(folder / 'config.json', _config_values(config, source, dtypes))
  generation = _generation_values(config, source)
  if generation is not None:
    _write_json(folder / 'generation_config.json', generation)
  copy_tokenizer(checkpoint.tokenizer_folder, folder)


def backbone_entries(params: Params, config: ModelConfig) -> list[Entry]:
  """Return the tensors of a backbone as a Hugging Face file has them."""

  def read(parts: Sequence[Tensor]) -> np.ndarray:
    leaves = [np.asarray(tree.leaf(params, t.path)) for t in parts]
    found = [t.to_file(x) for t, x in zip(parts, leaves, strict=True)]
    return parts[0].join(found)

  by_name: dict[str, list[Tensor]] = {}
  for tensor in tensors(config):
    by_name.setdefault(tensor.name, []).append(tensor)
  return [
    Entry(
      name=name,
      shape=parts[0].file_shape,
      dtype=np.dtype(tree.leaf_dtype(params, parts[0].path)),
      read=functools.partial(read, parts),
    )
    for name, parts in by_name.items()
  ]


def _config_values(
  config: ModelConfig, source: Mapping[str, Any], dtypes: Set[np.dtype]
) -> dict[str, Any]:
  """Return `config.json`: the one the model came with where it still holds."""
  original = source.get('config') or {}
  stops = (source.get('generation_config') or {}).get('eos_token_id')
  if original and _describes(original, stops, config):
    values = dict(original)
  else:
    values = families.write_config(config)
    values |= {k: v for k, v in original.items() if is_harmless(k)}
    values['bos_token_id'] = config.bos_id
    values['eos_token_id'] = families.write_eos(config.eos_ids)
  key = 'torch_dtype' if 'torch_dtype' in values else 'dtype'
  if len(dtypes) == 1 or values.get(key) is None:
    values[key] = np.dtype(jnp.result_type(*dtypes)).name
  return values


def _describes(
  values: Mapping[str, Any], stops: Any, config: ModelConfig
) -> bool:
  """Return whether a `config.json` still says what the model is."""
  if stops is not None:
    values = {**values, 'eos_token_id': stops}
  try:
    return families.read_config(values) == config
  except CheckpointError:
    return False


def _generation_values(
  config: ModelConfig, source: Mapping[str, Any]
) -> dict[str, Any] | None:
  values = source.get('generation_config')
  if values is None or values.get('eos_token_id') is None:
    return values
  if families.read_eos(values['eos_token_id']) == config.eos_ids:
    return values
  return {**values, 'eos_token_id': families.write_eos(config.eos_ids)}


def _write_shards(
  folder: pathlib.Path, entries: Sequence[Entry], shard_bytes: int
) -> None:
  shards: list[list[Entry]] = [[]]
  for entry in entries:
    held = sum(e.num_bytes for e in shards[-1])
    if shards[-1] and held + entry.num_bytes > shard_bytes:
      shards.append([])
    shards[-1].append(entry)
  if len(shards) == 1:
    write_safetensors(folder / WEIGHTS, entries)
    return
  places = {}
  for number, shard in enumerate(shards, start=1):
    name = f'model-{number:05}-of-{len(shards):05}.safetensors'
    write_safetensors(folder / name, shard)
    places.update({entry.name: name for entry in shard})
  size = sum(entry.num_bytes for entry in entries)
  count = sum(int(np.prod(entry.shape)) for entry in entries)
  index = {
    'metadata': {'total_parameters': count, 'total_size': size},
    'weight_map': places,
  }
  _write_json(folder / WEIGHTS_INDEX, index)


def write_exits(
  folder: pathlib.Path, params: Params, config: EarlyExitConfig
) -> None:
  """Write the exits alone, bound to the backbone of `params`."""
  leaves = arrays.flatten(params['exits'])
  entries = [
    Entry(
      name='.'.join(path),
      shape=tuple(leaf.shape),
      dtype=np.dtype(leaf.dtype),
      read=functools.partial(np.asarray, leaf),
    )
    for path, leaf in leaves.items()
  ]
  if entries:
    write_safetensors(folder / EXITS, entries)
  values = {
    'format': 1,
    'backbone_hash': tree.backbone_hash(params),
    'exits': config_json.to_json(config)['exits'],
  }
  _write_json(folder / EXITS_CONFIG, values)


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(values, indent=2) + '\n')
