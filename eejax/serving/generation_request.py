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
"""What a client asks for, read from the body of a request and checked."""

import dataclasses
import enum
import secrets
from collections.abc import Mapping
from typing import Any

from eejax.data.chat import ChatEnding, Message, check_messages
from eejax.decoding.policy.modes import Mode
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import Threshold, parse_threshold
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingConfig
from eejax.serving.api_error import ApiError, of_argument, wrong_field
from eejax.serving.json_fields import Fields, is_list_of, kind_of

MOST_LOGPROBS = 20
MOST_STOPS = 16
MOST_CHOICES = 64
MOST_TEXTS = 4096
MOST_BIASES = 1024

Prompt = str | tuple[int, ...]


class Endpoint(enum.Enum):
  """Which of the two ways to generate a request takes."""

  COMPLETION = 'completion'
  CHAT = 'chat'


class Delivery(enum.Enum):
  """How an answer is delivered.

  WHOLE: as one object. STREAM: token by token. STREAM_WITH_USAGE: likewise,
  and the numbers of tokens in a last chunk.
  """

  WHOLE = 'whole'
  STREAM = 'stream'
  STREAM_WITH_USAGE = 'stream_with_usage'


@dataclasses.dataclass(frozen=True)
class ExitSettings:
  """What a request says about exits, in its field `eejax`.

  Attributes:
    mode: what is done with exits; None is the server's.
    policy: a whole policy; None is the server's.
    criterion: name of the score.
    thresholds: one for all exits or one an exit.
    max_depth: the depth of an exit that every token takes at the latest.
  """

  mode: Mode | None = None
  policy: Policy | None = None
  criterion: str | None = None
  thresholds: tuple[Threshold, ...] | None = None
  max_depth: int | None = None

  @property
  def says_score(self) -> bool:
    """Return whether the score of exits, or what it must reach, is given."""
    return self.criterion is not None or self.thresholds is not None


@dataclasses.dataclass(frozen=True)
class TokenSettings:
  """How tokens are chosen, and what ends a text.

  Attributes:
    max_new_tokens: tokens at most; None is what the context has room for.
    sampling: how tokens are chosen and which end a text; its seed is the first
      text's.
    stop: strings that end a text.
    logprobs: how many of the likeliest tokens are told for each; 0 tells the
      chosen one alone, None nothing.
  """

  max_new_tokens: int | None
  sampling: SamplingConfig
  stop: tuple[str, ...]
  logprobs: int | None


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
  """One request for texts.

  Attributes:
    endpoint: whether it brings prompts or messages.
    prompts: texts or token ids; none for a chat.
    messages: of a chat.
    ending: how a chat ends that is to be answered, or to be continued.
    template_values: what else the chat template is given.
    choices: texts for each prompt.
    echoes: whether a text begins with its prompt, or an answer with the
      assistant's message that it goes on.
    prompt_logprobs: how many of the likeliest tokens are told for each token
      of a prompt; None tells nothing.
    returns_token_ids: whether the answer has the ids of its tokens.
    delivery: how the answer is delivered.
    tokens: how tokens are chosen.
    exits: what is said about exits.
    ignored: names of fields that mean nothing here.
  """

  endpoint: Endpoint
  prompts: tuple[Prompt, ...]
  messages: tuple[Message, ...]
  ending: ChatEnding
  template_values: Mapping[str, Any]
  choices: int
  echoes: bool
  prompt_logprobs: int | None
  returns_token_ids: bool
  delivery: Delivery
  tokens: TokenSettings
  exits: ExitSettings
  ignored: tuple[str, ...]

  @property
  def is_streamed(self) -> bool:
    """Return whether the answer comes token by token."""
    return self.delivery is not Delivery.WHOLE

  @property
  def scored_of_prompt(self) -> int | None:
    """Return how many likely tokens a prompt is scored with, None for none."""
    is_chat = self.endpoint is Endpoint.CHAT
    echoed = self.tokens.logprobs if self.echoes and not is_chat else None
    wanted = [n for n in (echoed, self.prompt_logprobs) if n is not None]
    return max(wanted, default=None)


def model_name(values: Mapping[str, Any]) -> str | None:
  """Return the model that a body names, None where it names none.

  Raises:
    ApiError: it is no string.
  """
  return Fields(values).text('model')


def parse_request(
  values: Mapping[str, Any], *, endpoint: Endpoint, vocab_size: int
) -> GenerationRequest:
  """Return what the body of a request asks for.

  Raises:
    ApiError: a field cannot be used as given.
  """
  fields = Fields(values)
  for name in ('model', 'user', 'metadata', 'store', 'service_tier'):
    fields.get(name)
  prompts: tuple[Prompt, ...] = ()
  messages: tuple[Message, ...] = ()
  _check_one_source(fields)
  if endpoint is Endpoint.COMPLETION:
    prompts = _prompts(fields, vocab_size=vocab_size)
  else:
    messages = _messages(fields)
  _refuse_unsupported(fields)
  choices = fields.integer('n', default=1, low=1, high=MOST_CHOICES)
  fields.refuse('best_of', 'best_of is not supported; leave it out.', choices)
  if len(prompts) * choices > MOST_TEXTS:
    raise wrong_field(
      'prompt', f'a request has at most {MOST_TEXTS} texts; send several.'
    )
  request = GenerationRequest(
    endpoint=endpoint,
    prompts=prompts,
    messages=messages,
    ending=_ending(fields),
    template_values=fields.object('chat_template_kwargs'),
    choices=choices,
    echoes=fields.boolean('echo'),
    prompt_logprobs=fields.integer(
      'prompt_logprobs', low=0, high=MOST_LOGPROBS
    ),
    returns_token_ids=fields.boolean('return_token_ids'),
    delivery=_delivery(fields),
    tokens=_token_settings(fields, endpoint, vocab_size=vocab_size),
    exits=_exit_settings(fields.object('eejax')),
    ignored=fields.unread(),
  )
  if request.tokens.max_new_tokens == 0 and not request.echoes:
    raise wrong_field(
      'max_tokens', 'max_tokens 0 generates nothing; ask for echo, or for 1.'
    )
  if request.prompt_logprobs is not None and request.is_streamed:
    raise wrong_field(
      'prompt_logprobs', 'prompt_logprobs do not go with stream: true.'
    )
  return request


def _check_one_source(fields: Fields) -> None:
  if fields.get('prompt') is not None and fields.get('messages') is not None:
    raise wrong_field(
      'messages',
      'a request has prompt or messages, not both: /v1/completions takes '
      'prompt, /v1/chat/completions takes messages.',
    )


def _prompts(fields: Fields, *, vocab_size: int) -> tuple[Prompt, ...]:
  value = fields.get('prompt')
  if value is None:
    raise wrong_field('prompt', 'prompt is missing.')
  if isinstance(value, str):
    return (value,)
  if not isinstance(value, list):
    raise wrong_field(
      'prompt',
      'prompt must be a string, token ids, or an array of either, not '
      f'{kind_of(value)}.',
      code='invalid_type',
    )
  if not value:
    raise wrong_field('prompt', 'prompt is an empty array; give a prompt.')
  if len(value) > 0 and is_list_of(value, int):
    return (fields.token_ids('prompt', vocab_size=vocab_size),)
  prompts: list[Prompt] = []
  for number, prompt in enumerate(value):
    if isinstance(prompt, str):
      prompts.append(prompt)
    elif isinstance(prompt, list) and is_list_of(prompt, int):
      ids = Fields({'prompt': prompt}).token_ids(
        'prompt', vocab_size=vocab_size
      )
      prompts.append(ids)
    else:
      raise wrong_field(
        'prompt',
        f'prompt {number} must be a string or token ids, not '
        f'{kind_of(prompt)}.',
        code='invalid_type',
      )
  return tuple(prompts)


def _messages(fields: Fields) -> tuple[Message, ...]:
  value = fields.get('messages')
  if value is None:
    raise wrong_field('messages', 'messages is missing.')
  try:
    return tuple(check_messages(value))
  except ArgumentError as error:
    raise of_argument(error, param='messages') from error


def _ending(fields: Fields) -> ChatEnding:
  """Return how a conversation ends, by the two fields that vLLM has."""
  is_answered = fields.boolean('add_generation_prompt', default=True)
  if fields.boolean('continue_final_message'):
    if fields.get('add_generation_prompt'):
      raise wrong_field(
        'continue_final_message',
        'a message is continued or answered; leave add_generation_prompt out.',
      )
    return ChatEnding.OPEN
  return ChatEnding.ANSWER if is_answered else ChatEnding.CLOSED


def _refuse_unsupported(fields: Fields) -> None:
  for name in ('presence_penalty', 'frequency_penalty'):
    fields.refuse(name, f'{name} is not supported; leave it out.', 0)
  fields.refuse('repetition_penalty', 'repetition_penalty must be 1 here.', 1)
  fields.refuse('suffix', 'suffix is not supported; leave it out.', '')
  for name in ('tools', 'functions'):
    fields.refuse(name, f'{name} are not supported; leave them out.', [])
  fields.refuse('tool_choice', 'tools are not supported.', 'none', 'auto')
  fields.refuse(
    'response_format',
    'only the response_format {"type": "text"} is supported.',
    {'type': 'text'},
  )


def _delivery(fields: Fields) -> Delivery:
  is_streamed = fields.boolean('stream')
  given = fields.get('stream_options')
  options = Fields(fields.object('stream_options'), inside='stream_options')
  if given is not None and not is_streamed:
    raise wrong_field(
      'stream_options', 'stream_options go with stream: true alone.'
    )
  if not is_streamed:
    return Delivery.WHOLE
  if options.boolean('include_usage'):
    return Delivery.STREAM_WITH_USAGE
  return Delivery.STREAM


def _token_settings(
  fields: Fields, endpoint: Endpoint, *, vocab_size: int
) -> TokenSettings:
  if endpoint is Endpoint.COMPLETION:
    most = fields.integer('max_tokens', default=16, low=0)
  else:
    most = fields.integer('max_tokens', low=1)
    most = fields.integer('max_completion_tokens', default=most, low=1)
  sampling = _sampling(fields, vocab_size=vocab_size)
  if most is not None and sampling.min_tokens > most:
    raise wrong_field(
      'min_tokens', f'min_tokens must be at most max_tokens, which is {most}.'
    )
  return TokenSettings(
    max_new_tokens=most,
    sampling=sampling,
    stop=fields.stop_strings('stop', most=MOST_STOPS),
    logprobs=_logprobs(fields, endpoint),
  )


def _sampling(fields: Fields, *, vocab_size: int) -> SamplingConfig:
  top_k = fields.integer('top_k', default=0, low=-1, high=2**31 - 1)
  seed = fields.integer('seed', low=-(2**63), high=2**63 - 1)
  values: dict[str, Any] = {
    'temperature': fields.number('temperature', default=1.0, low=0, high=100),
    'top_p': fields.number('top_p', default=1.0, low=0, high=1),
    'min_p': fields.number('min_p', default=0.0, low=0, high=1),
    # vLLM writes "all" as -1.
    'top_k': max(top_k, 0),
    'seed': secrets.randbits(31) if seed is None else seed,
    'logit_bias': _logit_bias(fields, vocab_size=vocab_size),
    'min_tokens': fields.integer(
      'min_tokens', default=0, low=0, high=2**31 - 1
    ),
    'ignore_eos': fields.boolean('ignore_eos'),
    'stop_token_ids': _stop_token_ids(fields, vocab_size=vocab_size),
  }
  try:
    return SamplingConfig(**values)
  except ArgumentError as error:
    # The one range that is open at an end.
    raise of_argument(error, param='top_p') from error


def _logprobs(fields: Fields, endpoint: Endpoint) -> int | None:
  if endpoint is Endpoint.COMPLETION:
    return fields.integer('logprobs', low=0, high=MOST_LOGPROBS)
  is_wanted = fields.boolean('logprobs')
  count = fields.integer('top_logprobs', low=0, high=MOST_LOGPROBS)
  if count is not None and not is_wanted:
    raise wrong_field('top_logprobs', 'top_logprobs go with logprobs: true.')
  return (count or 0) if is_wanted else None


def _stop_token_ids(fields: Fields, *, vocab_size: int) -> tuple[int, ...]:
  ids = fields.token_ids('stop_token_ids', vocab_size=vocab_size)
  if len(ids) > MOST_STOPS:
    raise wrong_field(
      'stop_token_ids', f'stop_token_ids has at most {MOST_STOPS} tokens.'
    )
  return ids


def _logit_bias(
  fields: Fields, *, vocab_size: int
) -> tuple[tuple[int, float], ...]:
  given = fields.object('logit_bias')
  if len(given) > MOST_BIASES:
    raise wrong_field(
      'logit_bias', f'logit_bias has at most {MOST_BIASES} tokens.'
    )
  biases = []
  inside = Fields(given, inside='logit_bias')
  for name in given:
    if not name.isascii() or not name.isdigit() or len(name) > 9:
      raise wrong_field('logit_bias', 'logit_bias is an object by token id.')
    if int(name) >= vocab_size:
      raise wrong_field(
        'logit_bias',
        f'logit_bias has token {name}, and the model only tokens 0 to '
        f'{vocab_size - 1}.',
      )
    bias = inside.number(name, default=0.0, low=-100, high=100)
    biases.append((int(name), bias))
  return tuple(biases)


def _exit_settings(values: Mapping[str, Any]) -> ExitSettings:
  fields = Fields(values, inside='eejax')
  settings = ExitSettings(
    mode=_mode(fields),
    policy=_policy(fields),
    criterion=fields.text('criterion'),
    thresholds=_thresholds(fields),
    max_depth=fields.integer('max_depth', low=0),
  )
  unknown = fields.unread()
  if unknown:
    raise wrong_field(
      'eejax',
      f'{unknown[0]} is not known; eejax has mode, policy, criterion, '
      'threshold and max_depth.',
    )
  return settings


def _mode(fields: Fields) -> Mode | None:
  name = fields.text('mode')
  if name is None:
    return None
  known = [mode.value for mode in Mode]
  if name not in known:
    raise wrong_field(
      'eejax.mode', f'eejax.mode must be one of {", ".join(known)}.'
    )
  return Mode(name)


def _policy(fields: Fields) -> Policy | None:
  values = fields.object('policy')
  if not values:
    return None
  try:
    return Policy.from_json(dict(values))
  except ArgumentError as error:
    raise of_argument(error, param='eejax.policy') from error


def _thresholds(fields: Fields) -> tuple[Threshold, ...] | None:
  value = fields.get('threshold')
  if value is None:
    return None
  values = value if isinstance(value, list) else [value]
  try:
    found = tuple(map(_one_threshold, values))
  except ArgumentError as error:
    raise of_argument(error, param='eejax.threshold') from error
  if not found or any(t is not None and not 0 <= t <= 1 for t in found):
    raise ApiError(
      'eejax.threshold must be a number in [0, 1] or "never", or an array with '
      'one for each exit.',
      param='eejax.threshold',
    )
  return found


def _one_threshold(value: Any) -> Threshold:
  if value is None:
    return None
  if isinstance(value, (bool, dict, list)):
    raise ArgumentError(f'{kind_of(value)} is not a threshold.')
  return parse_threshold(value)
