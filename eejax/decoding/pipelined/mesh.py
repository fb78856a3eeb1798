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
"""Meshes that a pipeline decodes on: axes `stage` and `model` alone."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from eejax.axes import MODEL, STAGE
from eejax.errors import ArgumentError
from eejax.parallel import mesh as mesh_lib
from eejax.parallel.mesh import REST, MeshConfig


def pipeline_mesh(mesh: str | MeshConfig | Mesh) -> Mesh:
  """Return the devices of a pipeline, arranged by `stage` and `model`.

  Args:
    mesh: axes as in `stage=4` or `stage=2,model=2`, a `MeshConfig` with
      these axes, or devices that jax has arranged. The first devices are
      taken where there are more.

  Raises:
    EejaxError: there is another axis, or there are too few devices.

  Example:
    >>> dict(pipeline_mesh('stage=1').shape)
    {'stage': 1, 'model': 1}
  """
  if not isinstance(mesh, Mesh):
    mesh = _arranged(
      mesh_lib.parse_mesh(mesh) if isinstance(mesh, str) else mesh
    )
  num_stages(mesh)
  others = [n for n in mesh.axis_names if n not in (STAGE, MODEL)]
  large = [n for n in others if mesh.shape[n] > 1]
  if large:
    raise _other_axis(large[0], mesh.shape[large[0]])
  axes = tuple(mesh.axis_names.index(n) for n in others)
  names = tuple(n for n in mesh.axis_names if n not in others)
  # The compiler splits what is not a stage's, whatever kind of axis is given.
  return Mesh(
    np.squeeze(mesh.devices, axis=axes),
    names,
    axis_types=(AxisType.Auto,) * len(names),
  )


def num_stages(mesh: Mesh) -> int:
  """Return the number of stages a mesh has.

  Raises:
    ArgumentError: it has no axis for them.
  """
  if STAGE not in mesh.axis_names:
    have = ', '.join(map(str, mesh.axis_names)) or 'none'
    raise ArgumentError(
      f'pipelined decoding needs a mesh with an axis {STAGE!r}; the axes '
      f'of this one: {have}.'
    )
  return mesh.shape[STAGE]


def _arranged(config: MeshConfig) -> Mesh:
  mesh_lib.simulate(config)
  sizes = config.sizes()
  for name, size in sizes.items():
    # What is not named is not asked for: `data` takes the rest by default.
    is_default = size == getattr(MeshConfig(), name)
    if name not in (STAGE, MODEL) and size != 1 and not is_default:
      raise _other_axis(name, size)
  devices = jax.devices()
  config = dataclasses.replace(config, data=1)
  sizes = config.sizes()
  needed = math.prod(sizes.values())
  if REST not in sizes.values():
    if needed > len(devices):
      raise ArgumentError(
        f'mesh {STAGE}={config.stage},{MODEL}={config.model} needs {needed} '
        f'devices and there are {len(devices)}; ask for fewer, or try it on '
        f'simulated CPU devices with JAX_NUM_CPU_DEVICES={needed} in the '
        'environment.'
      )
    devices = devices[:needed]
  return mesh_lib.make_mesh(config, devices=devices)


def _other_axis(name: str, size: int) -> ArgumentError:
  return ArgumentError(
    f'generate takes a mesh of the axes {STAGE} and {MODEL}, and this one has '
    f'{name}={size}; leave it out.'
  )
