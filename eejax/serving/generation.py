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
"""From a request to its texts: encoding, checks, submission, collection."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

from eejax import serialization
from eejax.data.tokenizer import IncrementalDecoder
from eejax.decoding.policy.certificate import PromptKind
from eejax.decoding.policy.check_use import longest_covered
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import FinishReason, GeneratedRow
from eejax.decoding.text import TextStream
from eejax.errors import EejaxError
from eejax.ops.sampling import SamplingConfig
from eejax.serving.answers import (
  CompletionChoice,
  CompletionResponse,
  EncodedPrompt,
  Usage,
)
from eejax.serving.api_error import (
  ApiError,
  not_finite,
  of_argument,
  timed_out,
  wrong_field,
)
from eejax.serving.generation_request import (
  Delivery,
  Endpoint,
  GenerationRequest,
)
from eejax.serving.prompts import ServedText
from eejax.serving.served_model import Exits, ServedModel
from eejax.serving.ticket import Events, TextJob, Ticket, updates


@dataclasses.dataclass
class Generation:
  """The texts of one request, all of them submitted.

  Attributes:
    request: what was asked for.
    answer: what its objects begin with.
    exits: how exits are used.
    prompts: one a prompt.
    choices: one a text, in the order of their numbers.
    tickets: likewise; none where nothing is generated.
    events: where what happens to them arrives.
    timeout_s: for all of them to end.
  """

  request: GenerationRequest
  answer: CompletionResponse
  exits: Exits
  prompts: Sequence[EncodedPrompt]
  choices: Sequence[CompletionChoice]
  tickets: Sequence[Ticket]
  events: Events
  timeout_s: float

  def cancel(self) -> bool:
    """Take out the texts that have not ended; return whether there were any."""
    pending = [t for t in self.tickets if not t.has_ended]
    for ticket in pending:
      self.exits.scheduler.cancel(ticket)
    return bool(pending)

  async def whole(self) -> dict[str, Any]:
    """Return the answer once all texts have ended.

    Raises:
      ApiError: one of them cannot be completed, or not in time.
    """
    if not self.tickets:
      choices = [choice.echo() for choice in self.choices]
      return self.answer.whole(choices, self._usage())
    rows: dict[int, GeneratedRow] = {}
    try:
      async with asyncio.timeout(self.timeout_s):
        async for ticket, update in updates(
          self.events, count=len(self.tickets)
        ):
          if update.result is not None:
            rows[ticket.index] = _finite(update.result)
    except TimeoutError:
      raise timed_out(self.timeout_s) from None
    choices = [
      choice.whole(ticket, rows[ticket.index])
      for choice, ticket in zip(self.choices, self.tickets, strict=True)
    ]
    return self.answer.whole(choices, self._usage())

  async def stream(self) -> AsyncIterator[Sequence[str]]:
    """Yield the data of the events of a stream, those together that come so.

    Each event tells one token.
    """
    usage = {}
    if self.request.delivery is Delivery.STREAM_WITH_USAGE:
      usage = {'usage': None}
    try:
      async for choices in self._chunks():
        chunks = (self.answer.chunk(choice) | usage for choice in choices)
        yield [serialization.dumps(chunk) for chunk in chunks]
      if usage:
        chunk = self.answer.usage_chunk(self._usage())
        yield [serialization.dumps(chunk)]
    except ApiError as error:
      yield [serialization.dumps(error.body())]
    yield ['[DONE]']

  async def _chunks(self) -> AsyncIterator[list[dict[str, Any]]]:
    if not self.tickets:
      yield [choice.echo() for choice in self.choices]
      return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + self.timeout_s
    grown = updates(self.events, count=len(self.tickets))
    while True:
      # Not around the loop: what is raised in a generator's `async with`
      # while it is not running would reach whoever runs it.
      try:
        async with asyncio.timeout_at(deadline):
          ticket, update = await anext(grown)
      except StopAsyncIteration:
        return
      except TimeoutError:
        raise timed_out(self.timeout_s) from None
      if update.result is not None:
        _finite(update.result)
      chunks = self.choices[ticket.index].chunks(update, ticket.times)
      if chunks:
        yield chunks

  def _usage(self) -> Usage:
    # The first text of a prompt starts from what earlier requests left.
    firsts = self.choices[:: self.request.choices]
    return Usage(
      prompt=sum(len(prompt.tokens) for prompt in self.prompts),
      completion=sum(choice.num_tokens for choice in self.choices),
      reused=sum(choice.num_reused for choice in firsts),
    )


async def begin(
  served: ServedModel,
  request: GenerationRequest,
  *,
  timeout_s: float,
) -> Generation:
  """Submit all texts of a request and return them once they are taken.

  Raises:
    ApiError: something cannot be used as given, or there is no room.
  """
  reader = ServedText(served)
  try:
    async with asyncio.timeout(timeout_s):
      prompts = await reader.encode(request)
  except TimeoutError:
    raise timed_out(timeout_s) from None
  policy = await _policy(served, request)
  most = [_room(served, request, prompt, policy) for prompt in prompts]
  exits = await _exits(served, request, policy, max(most))
  if request.tokens.max_new_tokens != 0:
    exits.scheduler.check_room(len(prompts) * request.choices)
  choices = [
    CompletionChoice(
      i, prompts[i // request.choices], request, reader.token_text
    )
    for i in range(len(prompts) * request.choices)
  ]
  generation = Generation(
    request=request,
    answer=CompletionResponse(request, model=served.name, policy=exits.policy),
    exits=exits,
    prompts=prompts,
    choices=choices,
    tickets=(),
    events=asyncio.Queue(),
    timeout_s=timeout_s,
  )
  if request.tokens.max_new_tokens == 0:
    return generation
  generation.tickets = [
    Ticket(
      _job(served, request, exits, prompts, most, index=i),
      generation.events,
      index=i,
    )
    for i in range(len(choices))
  ]
  for ticket in generation.tickets:
    exits.scheduler.submit(ticket)
  try:
    async with asyncio.timeout(timeout_s):
      for ticket in generation.tickets:
        await ticket.accepted()
  except TimeoutError:
    raise timed_out(timeout_s) from None
  finally:
    if not all(t.is_accepted for t in generation.tickets):
      generation.cancel()
  return generation


async def _policy(served: ServedModel, request: GenerationRequest) -> Policy:
  """Return the policy of a request.

  Raises:
    ApiError: there is none like it.
  """
  try:
    if request.exits.policy is None:
      return served.policy_of(request.exits)
    # To check a policy of its own, the weights may have to be hashed.
    return await asyncio.to_thread(served.policy_of, request.exits)
  except EejaxError as error:
    raise of_argument(error, param='eejax') from error


def _room(
  served: ServedModel,
  request: GenerationRequest,
  prompt: EncodedPrompt,
  policy: Policy,
) -> int:
  """Return how many tokens the text after a prompt may have.

  A request that does not say gets what the context has room for, and no more
  than the policy was certified for.

  Raises:
    ApiError: the context has no room for as many as were asked for.
  """
  wanted = request.tokens.max_new_tokens
  room = served.max_length - len(prompt.tokens)
  # A text with no new token needs no room for one.
  if room >= (1 if wanted is None else wanted):
    return longest_covered(policy, default=room) if wanted is None else wanted
  is_chat = request.endpoint is Endpoint.CHAT
  more = '' if wanted is None else f' and {wanted} new ones'
  raise wrong_field(
    'messages' if is_chat else 'prompt',
    f"this model's maximum context length is {served.max_length} tokens, and "
    f'the request has {len(prompt.tokens)} tokens{more}; shorten it or lower '
    'max_tokens.',
    code='context_length_exceeded',
  )


async def _exits(
  served: ServedModel, request: GenerationRequest, policy: Policy, most: int
) -> Exits:
  is_chat = request.endpoint is Endpoint.CHAT
  try:
    return await served.exits(
      policy,
      sampling=request.tokens.sampling,
      max_new_tokens=max(most, 1),
      prompt_kind=PromptKind.CONVERSATION if is_chat else PromptKind.TEXT,
    )
  except EejaxError as error:
    raise of_argument(error, param='eejax') from error


def _job(
  served: ServedModel,
  request: GenerationRequest,
  exits: Exits,
  prompts: Sequence[EncodedPrompt],
  most: Sequence[int],
  *,
  index: int,
) -> TextJob:
  number = index // request.choices
  prompt, settings = prompts[number], request.tokens
  text = None
  if served.model.tokenizer_folder is not None:
    decoder = IncrementalDecoder(served.model.tokenizer, context=prompt.tokens)
    text = TextStream(
      decoder, stop=settings.stop, min_tokens=settings.sampling.min_tokens
    )
  elif settings.stop:
    raise wrong_field(
      'stop', 'stop strings need text, and the model has no tokenizer.'
    )
  sampling = settings.sampling
  return TextJob(
    prompt=prompt.tokens,
    max_new_tokens=most[number],
    sampling=dataclasses.replace(
      _with_answer_ends(served, request), seed=sampling.seed + index
    ),
    thresholds=exits.thresholds,
    text=text,
    top_logprobs=settings.logprobs or 0,
  )


def _with_answer_ends(
  served: ServedModel, request: GenerationRequest
) -> SamplingConfig:
  """Return how tokens are chosen; an answer ends where its template says."""
  sampling = request.tokens.sampling
  if request.endpoint is not Endpoint.CHAT or sampling.ignore_eos:
    return sampling
  ends = (*served.model.answer_ends, *sampling.stop_token_ids)
  own = served.model.config.model.eos_ids
  return dataclasses.replace(
    sampling, stop_token_ids=[i for i in dict.fromkeys(ends) if i not in own]
  )


def _finite(row: GeneratedRow) -> GeneratedRow:
  """Return a text, unless its logits were no numbers.

  Raises:
    ApiError: they were.
  """
  if row.finish_reason is FinishReason.NON_FINITE:
    raise not_finite()
  return row
