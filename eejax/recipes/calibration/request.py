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
"""Settings of a calibration, and the prompts it takes from a text."""

import dataclasses
from collections.abc import Mapping

from eejax.analysis import certify, measures
from eejax.analysis.certify import CalibrationPrompts, Prompt
from eejax.analysis.measures import MeasureLike
from eejax.checkpoint.model import Model
from eejax.decoding.policy import certificate as certificate_lib
from eejax.errors import ArgumentError
from eejax.recipes.encoded_prompts import answer_eos_ids
from eejax.recipes.text import Text
from eejax.stats import conformal
from eejax.stats.bounds import Bound, samples_needed
from eejax.stats.fixed_sequence import Guarantee

_PROMPT_TOKENS, _LONGEST_CONVERSATION = 32, 512
METHODS = (certificate_lib.LEARN_THEN_TEST, certificate_lib.CONFORMAL)
DTYPES = ('float32', 'bfloat16')
_COUNTS = (
  'sequences',
  'search_sequences',
  'report_sequences',
  'prompt_tokens',
  'max_new_tokens',
  'window',
  'batch_size',
)


@dataclasses.dataclass(frozen=True)
class CalibrationRequest:
  """What is to be certified, and how.

  Attributes:
    risk: limit of the mean loss of a sequence, in (0, 1).
    delta: largest chance that the mean loss is above it all the same, in
      (0, 1); of `learn_then_test` alone.
    measure: loss of a sequence; see `eejax.analysis.measures`.
    method: `learn_then_test` guarantees the risk with a chance of 1 - delta,
      `conformal` on average only.
    bound: p-value of `learn_then_test`, a value of `Bound`.
    criterion: score that exits are asked by; None takes the fastest.
    sequences: prompts to certify on, at most.
    search_sequences: prompts to search thresholds on, at most.
    report_sequences: prompts to measure speed on, at most.
    prompt_tokens: tokens of a prompt, of a conversation at most; None is 32,
      and of conversations what the context has room for, at most 512.
    max_new_tokens: tokens generated after it, at most.
    window: every `window`-th token at the latest goes to full depth.
    batch_size: prompts decoded together.
    seed: of the choice of prompts.
    dtype: what is computed in, and certified for: float32 or bfloat16.

  Raises:
    ArgumentError: a value is out of range, or there is no such measure,
      method, bound or dtype, or the risk needs more sequences.
  """

  risk: float = 0.05
  delta: float = 0.05
  measure: MeasureLike = 'local'
  method: str = certificate_lib.LEARN_THEN_TEST
  bound: str = Bound.HOEFFDING_BENTKUS.value
  criterion: str | None = None
  sequences: int = 384
  search_sequences: int = 96
  report_sequences: int = 16
  prompt_tokens: int | None = None
  max_new_tokens: int = 64
  window: int = 8
  batch_size: int = 16
  seed: int = 0
  dtype: str = 'float32'

  def __post_init__(self):
    _check_choice('method', self.method, METHODS)
    _check_choice('bound', self.bound, tuple(b.value for b in Bound))
    _check_choice('dtype', self.dtype, DTYPES)
    Guarantee(self.risk, self.delta, Bound(self.bound))
    measures.get_measure(self.measure)
    for name in _COUNTS:
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ArgumentError(f'{name} must be at least 1, not {value}.')
    if not self.is_conformal and self.sequences < self.least_sequences:
      raise ArgumentError(
        f'certifying a risk of {self.risk:g} at delta {self.delta:g} takes at '
        f'least {self.least_sequences} sequences, even without any loss; raise '
        f'sequences from {self.sequences}.'
      )

  def with_prompt_tokens(
    self, model: Model, text: Text
  ) -> 'CalibrationRequest':
    """Return the request with the length of the prompts of a text.

    Raises:
      ArgumentError: prompts and what is generated do not fit the context.
    """
    context = model.config.model.max_length
    size = self.prompt_tokens
    if size is None and text.has_conversations:
      size = min(context - self.max_new_tokens, _LONGEST_CONVERSATION)
    size = _PROMPT_TOKENS if size is None else size
    if not 1 <= size <= context - self.max_new_tokens:
      raise ArgumentError(
        f'prompts of {max(size, 1)} tokens and {self.max_new_tokens} new ones '
        f'are more than the context of the model, {context}; lower one of them.'
      )
    return dataclasses.replace(self, prompt_tokens=size)

  @property
  def is_conformal(self) -> bool:
    """Return whether the risk is controlled on average alone."""
    return self.method == certificate_lib.CONFORMAL

  @property
  def guarantee(self) -> Guarantee:
    """Return what `learn_then_test` is to certify."""
    return Guarantee(self.risk, self.delta, Bound(self.bound))

  @property
  def measure_name(self) -> str:
    """Return the name of the measure."""
    return measures.measure_name(self.measure)

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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ArgumentError(
      f'{name} must be one of {", ".join(choices)}, not {value!r}.'
    )


def read_prompts(
  model: Model,
  text: Text,
  request: CalibrationRequest,
  *,
  search_text: Text | None = None,
) -> CalibrationPrompts:
  """Return prompts of three parts of a text that share no document.

  Args:
    model: its tokenizer reads the text.
    text: what prompts are cut from; conversations up to a turn of the
      assistant.
    request: how long prompts are, and how many are taken of each part.
    search_text: another text to search thresholds on.

  Raises:
    EejaxError: the text cannot be read or is too short, or a prompt of
      `search_text` is in `text`, too.
  """
  request = request.with_prompt_tokens(model, text)
  counts = [request.search_sequences, request.sequences]
  # At least a tenth of the documents, for speeds differ between them.
  counts.append(max(request.report_sequences, sum(counts) // 9))
  if search_text is None:
    parts = text.parts(*counts)
  else:
    parts = (search_text, *text.parts(*counts[1:]))
  counts[2] = request.report_sequences
  drawn = []
  asks_reference = measures.needs_reference(request.measure)
  references: dict[Prompt, tuple[int, ...]] = {}
  for part, count in zip(parts, counts, strict=True):
    found = _pool(part, model, request, known=references)
    drawn.append(
      certify.draw_prompts(list(found), count=count, seed=request.seed)
    )
    references.update(found)
  prompts = CalibrationPrompts(
    search=drawn[0],
    certify=drawn[1],
    report=drawn[2],
    references=references if asks_reference else {},
    eos_ids=answer_eos_ids(model) if text.has_conversations else None,
  )
  prompts.check_disjoint()
  _check_enough(prompts, text, request)
  return prompts


def _pool(
  part: Text,
  model: Model,
  request: CalibrationRequest,
  *,
  known: Mapping[Prompt, tuple[int, ...]],
) -> dict[Prompt, tuple[int, ...]]:
  """Return the prompts of a part of a text, and how the text goes on.

  What follows is empty unless the measure asks for it; then prompts that an
  earlier part has, which may have gone on otherwise there, are left out.
  """
  size = request.prompt_tokens
  assert size is not None
  if part.has_conversations:
    answers = part.answers(model, longest=size)
    return {
      prompt: answer[: request.max_new_tokens]
      for prompt, answer in answers.items()
      if prompt not in known
    }
  if not measures.needs_reference(request.measure):
    return dict.fromkeys(part.pieces(model, length=size), ())
  pieces = part.pieces(model, length=size + request.max_new_tokens)
  found = {piece[:size]: piece[size:] for piece in pieces}
  return {p: after for p, after in found.items() if p not in known}


def _check_enough(
  prompts: CalibrationPrompts, text: Text, request: CalibrationRequest
) -> None:
  least = request.least_sequences
  if len(prompts.certify) < least:
    raise ArgumentError(
      f'{text} gives {len(prompts.certify)} sequences to certify on, and a '
      f'risk of {request.risk:g} takes at least {least}, even without any '
      'loss; give more text, or fewer prompt_tokens.'
    )
  for part in ('search', 'report'):
    if not getattr(prompts, part):
      raise ArgumentError(
        f'{text} gives no sequence of {request.prompt_tokens} tokens to '
        f'{part} on; give more text, or fewer prompt_tokens.'
      )
