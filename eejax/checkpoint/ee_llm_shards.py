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
"""The shards of a checkpoint of EE-LLM, joined.

  latest_checkpointed_iteration.txt        the iteration, or 'release'
  iter_0012000/mp_rank_00/model_optim_rng.pt          of one pipeline stage
  iter_0012000/mp_rank_00_001/model_optim_rng.pt      tensor rank, stage

Reference: Megatron-LM's `megatron/checkpointing.py` and
`megatron/core/tensor_parallel/layers.py`, as EE-LLM has them.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eejax.checkpoint.torch_file import read_torch_file
from eejax.errors import CheckpointError

FILE = 'model_optim_rng.pt'
LATEST = 'latest_checkpointed_iteration.txt'
_OLDEST_VERSION = 2.0  # Before, queries, keys and values lay otherwise.

# How the shards of an array make the whole: along which axis, each shard cut
# into so many parts that belong to different matrices. Others are equal.
_SPLIT = (
  (r'word_embeddings\.weight', 0, 1),
  (r'(exit_)?output_layer\.(\d+\.)?weight', 0, 1),
  (r'query_key_value\.(weight|bias)', 0, 1),
  (r'dense_h_to_4h\.(weight|bias)', 0, 2),
  (r'(dense|dense_4h_to_h)\.weight', 1, 1),
)

Named = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shards:
  """A checkpoint as its files have it.

  Attributes:
    folder: of one iteration.
    args: settings of the training run, plain values.
    iteration: how many steps it had taken; None where that is not said.
    stages: arrays of every pipeline stage, joined over tensor ranks when they
      are asked for.
  """

  folder: pathlib.Path
  args: Mapping[str, Any]
  iteration: int | None
  stages: tuple['StageShards', ...]


class StageShards:
  """The arrays of one pipeline stage, by name, each taken once."""

  def __init__(self, ranks: Sequence[Named], name: str):
    """Take over the arrays of every tensor rank.

    Args:
      ranks: arrays by name.
      name: of the stage, for complaints.

    Raises:
      CheckpointError: the ranks have different arrays.
    """
    self._ranks, self._name = ranks, name
    self._left = set(ranks[0])
    for rank in ranks[1:]:
      for key in sorted(rank.keys() ^ ranks[0].keys()):
        raise CheckpointError(
          f'{name}: some tensor ranks have the array {key} and others do not; '
          'copy or download the checkpoint again.'
        )

  def __contains__(self, name: str) -> bool:
    return name in self._ranks[0]

  @property
  def left(self) -> list[str]:
    """Return the names that nobody took."""
    return sorted(self._left)

  def take(self, name: str) -> np.ndarray:
    """Return one array, joined.

    Raises:
      CheckpointError: it is not there, or its shards do not fit one another.
    """
    if name not in self:
      raise CheckpointError(
        f'{self._name} lacks the array {name}; copy or download the checkpoint '
        'again.'
      )
    self._left.discard(name)
    shards = [rank[name] for rank in self._ranks]
    for pattern, axis, parts in _SPLIT:
      if re.fullmatch(f'(.*\\.)?{pattern}', name):
        return self._joined(name, shards, axis, parts)
    if len({shard.shape for shard in shards}) > 1:
      raise self._unequal(name)
    return shards[0]

  def drop(self, name: str) -> None:
    """Pass over an array that is a copy of another."""
    self._left.discard(name)

  def _joined(
    self, name: str, shards: list[np.ndarray], axis: int, parts: int
  ) -> np.ndarray:
    if len(shards) == 1:
      return shards[0]
    shapes = {shard.shape for shard in shards}
    if len(shapes) > 1 or shards[0].ndim <= axis or shards[0].shape[0] % parts:
      raise self._unequal(name)
    apart = [np.split(shard, parts, axis) for shard in shards]
    return np.concatenate(
      [pieces[i] for i in range(parts) for pieces in apart], axis
    )

  def _unequal(self, name: str) -> CheckpointError:
    return CheckpointError(
      f'{self._name}: the shards of {name} have shapes that do not fit one '
      'another; copy or download the checkpoint again.'
    )


def read_shards(source: pathlib.Path) -> Shards:
  """Return the shards of a checkpoint, their arrays mapped, not loaded.

  Args:
    source: folder of the run, or of one iteration.

  Raises:
    CheckpointError: a file is missing or damaged, or the files contradict one
      another.
  """
  folder = _iteration_folder(source)
  first = next(
    (p for n in ('00', '00_000') if (p := _file(folder, n)).is_file()), None
  )
  if first is None:
    raise CheckpointError(
      f'{folder} holds no checkpoint of EE-LLM: there is no '
      f'mp_rank_00/{FILE} and no mp_rank_00_000/{FILE}.'
    )
  values = _read(first)
  args = values.get('args')
  if not isinstance(args, dict):
    raise CheckpointError(f'{first} has no args, so nothing says what it is.')
  tensor = positive(args, 'tensor_model_parallel_size')
  pipeline = positive(args, 'pipeline_model_parallel_size')
  staged = pipeline > 1 or first.parent.name.endswith('_000')
  stages = []
  for stage in range(pipeline):
    ranks = []
    for rank in range(tensor):
      path = _file(folder, f'{rank:02}_{stage:03}' if staged else f'{rank:02}')
      if not path.is_file():
        raise CheckpointError(
          f'{path} is missing: the checkpoint was written by {tensor} tensor '
          f'ranks in {pipeline} stages, so {tensor * pipeline} files are '
          'needed; copy the others beside these.'
        )
      ranks.append(_arrays(path, values if path == first else _read(path)))
    stages.append(StageShards(ranks, f'stage {stage} of {folder}'))
  step = values.get('iteration')
  return Shards(
    folder, args, step if isinstance(step, int) else None, tuple(stages)
  )


def positive(args: Mapping[str, Any], name: str) -> int:
  """Return a setting that is a positive integer.

  Raises:
    CheckpointError: it is none.
  """
  value = args.get(name)
  if type(value) is not int or value < 1:
    raise CheckpointError(
      f'the args of the checkpoint have {name} {value!r:.40}, which must be a '
      'positive integer.'
    )
  return value


def _iteration_folder(source: pathlib.Path) -> pathlib.Path:
  """Return the folder of the newest iteration."""
  if not (source / LATEST).is_file():
    return source
  try:
    latest = (source / LATEST).read_text().strip()
  except (OSError, ValueError) as error:
    raise CheckpointError(f'{source / LATEST} cannot be read.') from error
  if latest != 'release' and not latest.isdecimal():
    raise CheckpointError(
      f'{source / LATEST} must hold an iteration, not {latest!r:.40}.'
    )
  name = latest if latest == 'release' else f'iter_{int(latest):07}'
  if not (source / name).is_dir():
    raise CheckpointError(
      f'{source / LATEST} names {name}, which is not there; copy it, or give '
      'the folder of another iteration.'
    )
  return source / name


def _file(folder: pathlib.Path, rank: str) -> pathlib.Path:
  return folder / f'mp_rank_{rank}' / FILE


def _read(path: pathlib.Path) -> dict[str, Any]:
  values = read_torch_file(path)
  if not isinstance(values, dict):
    raise CheckpointError(f'{path} does not hold what Megatron saves.')
  version = values.get('checkpoint_version')
  if not isinstance(version, (int, float)) or version < _OLDEST_VERSION:
    raise CheckpointError(
      f'{path} has checkpoint_version {version!r:.40}, and {_OLDEST_VERSION} '
      'or later is read; load and save it with Megatron.'
    )
  return values


def _arrays(path: pathlib.Path, values: Mapping[str, Any]) -> Named:
  model = values.get('model')
  if not isinstance(model, dict) or 'language_model' not in model:
    raise CheckpointError(
      f'{path} has no model of one part; checkpoints of interleaved pipelines '
      'are not read.'
    )
  found: Named = {}
  _flatten(found, '', model['language_model'])
  others = {k: v for k, v in model.items() if k != 'language_model'}
  _flatten(found, '', others)
  return found


def _flatten(found: Named, prefix: str, value: Any) -> None:
  if isinstance(value, np.ndarray):
    found[prefix] = value
  elif isinstance(value, dict):
    for key, inner in value.items():
      _flatten(found, f'{prefix}.{key}' if prefix else str(key), inner)
