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
"""Hashes of what a policy was fitted and certified for."""

import dataclasses
import hashlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eejax import serialization
from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, config_json
from eejax.decoding.policy.criteria import get_criterion
from eejax.decoding.policy.policy import Policy
from eejax.errors import EejaxError
from eejax.progress import SILENT, Progress
from eejax.types import DTypeLike, Params

# What the text of a model without a tokenizer is bound to.
NO_TOKENIZER = 'none'
NO_CHAT_TEMPLATE = 'none'


def hash_of(values: Any) -> str:
  """Return a SHA-256 of plain values, whatever the order of their keys."""
  return hashlib.sha256(_canonical(values).encode()).hexdigest()


def policy_hash(policy: Policy) -> str:
  """Return the hash of every field of a policy but its certificate."""
  values = policy.to_json()
  values.pop('certificate', None)
  return hash_of(values)


def backbone_identity(model: Model, *, progress: Progress = SILENT) -> str:
  """Return the hash that tells a model's backbone from others.

  That of the checkpoint it came from; of a model that is in memory alone, the
  hash of its arrays as float32, the same whether they were widened or not.
  """
  if model.backbone_hash is not None:
    return model.backbone_hash
  return backbone_digest(model, dtype=jnp.float32, progress=progress)


def backbone_digest(
  model: Model, *, dtype: DTypeLike, progress: Progress = SILENT
) -> str:
  """Return the hash of the backbone's arrays as they are computed with.

  It is taken once and kept with the model, for it takes seconds where a model
  is large.

  Args:
    model: its blocks may be stacked or not.
    dtype: what is computed in; arrays are hashed as that.
    progress: is told of the wait.
  """

  def digest() -> str:
    with progress.waiting('hashing the weights'):
      return tree.backbone_hash(model.params, dtype=dtype)

  return model.kept(('backbone_digest', jnp.dtype(dtype).name), digest)


def exit_hashes(
  params: Params, config: EarlyExitConfig, *, dtype: DTypeLike | None = None
) -> dict[str, str]:
  """Return a SHA-256 over each exit: its configuration, every path and byte.

  Args:
    params: the tree, of which only the exits are looked at.
    config: the model with the exits to be hashed.
    dtype: what arrays are hashed as, gates excepted, which are computed in
      float32; None hashes them as they are.
  """
  described = config_json.to_json(config)['exits']
  return {
    exit.name: _exit_hash(params['exits'].get(exit.name, {}), values, dtype)
    for exit, values in zip(config.exits, described, strict=True)
  }


def bindings(
  policy: Policy,
  model: Model,
  *,
  dtype: DTypeLike,
  progress: Progress = SILENT,
) -> dict[str, str]:
  """Return the hash of each thing that decides the texts of a policy.

  Args:
    policy: its fields and the class of its criterion decide.
    model: its configuration, the arrays in use, its exits and its tokenizer.
    dtype: what is computed in.
    progress: is told while weights are hashed.

  Returns:
    Hashes by name: `policy`, `criterion`, `model_config`, `backbone`,
    `tokenizer` and one for each exit, such as `exit_6`.
  """
  return {
    'policy': policy_hash(policy),
    'criterion': criterion_hash(policy.criterion),
    'model_config': hash_of(config_json.to_json(model.config)['model']),
    'tokenizer': model.kept('tokenizer_hash', lambda: tokenizer_hash(model)),
    **_kept_exit_hashes(model, dtype),
    'backbone': backbone_digest(model, dtype=dtype, progress=progress),
  }


def _kept_exit_hashes(model: Model, dtype: DTypeLike) -> dict[str, str]:
  return model.kept(
    ('exit_hashes', jnp.dtype(dtype).name),
    lambda: exit_hashes(model.params, model.config, dtype=dtype),
  )


def criterion_hash(text: str) -> str:
  """Return the hash of a criterion: its settings, its class, its source.

  The source is that of classes that do not come with eejax; where it cannot be
  read, as of a class typed into a prompt, the code of methods stands for it.
  """
  criterion = get_criterion(text)
  kinds = type(criterion).__mro__
  settings = repr(criterion) if dataclasses.is_dataclass(criterion) else ''
  parts = [text, settings]
  parts += [f'{k.__module__}.{k.__qualname__}' for k in kinds]
  parts += [_source(k) for k in kinds if not _is_known(k)]
  return hash_of(parts)


def tokenizer_hash(model: Model) -> str:
  """Return the hash of all that decides how a model reads a prompt."""
  if model.tokenizer_folder is None:
    return NO_TOKENIZER
  tokenizer = model.tokenizer
  return hash_of([tokenizer.bos_id, tokenizer.adds_bos, tokenizer.to_json()])


def chat_template_hash(model: Model) -> str:
  """Return the hash of what writes conversations and ends answers."""
  try:
    template = model.chat_template
  except EejaxError:
    return NO_CHAT_TEMPLATE
  names = dict(template.tokenizer.special_tokens)
  return hash_of([template.source, names, sorted(model.answer_ends)])


def _canonical(values: Any) -> str:
  return serialization.dumps(values, sort_keys=True)


def _exit_hash(
  exit_params: Params, values: Any, dtype: DTypeLike | None
) -> str:
  digest = hashlib.sha256(_canonical(values).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(exit_params):
    kind = jnp.float32 if path[0].key == 'gate' else dtype
    array = tree.host_copy(leaf, None if dtype is None else kind)
    name = jax.tree_util.keystr(path)
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def _is_known(kind: type) -> bool:
  """Return whether a class is of eejax or of Python itself."""
  return kind.__module__.split('.')[0] in ('eejax', 'abc', 'builtins')


def _source(kind: type) -> str:
  """Return the source of a class, or else the code of its methods."""
  try:
    return inspect.getsource(kind)
  except (OSError, TypeError):
    codes = (getattr(v, '__code__', None) for v in vars(kind).values())
    return ' '.join(c.co_code.hex() for c in codes if c is not None)
