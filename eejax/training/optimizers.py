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
"""Optimizers as the runs configure them.

Any optax transformation will do in their place; these put clipping and the
decay mask where they belong.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from eejax.errors import ArgumentError
from eejax.training.freeze import decay_mask


def clipped_adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  weight_decay: float = 0.1,
  clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """Return AdamW that clips, and leaves norm gains and biases undecayed.

  Args:
    learning_rate: a number, or any optax schedule.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: times the learning rate, taken off every matrix.
    clip_norm: largest global norm of the trainable part's gradient; None
      does not clip.
  """
  optimizer = optax.adamw(
    learning_rate,
    b1=b1,
    b2=b2,
    eps=eps,
    weight_decay=weight_decay,
    mask=decay_mask,
  )
  if clip_norm is None:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def warmup_cosine(
  peak: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  end_fraction: float = 0.1,
) -> optax.Schedule:
  """Return a linear warm-up and a cosine down to a part of the peak.

  The first step is taken at peak / warmup_steps, not at 0, where it would
  be lost.

  Args:
    peak: highest learning rate.
    steps: length of the run, warm-up included.
    warmup_steps: steps until the peak is reached.
    end_fraction: share of the peak that is left at the end.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=peak / max(warmup_steps, 1),
    peak_value=peak,
    warmup_steps=warmup_steps,
    decay_steps=max(steps, warmup_steps + 1),
    end_value=peak * end_fraction,
  )


@dataclasses.dataclass(frozen=True)
class Configured:
  """A function with its arguments, called when a run begins.

  optax's transformations and schedules are closures that do not tell their
  values. This keeps the values, so that two runs can be told apart.

  Attributes:
    function: of a module; returns an optax transformation or a schedule.
    arguments: by name; each may be `Configured` itself.
  """

  function: Callable[..., Any]
  arguments: Mapping[str, Any]

  def with_defaults(self, **more: Any) -> 'Configured':
    """Return the same with arguments that it does not have yet."""
    return dataclasses.replace(self, arguments={**more, **self.arguments})

  def make(self) -> Any:
    """Return what the function makes of its arguments."""
    return self.function(**{k: made(v) for k, v in self.arguments.items()})


def configured(
  function: Callable[..., Any], *args: Any, **arguments: Any
) -> Configured:
  """Return a function with its arguments, defaults among them.

  Args:
    function: such as `optax.lion` or `optax.cosine_decay_schedule`, or one of
      your own that stands in a module.
    *args: of it.
    **arguments: of it; a schedule may be `configured` in its turn.

  Raises:
    ArgumentError: it takes no such argument.

  Example:
    >>> import optax
    >>> lion = configured(optax.lion, b1=0.95)
    >>> lion.arguments['b2']
    0.99
  """
  signature = inspect.signature(function)
  try:
    bound = signature.bind_partial(*args, **arguments)
  except TypeError as error:
    raise ArgumentError(f'{function.__name__}: {error}.') from error
  defaults = {
    name: parameter.default
    for name, parameter in signature.parameters.items()
    if parameter.default is not inspect.Parameter.empty
  }
  return Configured(function, {**defaults, **bound.arguments})


def made(value: Any) -> Any:
  """Return a value in which all that is `Configured` has been made."""
  if isinstance(value, Configured):
    return value.make()
  if isinstance(value, (list, tuple)):
    return type(value)(map(made, value))
  return value


def constant(rate: float) -> Configured:
  """Return a learning rate that stays."""
  return configured(optax.constant_schedule, value=rate)
