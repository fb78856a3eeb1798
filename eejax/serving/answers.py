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
"""Answers of the protocol: whole objects, and chunks of a stream."""

import dataclasses
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from eejax.decoding.policy.bindings import policy_hash
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import FinishReason, GeneratedRow, TokenUpdate
from eejax.serving import token_logprobs
from eejax.serving.generation_request import Endpoint, GenerationRequest
from eejax.serving.ticket import TextUpdate, Ticket, TicketTimes
from eejax.serving.token_logprobs import ScoredToken, TokenText

_FINISH_REASONS = {
  FinishReason.EOS: 'stop',
  FinishReason.STOP: 'stop',
  FinishReason.LENGTH: 'length',
}
_PREFIXES = {Endpoint.COMPLETION: 'cmpl-', Endpoint.CHAT: 'chatcmpl-'}


@dataclasses.dataclass(frozen=True)
class EncodedPrompt:
  """A prompt as the engine gets it.

  Attributes:
    tokens: its ids.
    text: the prompt as text, '' where the model has no tokenizer.
    scored: its tokens and how likely they were, where that was asked for.
  """

  tokens: tuple[int, ...]
  text: str
  scored: tuple[ScoredToken, ...] = ()


@dataclasses.dataclass(frozen=True)
class Usage:
  """How many tokens an answer cost.

  Attributes:
    prompt: tokens of all prompts, each counted once.
    completion: tokens generated.
    reused: those of `prompt` whose keys and values were there from earlier
      requests.
  """

  prompt: int
  completion: int
  reused: int = 0

  def to_json(self) -> dict[str, Any]:
    """Return the field `usage`."""
    return {
      'prompt_tokens': self.prompt,
      'completion_tokens': self.completion,
      'total_tokens': self.prompt + self.completion,
      'prompt_tokens_details': {'cached_tokens': self.reused},
    }


class CompletionChoice:
  """One text of an answer as it grows.

  Attributes:
    index: its number in the answer.
    num_tokens: tokens generated so far.
    num_reused: tokens of its prompt that did not have to be run, once it has
      ended.
  """

  def __init__(
    self,
    index: int,
    prompt: EncodedPrompt,
    request: GenerationRequest,
    text_of: TokenText,
  ):
    """Begin a text.

    Args:
      index: its number in the answer.
      prompt: what it continues.
      request: says what is told of it.
      text_of: returns what a token is as text.
    """
    self.index = index
    self._prompt, self._request, self._text_of = prompt, request, text_of
    self._echo = _echoed_text(request, prompt)
    self._offset = len(self._echo)
    self._has_begun = False
    self.num_tokens = self.num_reused = 0

  def chunks(
    self, update: TextUpdate, times: TicketTimes
  ) -> list[dict[str, Any]]:
    """Return the choices of chunks that tell what the text grew by.

    There is one for each token, and one for an end that no token comes with.
    """
    row, scored = update.result, _scored(update.tokens)
    self.num_tokens += len(scored)
    if not scored and row is not None:
      return [self._chunk(update.text, (), _details(update.tokens), row, times)]
    exits = zip(update.tokens.exit_depths, update.tokens.scores, strict=True)
    choices: list[dict[str, Any]] = []
    for token, (depth, score) in zip(scored, exits, strict=True):
      is_last = len(choices) == len(scored) - 1
      details = {
        'tokens': [token.token],
        'pieces': [token.piece],
        'exit_depths': [depth],
        'scores': [score],
      }
      ended = row if is_last else None
      choices.append(self._chunk(token.piece, (token,), details, ended, times))
    return choices

  def _chunk(
    self,
    text: str,
    scored: Sequence[ScoredToken],
    details: dict[str, Any],
    row: GeneratedRow | None,
    times: TicketTimes,
  ) -> dict[str, Any]:
    """Return the choice of one chunk; the last one has the whole `row`."""
    offset, tokens = self._offset, details['tokens']
    self._offset += len(text)
    is_first, self._has_begun = not self._has_begun, True
    if is_first and self._request.echoes:
      text, offset = self._echo + text, 0
      scored = [*self._echoed, *scored]
    if row is not None:
      self.num_reused = row.reused_tokens
      details |= _work(row, times)
    choice = self._choice(
      text, scored, offset=offset, row=row, details=details, is_chunk=True
    )
    if self._request.endpoint is Endpoint.CHAT and not is_first:
      # The client joins what deltas say, roles as well.
      del choice['delta']['role']
    if self._request.returns_token_ids:
      if is_first:
        choice['prompt_token_ids'] = list(self._prompt.tokens)
      choice['token_ids'] = tokens
    return choice

  def whole(self, ticket: Ticket, row: GeneratedRow) -> dict[str, Any]:
    """Return the choice of an answer that is given as a whole."""
    self.num_tokens, self.num_reused = len(row.tokens), row.reused_tokens
    choice = self._choice(
      self._echo + (row.text or ''),
      [*self._echoed, *_scored(row)],
      offset=0,
      row=row,
      details=_details(row) | _work(row, ticket.times),
      is_chunk=False,
    )
    return self._with_prompt(choice, row.tokens)

  def echo(self) -> dict[str, Any]:
    """Return the choice of an answer that is the prompt alone."""
    choice = self._choice(
      self._echo,
      self._echoed,
      offset=0,
      row=None,
      details={},
      is_chunk=self._request.is_streamed,
    )
    return self._with_prompt({**choice, 'finish_reason': 'length'}, ())

  @property
  def _echoed(self) -> list[ScoredToken]:
    """Return the prompt's tokens as they stand before those of the text."""
    is_chat = self._request.endpoint is Endpoint.CHAT
    if is_chat or not self._request.echoes:
      return []
    return self._prompt_with(self._request.tokens.logprobs or 0)

  def _prompt_with(self, count: int) -> list[ScoredToken]:
    """Return the prompt's tokens, each with so many likely ones."""
    return [
      dataclasses.replace(t, top=t.top[:count]) for t in self._prompt.scored
    ]

  def _with_prompt(
    self, choice: dict[str, Any], tokens: Sequence[int]
  ) -> dict[str, Any]:
    """Add ids, and how likely the prompt was, where they are asked for."""
    if self._request.prompt_logprobs is not None:
      choice['prompt_logprobs'] = token_logprobs.of_prompt(
        self._prompt_with(self._request.prompt_logprobs), self._text_of
      )
    if self._request.returns_token_ids:
      choice['prompt_token_ids'] = list(self._prompt.tokens)
      choice['token_ids'] = list(tokens)
    return choice

  def _choice(
    self,
    text: str,
    scored: Sequence[ScoredToken],
    *,
    offset: int,
    row: GeneratedRow | None,
    details: Mapping[str, Any],
    is_chunk: bool,
  ) -> dict[str, Any]:
    """Return a choice; `row` is the text that has ended, if it has."""
    is_chat = self._request.endpoint is Endpoint.CHAT
    logprobs = None
    if self._request.tokens.logprobs is not None:
      logprobs = (
        token_logprobs.of_chat(scored, self._text_of)
        if is_chat
        else token_logprobs.of_completion(scored, self._text_of, offset=offset)
      )
    choice: dict[str, Any] = {'index': self.index}
    if is_chat:
      choice['delta' if is_chunk else 'message'] = {
        'role': 'assistant',
        'content': text,
      }
    else:
      choice['text'] = text
    return {
      **choice,
      'logprobs': logprobs,
      **self._reasons(row),
      'eejax': details,
    }

  def _reasons(self, row: GeneratedRow | None) -> dict[str, Any]:
    """Return why a text ended, and by which string or token of the request."""
    if row is None:
      return {'finish_reason': None, 'stop_reason': None}
    by: str | int | None = row.stop_string
    stop_ids = self._request.tokens.sampling.stop_token_ids
    if row.finish_reason is FinishReason.EOS and row.tokens[-1] in stop_ids:
      by = row.tokens[-1]
    reason = _FINISH_REASONS.get(row.finish_reason)
    return {'finish_reason': reason, 'stop_reason': by}


class CompletionResponse:
  """What all objects of one answer begin with."""

  def __init__(self, request: GenerationRequest, *, model: str, policy: Policy):
    """Begin an answer.

    Args:
      request: what was asked for.
      model: the name it is served under.
      policy: that is followed.
    """
    self._request = request
    kind = 'text_completion'
    if request.endpoint is Endpoint.CHAT:
      is_chunk = request.is_streamed
      kind = 'chat.completion.chunk' if is_chunk else 'chat.completion'
    self._head = {
      'id': _PREFIXES[request.endpoint] + uuid.uuid4().hex,
      'object': kind,
      'created': int(time.time()),
      'model': model,
    }
    self._policy = {
      'mode': policy.mode.value,
      'policy': policy_hash(policy),
      'ignored_fields': list(request.ignored),
    }

  @property
  def request_id(self) -> str:
    """Return the name of the answer."""
    return str(self._head['id'])

  def whole(
    self, choices: Sequence[Mapping[str, Any]], usage: Usage
  ) -> dict[str, Any]:
    """Return the answer as one object."""
    return {
      **self._head,
      'choices': list(choices),
      'usage': usage.to_json(),
      'eejax': self._policy,
    }

  def chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return one chunk of a stream."""
    return {**self._head, 'choices': [choice], 'eejax': self._policy}

  def usage_chunk(self, usage: Usage) -> dict[str, Any]:
    """Return the last chunk of a stream, with the numbers of tokens."""
    return {
      **self._head,
      'choices': [],
      'usage': usage.to_json(),
      'eejax': self._policy,
    }


def _echoed_text(request: GenerationRequest, prompt: EncodedPrompt) -> str:
  """Return what a text begins with: its prompt, or the answer it goes on."""
  if not request.echoes:
    return ''
  if request.endpoint is Endpoint.COMPLETION:
    return prompt.text
  last = request.messages[-1]
  return str(last['content'] or '') if last['role'] == 'assistant' else ''


def _scored(tokens: TokenUpdate | GeneratedRow) -> list[ScoredToken]:
  return [
    ScoredToken(token, logprob, top, piece)
    for token, logprob, top, piece in zip(
      tokens.tokens,
      tokens.logprobs,
      tokens.top_logprobs or ((),) * len(tokens.tokens),
      tokens.pieces,
      strict=True,
    )
  ]


def _details(tokens: TokenUpdate | GeneratedRow) -> dict[str, Any]:
  """Return the exits that tokens took."""
  return {
    'tokens': list(tokens.tokens),
    'pieces': list(tokens.pieces),
    'exit_depths': list(tokens.exit_depths),
    'scores': list(tokens.scores),
  }


def _work(row: GeneratedRow, times: TicketTimes) -> dict[str, Any]:
  """Return what a text that has ended cost."""
  values: dict[str, Any] = {
    'finish_reason': row.finish_reason.value,
    'accounting': {
      **dataclasses.asdict(row.accounting),
      'acceptance': row.accounting.acceptance,
      'acceptance_length': row.accounting.acceptance_length,
    },
  }
  if times.started is None or times.first is None or times.last is None:
    return values
  seconds = times.last - times.first
  # The first tokens come together; those after them tell the speed.
  return values | {
    'timing': {
      'queue_s': times.started - times.submitted,
      'first_token_s': times.first - times.submitted,
      'decode_s': seconds,
    }
  }
