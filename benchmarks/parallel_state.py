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
"""Measure how the state of a run moves between meshes; print one JSON object.

  python benchmarks/parallel_state.py
  python benchmarks/parallel_state.py --only reshard_equal

Devices are simulated unless there are accelerators. Nothing here is timed.
"""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import figures
import jax
import numpy as np
from figures import Figure

from eejax.checkpoint import streaming
from eejax.checkpoint.huggingface_export import export_folder
from eejax.checkpoint.manager import RunCheckpoints
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.data.batch import Batch
from eejax.models import decoder
from eejax.parallel import sharding
from eejax.parallel.mesh import make_mesh, parse_mesh
from eejax.training import state as state_lib
from eejax.training.device_placement import DevicePlacement
from eejax.training.freeze import Regime
from eejax.training.objective import Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.state import TrainState
from eejax.training.step import StepConfig, make_train_step

MODEL = ModelConfig(
  vocab_size=4096,
  num_layers=8,
  embed_dim=128,
  num_heads=8,
  num_kv_heads=4,
  head_dim=16,
  mlp_dim=384,
  max_length=64,
)
CONFIG = EarlyExitConfig(
  MODEL, parse_exits('2:norm,4:mlp:untied,6:bottleneck_mlp(16)')
)
PAIRS = (
  ('data=8', 'fsdp=2,model=4'),
  ('fsdp=4,model=2', 'data=2,stage=4'),
  ('stage=2,model=2,data=2', 'fsdp=8'),
)
# Sums over devices are taken in another order on another mesh.
_ROUNDING = 1e-6


def reshard_equal(repeats: int) -> Figure:
  """Return the share of pairs of meshes between which nothing is lost.

  A run takes a step on the first mesh and is saved; on the second mesh every
  parameter and every moment must be the same, bit for bit, and the next step
  must have the same loss.
  """
  del repeats  # nothing is timed
  pairs = {f'{a} to {b}': _pair(a, b) for a, b in PAIRS}
  equal = [
    p['leaves_that_differ'] == 0 and p['next_loss_difference'] <= _ROUNDING
    for p in pairs.values()
  ]
  return sum(equal) / len(equal), pairs


def _pair(first: str, second: str) -> dict[str, Any]:
  there = DevicePlacement(make_mesh(parse_mesh(first)))
  here = DevicePlacement(make_mesh(parse_mesh(second)))
  after, _ = _step(there, _start(there))
  kept = jax.device_get(after)
  with tempfile.TemporaryDirectory() as folder:
    with RunCheckpoints(pathlib.Path(folder) / 'run') as checkpoints:
      checkpoints.save(1, after, {})
      checkpoints.wait()
      assert here.mesh is not None
      wanted = sharding.abstract(kept, mesh=here.mesh)
      restored = checkpoints.restore_latest(wanted)
  assert restored is not None
  different = [
    not np.array_equal(np.asarray(a), np.asarray(b))
    for a, b in zip(
      jax.tree.leaves(restored.state), jax.tree.leaves(kept), strict=True
    )
  ]
  _, loss = _step(there, after)
  _, other = _step(here, restored.state)
  return {
    'leaves': len(different),
    'leaves_that_differ': sum(different),
    'next_loss': other,
    'next_loss_difference': abs(other - loss) / loss,
  }


def _start(placement: DevicePlacement) -> TrainState:
  make = lambda: decoder.init(CONFIG, jax.random.key(0))
  assert placement.mesh is not None
  params = sharding.initialise(make, mesh=placement.mesh)
  with placement.active():
    return placement.create_state(params, optimizer=clipped_adamw(1e-3))


def _step(
  placement: DevicePlacement, state: TrainState
) -> tuple[TrainState, float]:
  """Return the next state and the loss on the way; `state` stays."""
  step = make_train_step(
    CONFIG,
    objective=Objective(regime=Regime.JOINT),
    optimizer=clipped_adamw(1e-3),
    settings=StepConfig(),
  )
  with placement.active():
    compiled = placement.compile_step(step, state_lib.abstract(state))
    copied = jax.tree.map(lambda leaf: leaf + 0, state)
    after, measured = compiled(copied, {}, placement.batch(_batch()))
  return after, float(measured.sums.objective / measured.sums.tokens)


def _batch() -> Batch:
  rows, length = 8, 64
  random = np.random.default_rng(0)
  tokens = random.integers(0, MODEL.vocab_size, (rows, length + 1))
  return Batch(
    tokens=tokens[:, :-1].astype(np.int32),
    targets=tokens[:, 1:].astype(np.int32),
    weights=np.ones((rows, length), np.float32),
    positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    segment_ids=np.ones((rows, length), np.int32),
  )


def import_part_ratio(repeats: int) -> Figure:
  """Return the largest array a host makes to import a model, over a part.

  A part is the largest one that a device gets; 1 is what it says that a host
  holds about one part of one array, whatever the size of the model.
  """
  del repeats  # nothing is timed
  mesh = make_mesh(parse_mesh('fsdp=4,model=2'))
  params = decoder.init(CONFIG, jax.random.key(0))
  largest = 0
  makers = {name: getattr(np, name) for name in ('stack', 'array')}

  def watched(make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def made(*args: Any, **options: Any) -> np.ndarray:
      nonlocal largest
      array = make(*args, **options)
      largest = max(largest, array.nbytes)
      return array

    return made

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'model'
    export_folder(Model(CONFIG, params), path, shard_bytes=1_000_000)
    files = len(list(path.glob('*.safetensors')))
    try:
      for name, make in makers.items():
        setattr(np, name, watched(make))
      found = streaming.import_folder(path, mesh=mesh)
    finally:
      for name, make in makers.items():
        setattr(np, name, make)
  leaves = jax.tree.leaves(found.params)
  part = max(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
  return largest / part, {
    'files': files,
    'largest_array_made': largest,
    'largest_part': part,
    'model_bytes': sum(leaf.nbytes for leaf in leaves),
  }


BY_REPEATS: dict[str, Callable[[int], Figure]] = {
  'reshard_equal': reshard_equal,
  'import_part_ratio': import_part_ratio,
}
FIGURES: dict[str, figures.Measure] = {
  name: lambda args, measure=measure: measure(args.repeats)
  for name, measure in BY_REPEATS.items()
}


def main() -> None:
  # A mesh of eight, whatever there is; accelerators are taken as they are.
  jax.config.update('jax_num_cpu_devices', 8)
  parser = figures.parser(__doc__.split('\n')[0], repeats=1)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
