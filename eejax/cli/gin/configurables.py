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
"""What gin files may name.

Importing this module registers it all; only the command line does. Our own
dataclasses and functions go by their bare names, optax's by `optax.NAME`,
members of enums as `%Regime.JOINT`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import gin
import optax

from eejax.cli.gin import training
from eejax.cli.gin.lookup import lookup
from eejax.cli.gin.planned_run import planned_run
from eejax.config import (
  ExitConfig,
  ExitHeadKind,
  GateKind,
  Initialization,
  ModelConfig,
  OutputMatrix,
  RotaryConfig,
  RotaryScaling,
  architectures,
  parse_exits,
)
from eejax.data.batch import Packing
from eejax.data.corpus import TextUnit
from eejax.data.data_config import DataConfig
from eejax.decoding.policy import criteria
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.models.decoder import Rematerialization
from eejax.ops.attention import AttentionImplementation
from eejax.parallel.mesh import MeshConfig
from eejax.pipeline.balance import Boundary
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind
from eejax.pipeline.skipping import IdleWork
from eejax.recipes.pretrain import KeptExits
from eejax.recipes.tuning_source import FrozenBackbone
from eejax.training import optimizers
from eejax.training.freeze import Regime
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Forward, Objective, TokenWeights
from eejax.training.optimizers import Configured, configured
from eejax.training.pipelined_config import Balance, PipelineConfig
from eejax.training.step import StepConfig
from eejax.training.weight_schedules import Curriculum, ExitWeights, Ramp

OWN = (
  DataConfig,
  ExitConfig,
  ExitWeights,
  Forward,
  LoopConfig,
  MeshConfig,
  ModelConfig,
  Objective,
  PipelineConfig,
  Policy,
  RotaryConfig,
  StepConfig,
  criteria.Patience,
  criteria.DepthSchedule,
  criteria.Static,
  criteria.register,
  lookup,
  parse_exits,
  planned_run,
  training.pretrain,
  training.tune,
)

ENUMS = (
  AttentionImplementation,
  Balance,
  Batching,
  Boundary,
  Curriculum,
  ExitHeadKind,
  GateKind,
  IdleWork,
  Initialization,
  KVStrategy,
  Keep,
  Mode,
  OutputMatrix,
  Packing,
  Ramp,
  Regime,
  Rematerialization,
  RotaryScaling,
  ScheduleKind,
  TextUnit,
  TokenWeights,
  FrozenBackbone,
  KeptExits,
)

# gin calls these, and gets them back with all of their arguments.
CONFIGURED = (optimizers.clipped_adamw, optimizers.warmup_cosine)
# Likewise: schedules, and optimizers that take a `learning_rate`.
OPTAX = (
  'constant_schedule',
  'cosine_decay_schedule',
  'exponential_decay',
  'join_schedules',
  'linear_schedule',
  'piecewise_constant_schedule',
  'polynomial_schedule',
  'sgdr_schedule',
  'warmup_constant_schedule',
  'warmup_cosine_decay_schedule',
  'warmup_exponential_decay_schedule',
  'adafactor',
  'adagrad',
  'adam',
  'adamax',
  'adamw',
  'amsgrad',
  'lamb',
  'lars',
  'lion',
  'nadamw',
  'novograd',
  'radam',
  'rmsprop',
  'sgd',
  'sm3',
  'yogi',
)


def _register() -> None:
  # Another verb may have run in this process, and locked what it ended with.
  with gin.unlock_config():
    for configurable in OWN:
      gin.external_configurable(configurable, module='eejax')
    gin.external_configurable(
      architectures.read_model, 'architecture', module='eejax'
    )
    for kind in ENUMS:
      gin.constants_from_enum(kind, module='eejax')
    for function in CONFIGURED:
      gin.external_configurable(
        _configures(function), function.__name__, module='eejax'
      )
    for name in OPTAX:
      gin.external_configurable(
        _configures(getattr(optax, name)), name, module='optax'
      )


def _configures(function: Callable[..., Any]) -> Callable[..., Configured]:
  """Return a function that keeps its arguments in place of using them."""

  def keep(*args: Any, **kwargs: Any) -> Configured:
    return configured(function, *args, **kwargs)

  functools.update_wrapper(keep, function)
  keep.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
  return keep


_register()
