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
"""Tuning on activations that were recorded, in place of the backbone."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from eejax import storage
from eejax.data.batch import Batch
from eejax.errors import EejaxError
from eejax.parallel import multihost
from eejax.progress import Progress
from eejax.recipes import run_identity, training_runs
from eejax.recipes.training_runs import RunSettings, TrainingData
from eejax.recipes.tuning_source import BackboneLayout, TuningSource
from eejax.training import activation_cache
from eejax.training.activation_cache import CachedBatches, Depths
from eejax.training.device_placement import DevicePlacement
from eejax.types import Params

_TRAIN, _HELD_OUT = 'train', 'held_out'


@dataclasses.dataclass(frozen=True)
class CacheSettings:
  """Where activations are cached.

  Attributes:
    folder: of the cache; filled if it is not.
    batches: training batches to record, read over and over; 0 records one
      for each step.
  """

  folder: str | os.PathLike
  batches: int = 0


def prepare(
  cache: CacheSettings,
  source: TuningSource,
  *,
  settings: RunSettings,
  layout: BackboneLayout,
  progress: Progress,
) -> tuple[Params, TrainingData]:
  """Return parameters without blocks, and batches with what exits read.

  Args:
    cache: where it is.
    source: the model whose exits are tuned.
    settings: of the run.
    layout: how the backbone is kept.
    progress: is told how much is recorded.

  Raises:
    EejaxError: there are several hosts or stages, or the cache is another's.
  """
  config, step = source.config, settings.step
  if multihost.count() > 1 or step.pipeline is not None:
    raise EejaxError(
      'cached activations are for one process without a pipeline; take the '
      'activation cache away, or the other hosts and stages.'
    )
  full_depth = settings.objective.full_depth(config)
  root = storage.local_path(cache.folder)
  identity = {
    'backbone': source.identity()['backbone'],
    'precision': step.forward.dtype,
    'data': repr(settings.data),
  }
  if settings.data.has_conversations:
    identity['chat_template'] = run_identity.template_hash(source.tokenizer)
  held_out = settings.held_out_batches != 0
  names = (_TRAIN, _HELD_OUT) if held_out else (_TRAIN,)
  if not all(activation_cache.is_whole(root / name) for name in names):
    params = source.load(layout)
    data = training_runs.read_data(
      settings, source.tokenizer, mesh=layout.mesh, progress=progress
    )
    sources: list[Iterator[Batch]] = [iter(data.batches), iter(data.held_out)]
    sizes = (cache.batches or settings.loop.steps, len(data.held_out))
    for name, batches, size in zip(names, sources, sizes, strict=False):
      _record(
        root / name,
        batches,
        size,
        progress,
        config=config,
        backbone=params['backbone'],
        identity=identity,
        full_depth=full_depth,
        forward=step.forward,
        placement=DevicePlacement(layout.mesh),
      )
  depths = Depths.read_by(config, full_depth=full_depth)
  opened = [
    CachedBatches(root / name, depths=depths, identity=identity)
    for name in names
  ]
  measured: list[Batch] = []
  if held_out:
    measured = [next(opened[1]) for _ in range(len(opened[1]))]
  return source.load_heads(layout), TrainingData(opened[0], measured)


def _record(
  folder: pathlib.Path,
  batches: Iterator[Batch],
  count: int,
  progress: Progress,
  **how: Any,
) -> None:
  with progress.bar('recording activations', total=count) as bar:
    activation_cache.record(
      folder, batches, count=count, told=lambda done: bar.update(1), **how
    )
