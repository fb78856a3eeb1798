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
"""The conversations that `eejax generate --chat` continues."""

import argparse
from typing import Any

from eejax import storage
from eejax.cli import generate_inputs
from eejax.errors import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add what makes prompts messages of a conversation."""
  group = parser.add_argument_group('chat')
  group.add_argument(
    '--chat',
    action='store_true',
    help='prompts are messages of a user, put into the chat template of the '
    'model',
  )
  group.add_argument(
    '--system',
    metavar='TEXT',
    help='a system message before each conversation',
  )
  group.add_argument(
    '--messages',
    metavar='FILE',
    help="a conversation of several turns: a JSON list of {'role', 'content'}, "
    "or JSON lines with 'messages', a conversation each (.jsonl)",
  )


def is_chat(args: argparse.Namespace) -> bool:
  """Return whether the arguments ask for answers in a conversation.

  Raises:
    ArgumentError: there is a system message and no conversation.
  """
  asked = args.chat or args.messages is not None
  if args.system is not None and not asked:
    raise ArgumentError(
      'a system message begins a conversation; give --chat, too.'
    )
  return asked


def read_conversations(args: argparse.Namespace) -> list[list[dict[str, Any]]]:
  """Return the conversations that were given, in order.

  Raises:
    ArgumentError: there is none, or one cannot be read.
  """
  if args.messages is not None:
    if args.prompt or args.prompts:
      raise ArgumentError(
        '--messages has the whole conversations; put the prompts into the file.'
      )
    conversations = _read_file(storage.as_path(args.messages))
  else:
    prompts = generate_inputs.read_prompts(args)
    conversations = [[{'role': 'user', 'content': p}] for p in prompts]
  if args.system is None:
    return conversations
  if any(c[0]['role'] == 'system' for c in conversations):
    raise ArgumentError(
      'a conversation has a system message already; leave out --system.'
    )
  return [
    [{'role': 'system', 'content': args.system}, *c] for c in conversations
  ]


def _read_file(path: storage.AnyPath) -> list[list[dict[str, Any]]]:
  from eejax.data.conversations import parse_conversations

  content = generate_inputs.read_text(path, what='messages')
  return [c.messages for c in parse_conversations(content, path=path)]
