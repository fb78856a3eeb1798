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
"""Conversations of files.

A file holds a conversation a line (`.jsonl`), or one (`.json`): an object with
`messages`, or the list of messages itself. An object may have `tools` and
`chat_template_kwargs`, too, which chat templates read.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from eejax.data.chat import check_messages
from eejax.errors import ArgumentError
from eejax.storage import AnyPath

MESSAGES = 'messages'


@dataclasses.dataclass(frozen=True)
class Conversation:
  """A conversation of a file.

  Attributes:
    messages: its turns, oldest first.
    where: file and line, for complaints.
    variables: what else a template reads.
  """

  messages: list[dict[str, Any]]
  where: str
  variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def key(self) -> str:
    """Return a text that equal conversations share."""
    return json.dumps(self.messages, sort_keys=True, default=str)

  @property
  def text(self) -> str:
    """Return what is said, without who says it."""
    return '\n\n'.join(m['content'] for m in self.messages if m['content'])


def parse_conversations(
  text: str, *, path: AnyPath, field: str = MESSAGES
) -> Iterator[Conversation]:
  """Return the conversations of a file.

  Args:
    text: its content.
    path: of the file; `.jsonl` has one a line, others have one.
    field: where the messages are in an object.

  Raises:
    ArgumentError: there is none, or one cannot be read; the line is named.
  """
  if path.suffix != '.jsonl':
    yield _parse(text, str(path), field)
    return
  is_empty = True
  for number, line in enumerate(text.split('\n'), start=1):
    if line.strip():
      is_empty = False
      yield _parse(line, f'line {number} of {path}', field)
  if is_empty:
    raise ArgumentError(f'{path} has no conversation.')


def _parse(text: str, where: str, field: str) -> Conversation:
  try:
    value = json.loads(text)
  except ValueError as error:
    raise ArgumentError(f'{where} is no valid JSON ({error}).') from error
  variables: dict[str, Any] = {}
  if isinstance(value, dict):
    variables = value.get('chat_template_kwargs') or {}
    if not isinstance(variables, dict):
      raise ArgumentError(
        f'{where} has chat_template_kwargs that are no JSON object.'
      )
    if value.get('tools'):
      variables = {**variables, 'tools': value['tools']}
    value = value.get(field)
  try:
    return Conversation(check_messages(value), where, variables)
  except ArgumentError as error:
    raise ArgumentError(f'{where}: {error}') from error
