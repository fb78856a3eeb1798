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
"""Conversations as documents of which the assistant's turns alone are learned.

An assistant's turn is what the model has to write: from the end of what begins
an answer to the control token that ends it, which is part of it. Where it lies
is found by rendering beginnings of the conversation. A template that writes a
beginning otherwise than it writes it within the whole, as those do that drop
earlier thoughts, shows no place where the model would have gone on.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from eejax.data.chat import ChatEnding, ChatTemplate
from eejax.data.conversations import Conversation
from eejax.data.document import WeightedDocument
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError
from eejax.progress import SILENT, Progress

ASSISTANT = 'assistant'
_CHUNK = 64


def encode_conversations(
  template: ChatTemplate, conversations: Iterable[Conversation]
) -> Iterator[WeightedDocument]:
  """Return each conversation's tokens; those of assistant's turns count.

  Args:
    template: writes them.
    conversations: each with an assistant's turn.

  Raises:
    ArgumentError: one has none or begins with it, or the template or the
      tokenizer does not show where it lies.
  """
  chunk: list[Conversation] = []
  for conversation in conversations:
    chunk.append(conversation)
    if len(chunk) == _CHUNK:
      yield from _encode(template, chunk)
      chunk = []
  yield from _encode(template, chunk)


def cut_conversations(
  documents: Iterable[WeightedDocument],
  *,
  length: int,
  progress: Progress = SILENT,
) -> list[WeightedDocument]:
  """Return conversations of at most `length` predictions, and say what is lost.

  Args:
    documents: conversations.
    length: of a row.
    progress: is told how many were cut.

  Raises:
    ArgumentError: no turn of the assistant begins in a row.
  """
  whole = list(documents)
  kept = [d for d in (d[: length + 1] for d in whole) if d.is_learned]
  long = sum(len(d) > length + 1 for d in whole)
  if whole and not kept:
    raise ArgumentError(
      f'no answer of an assistant begins in the first {length} tokens of any '
      'conversation; give a larger sequence length.'
    )
  if long:
    left_out = len(whole) - len(kept)
    progress.say(
      f'{long} of {len(whole)} conversations are longer than a row of {length} '
      f'tokens and were cut there; {left_out} of them were left out, for no '
      'answer begins before.'
    )
  return kept


def _encode(
  template: ChatTemplate, conversations: list[Conversation]
) -> Iterator[WeightedDocument]:
  wholes, cuts, parts = [], [], []
  for conversation in conversations:
    whole = _render(template, conversation, ending=ChatEnding.CLOSED)
    places = [p for t in _turns(template, conversation, whole) for p in t]
    wholes.append(whole)
    cuts.append(places)
    parts += [
      whole[begin:end]
      for begin, end in zip([0, *places], [*places, None], strict=True)
    ]
  encode = functools.partial(template.tokenizer.encode_batch, add_bos=False)
  pieces = iter(encode(parts))
  for conversation, whole, places, ids in zip(
    conversations, wholes, cuts, encode(wholes), strict=True
  ):
    own = [next(pieces) for _ in range(len(places) + 1)]
    yield _weighted(template.tokenizer, conversation, whole, places, ids, own)


def _weighted(
  tokenizer: Tokenizer,
  conversation: Conversation,
  whole: str,
  places: list[int],
  ids: list[int],
  pieces: list[list[int]],
) -> WeightedDocument:
  """Return a conversation whose turns are at some places of its text.

  Where an answer begins with white space, many tokenizers would join it with
  what the template writes before. The model is given that before by itself, so
  tokens are those of the pieces; but some tokenizers write a space before every
  text that they are given.

  Args:
    tokenizer: of all tokens.
    conversation: for complaints.
    whole: its text.
    places: where turns begin and end, by turns.
    ids: tokens of the whole.
    pieces: tokens of what is between the places.

  Raises:
    ArgumentError: tokens do not end at the places.
  """
  joined = [i for piece in pieces for i in piece]
  if joined == ids or tokenizer.decode(joined) == tokenizer.decode(ids):
    ids, ends = joined, np.cumsum([len(piece) for piece in pieces]).tolist()
  else:
    beginnings = tokenizer.encode_batch(
      [whole[:place] for place in places], add_bos=False
    )
    ends = [len(beginning) for beginning in beginnings]
    if any(ids[: len(b)] != b for b in beginnings):
      raise ArgumentError(
        f'{conversation.where}: the tokenizer joins a turn of the assistant '
        'with text that the chat template writes around it, so its tokens '
        'cannot be told; set it off with a control token in the template.'
      )
  weights = np.zeros(len(ids), np.float32)
  for begin, end in zip(ends[0::2], ends[1::2], strict=False):
    weights[begin : _with_end(ids, end, tokenizer)] = 1
  return WeightedDocument(np.asarray(ids, np.int32), weights)


def _turns(
  template: ChatTemplate, conversation: Conversation, whole: str
) -> Iterator[tuple[int, int]]:
  """Yield where each turn of the assistant begins and ends in the text.

  Raises:
    ArgumentError: there is none, or the template does not show where it is.
  """
  messages = conversation.messages
  places = [n for n, m in enumerate(messages) if m['role'] == ASSISTANT]
  if not places:
    raise ArgumentError(
      f'{conversation.where} has no message of the assistant, and nothing else '
      'is learned; leave it out, or add the answer.'
    )
  if places[0] == 0:
    raise ArgumentError(
      f'{conversation.where} begins with a message of the assistant; begin '
      'with what it answers.'
    )
  for place in places:
    render = functools.partial(_render, template, conversation)
    begun = messages[: place + 1]
    before = render(messages[:place], ending=ChatEnding.ANSWER)
    if begun[-1]['content']:
      through = render(begun, ending=ChatEnding.OPEN)
    else:  # calls of tools alone
      through = render(begun, ending=ChatEnding.CLOSED).rstrip()
    if not through.startswith(before) or not whole.startswith(through):
      raise ArgumentError(
        f'{conversation.where}: the chat template writes the conversation up '
        f'to message {place + 1} otherwise by itself than within the whole, so '
        "the tokens of the assistant's turn cannot be told; end the "
        'conversation there.'
      )
    yield len(before), len(through)


def _render(
  template: ChatTemplate,
  conversation: Conversation,
  messages: list[dict[str, Any]] | None = None,
  *,
  ending: ChatEnding,
) -> str:
  try:
    return template.render(
      conversation.messages if messages is None else messages,
      ending=ending,
      variables=conversation.variables,
    )
  except ArgumentError as error:
    raise ArgumentError(f'{conversation.where}: {error}') from error


def _with_end(ids: list[int], end: int, tokenizer: Tokenizer) -> int:
  """Return the place behind the control token that ends a turn, if any does.

  A template may write white space before it.
  """
  is_end = lambda i: tokenizer.is_control(i) or i in tokenizer.eos_ids
  if end and is_end(ids[end - 1]):
    return end
  after = end
  while after < len(ids):
    if is_end(ids[after]):
      return after + 1
    if tokenizer.decode([ids[after]]).strip():
      break
    after += 1
  return end
