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
"""What a run works on: its hosts, its mesh and its folder."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from eejax import serialization, storage
from eejax.axes import STAGE
from eejax.errors import EejaxError
from eejax.parallel import environment, multihost
from eejax.parallel import mesh as mesh_lib
from eejax.parallel.mesh import MeshConfig
from eejax.progress import native_prints_on_stderr
from eejax.storage import AnyPath
from eejax.training import run_folder
from eejax.training.step import StepConfig

# What gin may give for a mesh: axes or a name, see `mesh_lib.parse_mesh`.
MeshChoice = MeshConfig | str | None


@dataclasses.dataclass(frozen=True)
class OpenRun:
  """Folder and devices of a run.

  Attributes:
    folder: of the run, held by this run.
    mesh: its devices; None for the default device alone.
  """

  folder: AnyPath
  mesh: Mesh | None


@contextlib.contextmanager
def open_run(
  folder: str | os.PathLike,
  *,
  mesh: MeshChoice,
  identity: Mapping[str, Any],
  rows: int,
  step: StepConfig,
  blocks: int,
  check: Callable[[Mesh | None], None] = lambda mesh: None,
  attachments: Mapping[str, str] | None = None,
) -> Iterator[OpenRun]:
  """Join the other hosts, arrange the devices, and hold the run's folder.

  Call it before anything is computed.

  Args:
    folder: of the run, on a disk that all hosts share or in a store; an
      earlier run there is continued.
    mesh: the devices. None is the default device with one process, and
      copies of the model on all devices with several.
    identity: plain values that decide the losses; all hosts must bring the
      same, but for a `fingerprint` of files, which is the first host's.
    rows: of a batch.
    step: how a step is computed.
    blocks: that are run.
    check: called with the devices before anything is written.
    attachments: texts to be kept in the folder, by file name.

  Raises:
    EejaxError: hosts are missing or differ, the mesh does not fit the
      devices, the batch or the model, or the folder is another run's.
  """
  config = mesh_lib.parse_mesh(mesh) if isinstance(mesh, str) else mesh
  if config is not None:
    mesh_lib.simulate(config)
  hosts = environment.from_environment()
  if hosts is not None:
    shared = {
      k: v for k, v in identity.items() if not k.endswith('fingerprint')
    }
    multihost.initialize(hosts, identity=shared, on_loss=multihost.end_at_once)
    config = config or MeshConfig()
  devices = None
  if config is not None:
    devices = mesh_lib.make_mesh(config)
    mesh_lib.check_batch(devices, rows=rows, microbatches=step.microbatches)
    mesh_lib.check_stages(devices, blocks=blocks)
    if devices.shape[STAGE] > 1 and step.pipeline is None:
      raise EejaxError(
        f'the mesh has {devices.shape[STAGE]} stages and no pipeline is set; '
        'set StepConfig.pipeline, as in '
        '--gin.StepConfig.pipeline=@PipelineConfig().'
      )
  check(devices)
  with contextlib.ExitStack() as stack:
    if hosts is not None:
      stack.enter_context(native_prints_on_stderr())

    def claim() -> None:
      own = stack.enter_context(run_folder.claim(folder, identity=identity))
      for name, text in (attachments or {}).items():
        serialization.write_text(own / name, text)

    multihost.from_first(claim)
    try:
      yield OpenRun(storage.as_path(folder), devices)
      multihost.shutdown(0)
    except (jax.errors.JaxRuntimeError, EejaxError) as error:
      # A collective, or a checkpoint, fails when a host is lost, a moment
      # before the other hosts notice and this process is ended.
      found = multihost.lost_host(error)
      if found is not None:
        raise EejaxError(found) from None
      raise
