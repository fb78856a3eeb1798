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
"""Exits added to a model, and exits taken away."""

import dataclasses
from collections.abc import Iterable

import jax

from eejax.checkpoint import surgery
from eejax.checkpoint.model import Model
from eejax.config import ExitConfig, Initialization, parse_exits
from eejax.errors import ArgumentError


def add_exits(
  model: Model,
  exits: str | Iterable[ExitConfig],
  *,
  initialization: Initialization | str = Initialization.COPY,
  seed: int = 0,
) -> Model:
  """Return the model with more exits; the backbone stays as it is.

  An exit's parameters depend on the backbone, the seed and its own depth, not
  on which other exits there are. See `eejax.checkpoint.surgery.add_exits` for
  what each part starts from.

  Args:
    model: every block that an exit copies must be loaded.
    exits: what to add, as `parse_exits` reads it:
      `DEPTH:HEAD[(RANK)][:OUTPUT][:gate|:mlp_gate]`, separated by commas; HEAD
      is embedding, norm, mlp, bottleneck_mlp or block, OUTPUT shared, untied
      or tied_embedding.
    initialization: `copy` starts from what the backbone has there, `random`
      at random.
    seed: of what is random.

  Raises:
    ArgumentError: `exits` is not understood, an exit is at a depth that is
      taken or beyond the model, or a block to be copied is not loaded.

  Example:
    >>> import eejax
    >>> model = eejax.add_exits(eejax.load('default'), '4:norm,8:norm:gate')
    >>> model.config.exit_depths
    (4, 8)
  """
  if isinstance(exits, str):
    exits = parse_exits(exits)
  params, config = surgery.add_exits(
    model.params,
    model.config,
    exits,
    initialization=_initialization(initialization),
    key=jax.random.key(seed),
  )
  return dataclasses.replace(model, params=params, config=config)


def drop_exits(model: Model, depths: Iterable[int]) -> Model:
  """Return the model without the exits at `depths`; the others stay.

  Raises:
    ArgumentError: there is no exit at one of the depths.

  Example:
    >>> import eejax
    >>> model = eejax.add_exits(eejax.load('default'), '4:norm,8:norm')
    >>> eejax.drop_exits(model, [4]).config.exit_depths
    (8,)
  """
  params, config = surgery.drop_exits(model.params, model.config, depths)
  return dataclasses.replace(model, params=params, config=config)


def _initialization(value: Initialization | str) -> Initialization:
  try:
    return Initialization(value)
  except ValueError:
    known = ', '.join(i.value for i in Initialization)
    raise ArgumentError(
      f'initialization must be one of {known}, not {value!r}.'
    ) from None
