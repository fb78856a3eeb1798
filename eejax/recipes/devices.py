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
"""Models on the devices of a mesh, for every verb that takes one."""

from eejax.checkpoint import streaming
from eejax.checkpoint.model import Model
from eejax.decoding.loop.device_placement import check_mesh
from eejax.parallel import sharding
from eejax.parallel.mesh import MeshChoice, devices_of


def on_mesh(model: Model, mesh: MeshChoice | None) -> Model:
  """Return a model whose parameters lie on a mesh, kept for the next call.

  What reads the parameters, the decode loop and passes over a text alike,
  then computes there. Leaves that are views of files are read a part at a
  time, each by the device that it belongs to.

  Args:
    model: on one device, or mapped from files.
    mesh: see `eejax.parallel.mesh.devices_of`; None returns the model.

  Raises:
    EejaxError: the mesh does not fit the devices or the model, or has stages.
  """
  if mesh is None:
    return model
  devices = devices_of(mesh)
  check_mesh(devices, config=model.config)
  if sharding.mesh_of(model.params) == devices:
    return model
  return model.kept(
    ('on mesh', devices),
    lambda: streaming.on_mesh(model, mesh=devices),
  )
