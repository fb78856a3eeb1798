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
"""What families with experts have in common."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.config.experts import ExpertsConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families.family import Fields, integer
from eejax.models.families.names import EXPERT

# Old files and new ones call the number of experts otherwise.
NUM_KEYS = ('num_local_experts', 'num_experts')
KEYS = frozenset({*NUM_KEYS, 'num_experts_per_tok', 'router_aux_loss_coef'})
QWEN_KEYS = KEYS | {
  'decoder_sparse_step',
  'mlp_only_layers',
  'moe_intermediate_size',
  'norm_topk_prob',
}
QWEN_NAMES: Mapping[str, str] = {
  'mlp/router': 'mlp.gate',
  'mlp/experts/gate': f'mlp.experts.{EXPERT}.gate_proj',
  'mlp/experts/up': f'mlp.experts.{EXPERT}.up_proj',
  'mlp/experts/down': f'mlp.experts.{EXPERT}.down_proj',
}
_BALANCE_WEIGHT = 0.001


def read_experts(
  values: Mapping[str, Any],
  *,
  width: str,
  num_experts: int,
  renormalized: bool,
  shared: str | None = None,
) -> Fields:
  """Return the experts that a file describes.

  Args:
    values: of the file, defaults filled in.
    width: key of an expert's width.
    num_experts: what an absent number of experts means.
    renormalized: whether a token's weights add up to one.
    shared: key of the shared expert's width; None where there is none.

  Raises:
    CheckpointError: the file says two numbers, or one that cannot be.
  """
  found = {k: values[k] for k in NUM_KEYS if values.get(k) is not None}
  if len(set(found.values())) > 1:
    raise CheckpointError(
      f'config.json: {" and ".join(found)} differ; keep the right one.'
    )
  named = {'num_experts': num_experts, **found}
  key = next(iter(found), 'num_experts')
  return {
    'experts': ExpertsConfig(
      num_experts=integer(named, key),
      top_k=integer(values, 'num_experts_per_tok'),
      expert_dim=integer(values, width),
      renormalized=renormalized,
      shared_dim=None if shared is None else integer(values, shared),
      balance_weight=values.get('router_aux_loss_coef', _BALANCE_WEIGHT),
    )
  }


def read_qwen_experts(
  values: Mapping[str, Any], *, num_experts: int, shared: str | None = None
) -> Fields:
  """Return the experts of a Qwen; other arguments are those of `read_experts`.

  Raises:
    CheckpointError: some blocks have no experts, or as above.
  """
  if values.get('decoder_sparse_step') != 1 or values.get('mlp_only_layers'):
    raise CheckpointError(
      'config.json: blocks without experts beside blocks with some are not '
      'supported (decoder_sparse_step must be 1, mlp_only_layers empty).'
    )
  return read_experts(
    values,
    width='moe_intermediate_size',
    num_experts=num_experts,
    renormalized=bool(values.get('norm_topk_prob')),
    shared=shared,
  )


def write_experts(config: ModelConfig, *, num_key: str) -> Fields:
  """Return the keys that all families with experts have.

  Raises:
    ArgumentError: the model has none.
  """
  experts = experts_of(config)
  return {
    num_key: experts.num_experts,
    'num_experts_per_tok': experts.top_k,
    'output_router_logits': False,
    'router_aux_loss_coef': experts.balance_weight,
  }


def write_qwen_experts(config: ModelConfig, *, num_key: str) -> Fields:
  """Return the keys that `read_qwen_experts` reads, but for a shared width.

  Raises:
    ArgumentError: the model has no experts.
  """
  experts = experts_of(config)
  return {
    **write_experts(config, num_key=num_key),
    'decoder_sparse_step': 1,
    'mlp_only_layers': [],
    'moe_intermediate_size': experts.expert_dim,
    'norm_topk_prob': experts.renormalized,
  }


def experts_of(config: ModelConfig) -> ExpertsConfig:
  """Return the experts of a model.

  Raises:
    ArgumentError: it has none.
  """
  if config.experts is None:
    raise ArgumentError(
      f'a model without experts cannot be written as {config.family!r}; set '
      'another family in its configuration.'
    )
  return config.experts
