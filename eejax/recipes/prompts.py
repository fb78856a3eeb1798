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
"""Prompts for recipes: texts, token ids, or held-out text."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from eejax.checkpoint.model import Model
from eejax.decoding.generate import check_prompts
from eejax.errors import ArgumentError
from eejax.recipes.text import Text

PROMPT_TOKENS = 32

HELD_OUT = "the standard library's validation part"
GIVEN = 'the caller'


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts as token ids, and where they come from.

  Attributes:
    source: as a page names it.
    tokens: ids of each prompt.
  """

  source: str
  tokens: tuple[tuple[int, ...], ...]


# What recipes take: texts, token ids of each, or neither.
PromptsLike = Prompts | Sequence[str] | Sequence[Sequence[int]] | None


def token_prompts(
  model: Model,
  prompts: PromptsLike = None,
  *,
  max_new_tokens: int,
  count: int = 8,
  source: str = GIVEN,
) -> Prompts:
  """Return prompts as token ids, after a check that each can be continued.

  Args:
    model: continues them; its tokenizer encodes texts.
    prompts: texts, or token ids of each; None takes beginnings of the standard
      library's validation part.
    max_new_tokens: tokens that are generated after each.
    count: how many prompts are taken of the standard library.
    source: where given prompts come from, as a page names it.

  Raises:
    ArgumentError: there is no prompt, one leaves no room in the context, a
      token is not the model's, or the model has no tokenizer for a text.
  """
  context = model.config.model.max_length
  room = context - max_new_tokens
  if max_new_tokens < 1 or room < 1:
    raise ArgumentError(
      'max_new_tokens must be at least 1 and leave room for a prompt in the '
      f'context of {context} tokens, so it cannot be {max_new_tokens}.'
    )
  ids: Sequence[Sequence[int]]
  if prompts is None:
    source = HELD_OUT
    ids = _held_out(model, length=min(PROMPT_TOKENS, room), count=count)
  elif isinstance(prompts, Prompts):
    source, ids = prompts.source, prompts.tokens
  else:
    ids = _as_tokens(model, prompts)
  checked = check_prompts(ids, config=model.config.model)
  longest = max(map(len, checked))
  if longest > room:
    raise ArgumentError(
      f'a prompt of {longest} tokens and {max_new_tokens} new ones are more '
      f'than the context of the model, {context}; shorten the prompt or lower '
      'max_new_tokens.'
    )
  return Prompts(source, tuple(map(tuple, checked)))


def check_has_exits(model: Model) -> None:
  """Check that a model has exits.

  Raises:
    ArgumentError: it has none.
  """
  if not model.config.exits:
    raise ArgumentError(
      'the model has no exits; add some and tune them (add_exits and tune), or '
      "try untuned ones, as with exits='2:norm' or --exits 2:norm."
    )


def _as_tokens(
  model: Model, prompts: Sequence[str] | Sequence[Sequence[int]]
) -> list[list[int]]:
  if isinstance(prompts, str):
    prompts = [prompts]
  texts = [prompt for prompt in prompts if isinstance(prompt, str)]
  if not texts:
    return [[int(t) for t in prompt] for prompt in prompts]
  if len(texts) < len(prompts):
    raise ArgumentError('prompts are all texts or all token ids, not both.')
  tokenizer = model.tokenizer
  return tokenizer.encode_batch(texts, add_bos=tokenizer.adds_bos)


def _held_out(
  model: Model, *, length: int, count: int
) -> list[tuple[int, ...]]:
  """Return pieces of the library's validation part, spread over it."""
  pieces = Text().pieces(model, length=length, max_tokens=4 * count * length)
  if not pieces:
    raise ArgumentError(
      f'no held-out text has {length} tokens; give prompts of your own.'
    )
  chosen = np.linspace(0, len(pieces) - 1, min(count, len(pieces)))
  return [pieces[int(i)] for i in chosen.round()]
