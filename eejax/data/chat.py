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
"""Conversations as text, by the chat template of a tokenizer's folder.

A template is a Jinja program in `chat_template.jinja` or under `chat_template`
in `tokenizer_config.json`. It comes with a model from anywhere, so it runs in
a sandbox that reaches neither files nor Python's inside and ends a program
that does not end by itself (`eejax.data.template_limits`). It is given
the messages, the tokenizer's special tokens by their names (`bos_token`, ...)
and the functions that templates are written for: `raise_exception`,
`strftime_now` and the filter `tojson`.

Example:
  template = chat_template(tokenizer)
  ids = template.encode([{'role': 'user', 'content': 'What is 2 + 3?'}])
"""

import dataclasses
import datetime
import enum
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes
from jinja2.parser import Parser

from eejax.data.template_limits import LimitedEnvironment
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, CheckpointError

TEMPLATE_FILE = 'chat_template.jinja'
ROLES = ('system', 'developer', 'user', 'assistant', 'tool', 'function')

# A message as the OpenAI API has it: 'role', 'content' and what else the
# template reads, such as 'name' or 'tool_calls'.
Message = Mapping[str, Any]

# Stands where a text is cut or looked for; no text that people write has it.
_MARK = '\ue000eejax\ue001'


class ChatEnding(enum.Enum):
  """How a rendered conversation ends.

  Attributes:
    ANSWER: with what begins the assistant's next message.
    OPEN: inside the last message, which is to be continued.
    CLOSED: with the end of the last message.
  """

  ANSWER = 'answer'
  OPEN = 'open'
  CLOSED = 'closed'


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """A chat template with the tokenizer that it belongs to.

  Attributes:
    source: the Jinja program.
    tokenizer: encodes what the template writes.
  """

  source: str
  tokenizer: Tokenizer

  def render(
    self,
    messages: Sequence[Message],
    *,
    ending: ChatEnding = ChatEnding.ANSWER,
    variables: Mapping[str, Any] | None = None,
  ) -> str:
    """Return a conversation as text.

    Args:
      messages: the turns, oldest first. A content of several text parts, as
        the OpenAI API allows it, is joined by line ends.
      ending: how the text ends.
      variables: what else the template reads, such as `tools` or
        `enable_thinking`.

    Raises:
      ArgumentError: these are no messages, or the template refuses them.
      CheckpointError: the template is no Jinja program.
    """
    turns = check_messages(messages)
    if ending is ChatEnding.OPEN:
      turns[-1] = _marked(turns[-1])
    text = self._run(
      turns,
      {
        **dict(variables or {}),
        'add_generation_prompt': ending is ChatEnding.ANSWER,
      },
    )
    return _cut(text) if ending is ChatEnding.OPEN else text

  def encode(
    self,
    messages: Sequence[Message],
    *,
    ending: ChatEnding = ChatEnding.ANSWER,
    variables: Mapping[str, Any] | None = None,
  ) -> list[int]:
    """Return a conversation as token ids; the arguments are `render`'s.

    The template writes the start token itself, so none is added.
    """
    text = self.render(messages, ending=ending, variables=variables)
    return self.tokenizer.encode(text, add_bos=False)

  @functools.cached_property
  def end_ids(self) -> tuple[int, ...]:
    """Return the tokens that end an answer.

    They are the end tokens of the tokenizer's folder, and the control token
    that the template writes right after an assistant's message, if it is one
    more: a base model's folder often names the end of a document alone.
    """
    ids = dict.fromkeys(self.tokenizer.eos_ids)
    turns = [
      {'role': 'user', 'content': 'a'},
      {'role': 'assistant', 'content': _MARK},
    ]
    try:
      text = self.render(turns, ending=ChatEnding.CLOSED)
    except ArgumentError:
      return tuple(ids)  # A template for conversations of another kind.
    _, mark, after = text.rpartition(_MARK)
    ends = self.tokenizer.encode(after.lstrip() if mark else '', add_bos=False)
    ids.update(
      dict.fromkeys(i for i in ends[:1] if self.tokenizer.is_control(i))
    )
    return tuple(ids)

  def _run(self, turns: list[dict], variables: Mapping[str, Any]) -> str:
    program = self._program
    try:
      return _environment().render(
        program,
        {**self.tokenizer.special_tokens, **variables, 'messages': turns},
      )
    except jinja2.TemplateError as error:
      raise ArgumentError(
        f'the chat template refuses the messages: {_words(error)}.'
      ) from error
    except Exception as error:  # whatever Python does inside the program
      raise ArgumentError(
        'the chat template cannot render the messages '
        f'({type(error).__name__}: {_words(error)}); give each the fields that '
        'it reads.'
      ) from error

  @functools.cached_property
  def _program(self) -> jinja2.Template:
    try:
      return _environment().from_string(self.source)
    except jinja2.TemplateSyntaxError as error:
      raise CheckpointError(
        f'the chat template of the tokenizer is no Jinja program (line '
        f'{error.lineno}: {_words(error)}).'
      ) from error


def chat_template(tokenizer: Tokenizer) -> ChatTemplate:
  """Return the chat template among the files of a tokenizer.

  Of several templates it is the one that is named `default`.

  Raises:
    ArgumentError: there is none.
    CheckpointError: it cannot be read.
  """
  source = _source(tokenizer)
  if source is None:
    raise ArgumentError(
      'the model has no chat template, so it takes no messages; give prompts, '
      f'or put a {TEMPLATE_FILE} beside its tokenizer.json.'
    )
  return ChatTemplate(source, tokenizer)


def check_messages(messages: Any) -> list[dict[str, Any]]:
  """Return messages as a template reads them.

  Raises:
    ArgumentError: they are none, or one lacks a role or a content.
  """
  is_list = isinstance(messages, Sequence) and not isinstance(messages, str)
  if not is_list or not messages:
    raise ArgumentError(
      "messages must be a list of {'role': ..., 'content': ...}, oldest first."
    )
  return [_check_message(m, n) for n, m in enumerate(messages, start=1)]


def _check_message(message: Any, number: int) -> dict[str, Any]:
  if not isinstance(message, Mapping):
    raise ArgumentError(
      f"message {number} must be {{'role': ..., 'content': ...}}, not "
      f'{message!r:.60}.'
    )
  role, content = message.get('role'), message.get('content')
  if role not in ROLES:
    raise ArgumentError(
      f'the role of message {number} must be one of {", ".join(ROLES)}, not '
      f'{role!r:.60}.'
    )
  if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
    content = '\n'.join(_part_text(part, number) for part in content)
  is_call = content is None and message.get('tool_calls')
  if not isinstance(content, str) and not is_call:
    raise ArgumentError(f'the content of message {number} must be a text.')
  return {**message, 'content': content}


def _part_text(part: Any, number: int) -> str:
  if isinstance(part, Mapping) and part.get('type') == 'text':
    text = part.get('text')
    if isinstance(text, str):
      return text
  raise ArgumentError(
    f'message {number} has a part that is no text; the model reads text alone.'
  )


def _source(tokenizer: Tokenizer) -> str | None:
  own = tokenizer.file(TEMPLATE_FILE)
  if own is not None:
    return own.decode('utf-8', errors='replace')
  config = json.loads(tokenizer.file('tokenizer_config.json') or b'{}')
  found = config.get('chat_template')
  if isinstance(found, list):
    named = {t.get('name'): t.get('template') for t in found}
    found = named.get('default')
  if found is not None and not isinstance(found, str):
    raise CheckpointError('chat_template in tokenizer_config.json is no text.')
  return found


def _marked(message: dict[str, Any]) -> dict[str, Any]:
  if not message['content']:
    raise ArgumentError('the last message has no content to continue.')
  return {**message, 'content': f'{message["content"]}{_MARK} '}


def _cut(text: str) -> str:
  """Return the text before the mark, trimmed where the template trims."""
  before, mark, after = text.rpartition(_MARK)
  if not mark:
    raise ArgumentError(
      'the chat template leaves out the end of the last message, so that it '
      'cannot be continued.'
    )
  return before if after.startswith(' ') else before.rstrip()


def _words(error: Exception) -> str:
  return ' '.join(str(error).split()).rstrip('.')


# MARK: What programs are given


class _Generation(ext.Extension):
  """The block `generation`, which marks what an assistant says for training.

  Its content is rendered like any other.
  """

  tags = {'generation'}

  def parse(self, parser: Parser) -> list[nodes.Node]:
    """Return the statements inside the block."""
    next(parser.stream)
    return parser.parse_statements(('name:endgeneration',), drop_needle=True)


def _raise_exception(message: str) -> None:
  raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
  return datetime.datetime.now().strftime(form)


def _to_json(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  # Jinja's own filter writes for HTML.
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


@functools.cache
def _environment() -> LimitedEnvironment:
  environment = LimitedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
  )
  environment.filters['tojson'] = _to_json
  environment.globals['raise_exception'] = _raise_exception
  environment.globals['strftime_now'] = _strftime_now
  return environment
