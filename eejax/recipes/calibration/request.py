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
"""What `calibrate` is asked for, and the prompts that it takes."""

import argparse
import dataclasses
import functools

from eejax.analysis import certify, measures
from eejax.analysis.certify import Parts, Prompt
from eejax.checkpoint.model import Model
from eejax.cli import measuring
from eejax.data.batch import Packing
from eejax.decoding.policy import certificate as certificate_lib
from eejax.errors import ArgumentError
from eejax.stats import conformal
from eejax.stats.bounds import Bound, samples_needed
from eejax.stats.fixed_sequence import Guarantee

# More tokens than a text that is drawn from has.
_ALL = 10**12


@dataclasses.dataclass(frozen=True)
class Request:
  """Say what is to be certified, and on what; see the flags of the verb."""

  risk: float = 0.05
  delta: float = 0.05
  method: str = certificate_lib.LEARN_THEN_TEST
  bound: str = Bound.HOEFFDING_BENTKUS.value
  measure: str = 'local'
  data: str = measuring.STANDARD_LIBRARY
  search_data: str | None = None
  split: str | None = None
  unit: str = 'file'
  sequences: int = 384
  search_sequences: int = 96
  prompt_tokens: int = 32
  max_new_tokens: int = 32
  seed: int = 0
  criterion: str | None = None
  window: int = 8
  batch_size: int = 16
  dtype: str = 'float32'

  def __post_init__(self):
    Guarantee(self.risk, self.delta, Bound(self.bound))
    measures.get_measure(self.measure)
    for name in (
      'sequences',
      'search_sequences',
      'prompt_tokens',
      'max_new_tokens',
      'window',
      'batch_size',
    ):
      value = getattr(self, name)
      if value < 1:
        flag = '--' + name.replace('_', '-')
        raise ArgumentError(f'{flag} must be at least 1, not {value}.')
    if not self.is_conformal and self.sequences < self.least_sequences:
      raise ArgumentError(
        f'certifying a risk of {self.risk:g} at delta {self.delta:g} takes at '
        f'least {self.least_sequences} sequences, even without any loss; raise '
        f'--sequences from {self.sequences}.'
      )

  @classmethod
  def of(cls, args: argparse.Namespace) -> 'Request':
    """Return the request that the verb's arguments name."""
    names = [f.name for f in dataclasses.fields(cls)]
    return cls(**{name: getattr(args, name) for name in names})

  @property
  def is_conformal(self) -> bool:
    """Return whether the risk is controlled on average alone."""
    return self.method == certificate_lib.CONFORMAL

  @property
  def least_sequences(self) -> int:
    """Return how many sequences without any loss certify the risk."""
    if self.is_conformal:
      return conformal.sequences_needed(self.risk)
    needed = samples_needed(
      risk=self.risk, delta=self.delta, bound=Bound(self.bound)
    )
    assert needed is not None
    return needed

  def text(self, data: str) -> measuring.Text:
    """Return the text that prompts are cut from."""
    return measuring.Text(
      data=data,
      split=self.split,
      unit=self.unit,
      max_tokens=_ALL,
      sequence_length=self.prompt_tokens,
      batch_size=64,
    )


# MARK: Prompts


def read_parts(model: Model, request: Request) -> Parts:
  """Return the prompts to search on and those to certify on.

  Raises:
    EejaxError: the text cannot be read, is too short, or a prompt is in both
      parts.
  """
  room = model.config.model.max_length - request.prompt_tokens
  if request.max_new_tokens > room:
    raise ArgumentError(
      f'prompts of {request.prompt_tokens} tokens and '
      f'{request.max_new_tokens} new ones are more than the context of the '
      f'model, {model.config.model.max_length}; lower one of them.'
    )
  pool = read_pool(model, request, request.data)
  search, count = request.search_sequences, request.sequences
  if request.search_data is None:
    # A fifth to search on where there is little.
    search = min(search, max(len(set(pool)) // 5, 1))
    parts = certify.draw_parts(
      pool, search=search, certify=count, seed=request.seed
    )
  else:
    others = read_pool(model, request, request.search_data)
    draw = functools.partial(certify.draw_parts, seed=request.seed)
    parts = Parts(
      draw(others, search=search, certify=0).search,
      draw(pool, search=count, certify=0).search,
    )
    certify.check_disjoint(parts)
  least = request.least_sequences
  if len(parts.certify) < least:
    raise ArgumentError(
      f'{request.data} gives {len(parts.certify)} sequences to certify on, and '
      f'a risk of {request.risk:g} takes at least {least}, even without any '
      'loss; give more text, or a smaller --prompt-tokens.'
    )
  return parts


def read_pool(model: Model, request: Request, data: str) -> list[Prompt]:
  """Return every piece of a text that is as long as a prompt."""
  batches = measuring.read_text(
    model, request.text(data), packing=Packing.ONE_PER_ROW
  )
  return [
    tuple(row.tolist())
    for batch in batches
    for row, weights in zip(batch.tokens, batch.weights, strict=True)
    if weights.all()
  ]
