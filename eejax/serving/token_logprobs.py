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
"""Log-probabilities of tokens, in the two forms of the protocol."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

# What one token is as text.
TokenText = Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class ScoredToken:
  """One token and how likely it was.

  Attributes:
    token: its id.
    logprob: of it; None of the first token of a prompt, which nothing foretold.
    top: the likeliest tokens there with theirs, likeliest first.
    piece: what it added to the text.
    rank: its place among all tokens, 1 is the likeliest; None where it was not
      asked for.
  """

  token: int
  logprob: float | None
  top: Sequence[tuple[int, float]]
  piece: str
  rank: int | None = None


def of_completion(
  tokens: Sequence[ScoredToken], text_of: TokenText, *, offset: int
) -> dict[str, Any]:
  """Return what a choice of a completion has as `logprobs`.

  Args:
    tokens: in their order.
    text_of: returns what a token is as text.
    offset: characters of the text before the first one.
  """
  offsets = []
  for token in tokens:
    offsets.append(offset)
    offset += len(token.piece)
  return {
    'tokens': [text_of(t.token) for t in tokens],
    'token_logprobs': [t.logprob for t in tokens],
    'top_logprobs': [
      None if t.logprob is None else _by_text(t, text_of) for t in tokens
    ],
    'text_offset': offsets,
  }


def of_chat(
  tokens: Sequence[ScoredToken], text_of: TokenText
) -> dict[str, Any]:
  """Return what a choice of a chat has as `logprobs`."""

  def described(token: int, logprob: float | None) -> dict[str, Any]:
    text = text_of(token)
    return {
      'token': text,
      'logprob': logprob,
      'bytes': list(text.encode('utf-8')),
    }

  return {
    'content': [
      {
        **described(t.token, t.logprob),
        'top_logprobs': [described(*pair) for pair in t.top],
      }
      for t in tokens
    ]
  }


def of_prompt(
  tokens: Sequence[ScoredToken], text_of: TokenText
) -> list[dict[str, Any] | None]:
  """Return what a choice has as `prompt_logprobs`, by token id as in vLLM.

  The likeliest tokens and the one that stands there; None for the first token,
  which nothing foretold.
  """

  def described(token: ScoredToken) -> dict[str, Any]:
    ranked: dict[int, tuple[float | None, int | None]] = {
      other: (logprob, rank)
      for rank, (other, logprob) in enumerate(token.top, start=1)
    }
    ranked[token.token] = (token.logprob, token.rank)
    return {
      str(other): {
        'logprob': logprob,
        'rank': rank,
        'decoded_token': text_of(other),
      }
      for other, (logprob, rank) in ranked.items()
    }

  return [None if t.logprob is None else described(t) for t in tokens]


def _by_text(token: ScoredToken, text_of: TokenText) -> dict[str, float]:
  """Return the likeliest tokens and the one that stands there by their text.

  Of tokens with one text, as pieces of characters, the likeliest stays.
  """
  found: dict[str, float] = {}
  for other, logprob in token.top:
    found.setdefault(text_of(other), logprob)
  if token.logprob is not None:
    found.setdefault(text_of(token.token), token.logprob)
  return found
