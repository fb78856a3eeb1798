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
"""Tuning exits on what was once computed of the backbone."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh

from eejax.checkpoint import streaming, tree
from eejax.checkpoint.tree import Layout
from eejax.cli import output, training_runs
from eejax.cli.training_runs import CachedData
from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer
from eejax.errors import EejaxError
from eejax.parallel import multihost
from eejax.training import activation_cache
from eejax.training.activation_cache import CachedBatches, Depths
from eejax.training.placement import Placement
from eejax.training.step import StepConfig
from eejax.types import Params

_TRAIN, _HELD_OUT = 'train', 'held_out'


def prepare(
  folder: str | None,
  *,
  checkpoint: str,
  load: Callable[[], tuple[Params, Tokenizer]],
  config: EarlyExitConfig,
  full_depth: bool,
  step: StepConfig,
  data: DataConfig,
  count: int,
  held_out_batches: int,
  mesh: Mesh | None,
) -> tuple[Params, Tokenizer, CachedData | None]:
  """Return parameters, the tokenizer, and cached batches.

  With a cache there are no blocks among the parameters, without one no
  cached batches.

  Args:
    folder: of the cache; filled if it is not. None has no cache.
    checkpoint: the model whose exits are tuned.
    load: returns its parameters as a backbone runs on them.
    config: the model with its exits.
    full_depth: whether the final head takes part.
    step: how a step is computed.
    data: the corpus and the shape of a batch.
    count: training batches to record.
    held_out_batches: of the validation part, to record.
    mesh: the devices.

  Raises:
    EejaxError: there are several hosts or stages, or the cache is another's.
  """
  if folder is None:
    return *load(), None
  if multihost.count() > 1 or step.pipeline is not None:
    raise EejaxError(
      'cached activations are for one process without a pipeline; take '
      'activation_cache away, or the other hosts and stages.'
    )
  root = pathlib.Path(folder)
  mapped = streaming.map_checkpoint(checkpoint)
  identity = {
    'backbone': mapped.backbone_hash,
    'precision': step.forward.dtype,
    'data': repr(data),
  }
  names = (_TRAIN, _HELD_OUT) if held_out_batches else (_TRAIN,)
  if not all(activation_cache.is_whole(root / name) for name in names):
    params, words = load()
    found = training_runs.read_data(
      data, words, mesh=mesh, held_out_batches=held_out_batches
    )
    sources: list[Iterator[Batch]] = [iter(found[0]), iter(found[1])]
    sizes = (count, len(found[1]))
    for name, batches, size in zip(names, sources, sizes, strict=False):
      _record(
        root / name,
        batches,
        size,
        config=config,
        backbone=params['backbone'],
        identity=identity,
        full_depth=full_depth,
        forward=step.forward,
        placement=Placement(mesh),
      )
  depths = Depths.read_by(config, full_depth=full_depth)
  opened = [
    CachedBatches(root / name, depths=depths, identity=identity)
    for name in names
  ]
  held_out: list[Batch] = []
  if held_out_batches:
    held_out = [next(opened[1]) for _ in range(len(opened[1]))]
  if mapped.tokenizer_folder is None:
    raise EejaxError(f'{checkpoint} has no tokenizer, which tune needs.')
  return (
    _without_blocks(mapped.params, step.forward.dtype, mesh),
    Tokenizer.load(mapped.tokenizer_folder),
    CachedData(opened[0], held_out),
  )


def _record(
  folder: pathlib.Path, batches: Iterator[Batch], count: int, **how: Any
) -> None:
  with output.progress('recording activations', total=count) as bar:
    activation_cache.record(
      folder, batches, count=count, told=lambda done: bar.update(1), **how
    )


def _without_blocks(params: Params, dtype: str, mesh: Mesh | None) -> Params:
  """Return what heads need: of a block, its norm before the MLP."""
  backbone = params['backbone']
  norms = tuple({'mlp_norm': block['mlp_norm']} for block in backbone['blocks'])
  frozen = {'backbone': {**backbone, 'blocks': norms}, 'exits': {}}
  if mesh is not None:
    placed = streaming.place(frozen, mesh=mesh, dtype=dtype)
  else:
    placed = tree.on_device(
      tree.outer(frozen), norms, {}, layout=Layout.STACKED, dtype=dtype
    )
  return {**placed, 'exits': params['exits']}
