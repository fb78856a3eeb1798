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
"""What gin files of t5x say in plain values, as eejax's own objects.

t5x's gin registers names by module, so these take the strings and numbers
that one types: `--gin.REGIME="'tune'"`, `--gin.THRESHOLDS="'0.9'"`.
"""

import enum
import os
from collections.abc import Sequence
from typing import Any

from eejax import storage
from eejax.checkpoint import manifest, t5x_description
from eejax.checkpoint.tokenizer_files import find_tokenizer
from eejax.config import EarlyExitConfig, architectures, parse_exits
from eejax.data.tokenizer import Tokenizer
from eejax.decoding.policy import defaults
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import parse_thresholds
from eejax.errors import ArgumentError
from eejax.models.decoder import Rematerialization
from eejax.training import weight_schedules
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.weight_schedules import Curriculum, ExitWeights


def early_exit_config(
  source: str | os.PathLike, *, exits: str = ''
) -> EarlyExitConfig:
  """Return a model with its exits.

  Args:
    source: an eejax checkpoint; a folder that `eejax export --format t5x` or
      a t5x run of eejax wrote; or a model of `configs/models`, by name or as
      a JSON file.
    exits: as `eejax add-exits` takes them, besides those that `source` has.

  Raises:
    ArgumentError: `source` is none of these, or an exit cannot be.
  """
  path = storage.local_path(source)
  described = t5x_description.read(path)
  if (path / manifest.NAME).is_file():
    config = manifest.read_config(path)
  elif described is not None:
    config = described.config
  elif path.is_dir():
    raise ArgumentError(
      f'{path} does not say what model it holds; name an eejax checkpoint or '
      'what `eejax export --format t5x` wrote.'
    )
  else:
    config = EarlyExitConfig(architectures.read_model(str(source)))
  added = parse_exits(exits) if exits else ()
  return config.with_exits((*config.exits, *added))


def tokenizer(source: str | os.PathLike) -> Tokenizer:
  """Return the tokenizer of a folder, as `early_exit_config` takes them.

  Raises:
    EejaxError: there is none.
  """
  path = storage.local_path(source)
  folder = find_tokenizer(path)
  described = t5x_description.find(path)
  if folder is None and described is not None:
    folder = find_tokenizer(described)
  if folder is None:
    raise ArgumentError(f'there is no tokenizer in {path}; name its folder.')
  return Tokenizer.load(folder)


def objective(
  *,
  regime: str = 'joint',
  exit_weights: float | Sequence[float] = 1.0,
  curriculum: str = 'all',
  gradual_steps: int = 0,
  distillation_weight: float = 0.0,
  temperature: float = 1.0,
) -> Objective:
  """Return what a run minimises; see `eejax.training.objective`."""
  weights = ExitWeights(
    weights=exit_weights,
    curriculum=_member(Curriculum, curriculum, 'curriculum'),
    gradual_steps=gradual_steps,
  )
  return Objective(
    regime=_member(Regime, regime, 'regime'),
    exit_weights=weights,
    distillation_weight=distillation_weight,
    temperature=temperature,
  )


def forward(
  *, dtype: str = 'float32', rematerialization: str = 'none'
) -> Forward:
  """Return how the backbone is run; see `eejax.training.objective`."""
  return Forward(
    dtype=dtype,
    rematerialization=_member(
      Rematerialization, rematerialization, 'rematerialization'
    ),
  )


def policy(
  config: EarlyExitConfig,
  *,
  file: str | None = None,
  certified: bool = True,
  mode: str = 'full',
  criterion: str | None = None,
  thresholds: str | None = None,
) -> Policy:
  """Return when to exit early.

  Args:
    config: the model with its exits.
    file: a policy that `eejax calibrate` wrote; it says all the rest.
    certified: False leaves out what the policy was certified for, which t5x's
      parameters cannot be checked against.
    mode: `full`, `early_exit` or `speculative`.
    criterion: name of the score; None is the gate where every exit has one,
      else `max_prob`.
    thresholds: as on the command line, `0.9` or `0.9,never`; None takes what
      the mode asks for.

  Raises:
    ArgumentError: they do not go together, or the policy has a certificate.
  """
  if file is not None:
    read = Policy.load(file, certified=certified)
    if read.certificate is not None:
      raise ArgumentError(
        f'the certificate of {file} cannot be checked against parameters that '
        't5x restores; set CERTIFIED = False to use its thresholds all the '
        'same, without a promise.'
      )
    return read
  if mode == 'full':
    return Policy()
  fields: dict = {'mode': Policy().with_mode(mode).mode}
  if criterion is not None:
    fields['criterion'] = criterion
  if thresholds is not None:
    fields['thresholds'] = parse_thresholds(thresholds)
  return defaults.complete_policy(config, **fields)


def constant_weights(objective: Objective) -> bool:
  """Return whether the exits' weights are the same at every step."""
  schedule = objective.exit_weights
  return (
    schedule.ramp is weight_schedules.Ramp.CONSTANT
    and schedule.curriculum is Curriculum.ALL
  )


def _member(kind: type[enum.Enum], value: str, name: str) -> Any:
  try:
    return kind(value)
  except ValueError:
    known = ', '.join(m.value for m in kind)
    raise ArgumentError(
      f'{name} must be one of {known}, not {value!r}.'
    ) from None
