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

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.decoding.pipelined.generate import Pipeline
from eejax.decoding.pipelined.mesh import pipeline_mesh
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.use import Use
from eejax.decoding.results import TokenUpdate
from eejax.errors import ArgumentError
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import MeshChoice


def check_arguments(
  use: Use,
  *,
  stop: Sequence[str],
  on_tokens: Callable[[TokenUpdate], None] | None,
  tokens_per_call: int | None,
  top_logprobs: int,
) -> None:
  """Check arguments of `eejax.generate` that go with no mesh.

  Args:
    use: how the policy is used.
    stop: strings that end a text.
    on_tokens: called while a text grows.
    tokens_per_call: steps between two such calls.
    top_logprobs: likeliest tokens to report.

  Raises:
    ArgumentError: one of them was given.
  """
  given = {
    'weights': use.weights is not Quantization.NONE,
    'kv': use.kv is not Quantization.NONE,
    'stop': bool(stop),
    'on_tokens': on_tokens is not None,
    'tokens_per_call': tokens_per_call is not None,
    'top_logprobs': top_logprobs > 0,
  }
  for name, is_given in given.items():
    if is_given:
      raise ArgumentError(
        f'{_WHY[name]}, so {name} does not go with mesh; leave one of them out.'
      )


_INT8 = 'a pipeline keeps all numbers in the dtype'
_AT_ONCE = 'a pipeline returns its texts when all have ended'
_WHY = {
  'weights': _INT8,
  'kv': _INT8,
  'stop': 'a pipeline sees no text while it decodes',
  'on_tokens': _AT_ONCE,
  'tokens_per_call': _AT_ONCE,
  'top_logprobs': 'a pipeline reports the chosen token alone',
}


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
