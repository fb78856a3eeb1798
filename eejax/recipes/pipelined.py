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
"""Pipelines that `eejax.generate` decodes on: laid out once, and kept."""

import jax.numpy as jnp

from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.decoding.pipelined.generate import Pipeline
from eejax.decoding.pipelined.mesh import pipeline_mesh
from eejax.decoding.policy.check_use import Use
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import MeshChoice


def check_arguments(use: Use) -> None:
  """Check how a policy is used with a pipeline.

  Raises:
    ArgumentError: numbers are to be kept in a byte.
  """
  given = {
    'weights': use.weights is not Quantization.NONE,
    'kv': use.kv is not Quantization.NONE,
  }
  for name, is_given in given.items():
    if is_given:
      raise ArgumentError(
        f'a pipeline keeps all numbers in the dtype, so {name} does not go '
        'with mesh; leave one of them out.'
      )


def pipeline(
  model: Model, mesh: MeshChoice, *, policy: Policy, dtype: str
) -> Pipeline:
  """Return a model laid out over a mesh, kept with it for the next call.

  Args:
    model: all of its blocks are loaded.
    mesh: axes as in `stage=4`, or devices; see `pipeline_mesh`.
    policy: when to exit early, without a certificate.
    dtype: what is computed in.

  Raises:
    EejaxError: the mesh, the model or the policy does not go with a pipeline.
  """
  loaded = tree.count_blocks(model.params)
  if loaded < model.config.model.num_layers:
    raise ArgumentError(
      f'a pipeline runs all {model.config.model.num_layers} blocks of the '
      f'model, and {loaded} are loaded; load all of it.'
    )
  devices = pipeline_mesh(mesh)
  return model.kept(
    ('pipeline', devices, policy, dtype),
    lambda: Pipeline(
      model.params,
      config=model.config,
      mesh=devices,
      policy=policy,
      dtype=jnp.dtype(dtype),
    ),
  )
