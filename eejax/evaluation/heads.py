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
"""Run a model over a batch and collect what its heads read."""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp

from eejax.config import EarlyExitConfig
from eejax.models import decoder
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  output_kernels,
  output_matrix_name,
)
from eejax.ops.cross_entropy import OutputHead
from eejax.ops.quant import Quantization
from eejax.types import Params

FINAL = 'final'


@flax.struct.dataclass
class Heads:
  """Every head of a model over one batch, ready for its matrix.

  Attributes:
    heads: of the exits, shallowest first, then of the final head.
    exit_inputs: what each exit read, by its name; gates read it, too.
  """

  heads: tuple[OutputHead, ...]
  exit_inputs: dict[str, ExitInput]


def head_names(config: EarlyExitConfig) -> tuple[str, ...]:
  """Return the names of the heads in the order of `Heads.heads`."""
  return (*(e.name for e in config.exits), FINAL)


def head_depths(config: EarlyExitConfig) -> tuple[int, ...]:
  """Return the depths of the heads in the order of `Heads.heads`."""
  return (*config.exit_depths, config.model.num_layers)


def run_heads(
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  config: EarlyExitConfig,
  dtype: str = 'float32',
  kv_quantization: Quantization = Quantization.NONE,
) -> Heads:
  """Run the whole model over a batch, up to the output matrices.

  Args:
    params: the whole tree, blocks stacked.
    batch: arrays of an `eejax.data.batch.Batch`, by name.
    config: the model with its exits.
    dtype: compute dtype.
    kv_quantization: what keys and values are rounded to.
  """
  backbone = params['backbone']
  positions, segment_ids = batch['positions'], batch['segment_ids']
  out = decoder.run_blocks(
    backbone,
    decoder.embed(
      backbone,
      batch['tokens'],
      positions=positions,
      config=config.model,
      dtype=jnp.dtype(dtype),
    ),
    config=config,
    positions=positions,
    segment_ids=segment_ids,
    kv_quantization=kv_quantization,
  )
  kernels = output_kernels(params, config=config)
  cap = config.model.logit_softcap
  heads = []
  for exit in config.exits:
    ready = apply_exit_head(
      params['exits'].get(exit.name, {}),
      out.exit_inputs[exit.name],
      exit=exit,
      config=config.model,
      positions=positions,
      segment_ids=segment_ids,
      kv_quantization=kv_quantization,
    )
    kernel = kernels[output_matrix_name(exit, config=config.model)]
    heads.append(OutputHead(ready.hidden, kernel, softcap=cap))
  hidden = decoder.final_hidden(backbone, out.hidden, config=config.model)
  kernel = kernels[output_matrix_name(None, config=config.model)]
  heads.append(OutputHead(hidden, kernel, softcap=cap))
  return Heads(heads=tuple(heads), exit_inputs=out.exit_inputs)
