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
"""What `eejax.generate` takes as prompts: texts, token ids, conversations."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from eejax.checkpoint.model import Model
from eejax.data.chat import Message
from eejax.decoding import generate as decoding
from eejax.decoding.policy.certificate import PromptKind
from eejax.errors import ArgumentError

Conversation = Sequence[Message]
Prompt = str | Sequence[int] | Conversation


@dataclasses.dataclass(frozen=True)
class EncodedPrompts:
  """Prompts as the decoder takes them.

  Attributes:
    ids: token ids of each.
    texts: each as text, a conversation as its chat template writes it; None
      where the model has no tokenizer.
    eos_ids: tokens that end a continuation; None where they are the model's
      own, as its configuration has them.
    kind: what the prompts are.
  """

  ids: list[list[int]]
  texts: list[str | None]
  eos_ids: tuple[int, ...] | None = None
  kind: PromptKind = PromptKind.TEXT


def encode_prompts(model: Model, prompts: Any) -> EncodedPrompts:
  """Return prompts as token ids and as text.

  Args:
    model: its tokenizer reads texts, its chat template conversations.
    prompts: as `generate` takes them, not checked yet.

  Raises:
    ArgumentError: there is none, one is of no kind that can be read, leaves
      no room in the context or has ids that are not the model's, some are
      conversations and others not, or the model lacks the tokenizer or chat
      template that they need.
  """
  prompts = _listed(prompts)
  if any(map(_is_conversation, prompts)):
    return _encode_conversations(model, prompts)
  ids = []
  for number, prompt in enumerate(prompts, start=1):
    if isinstance(prompt, str):
      tokenizer = model.tokenizer
      ids.append(tokenizer.encode(prompt, add_bos=tokenizer.adds_bos))
      continue
    try:
      ids.append([int(t) for t in prompt])
    except (TypeError, ValueError):
      raise ArgumentError(
        f'prompt {number} must be a text, a list of token ids or a list of '
        f'messages, not {prompt!r}.'
      ) from None
  checked = decoding.check_prompts(ids, config=model.config.model)
  return EncodedPrompts(checked, _texts(model, prompts, checked))


def _encode_conversations(model: Model, prompts: list[Any]) -> EncodedPrompts:
  if not all(map(_is_conversation, prompts)):
    raise ArgumentError(
      'prompts are all conversations or none is, for conversations end at '
      'tokens of their own; call generate once for each kind.'
    )
  template = model.chat_template
  texts = [template.render(messages) for messages in prompts]
  ids = template.tokenizer.encode_batch(texts, add_bos=False)
  return EncodedPrompts(
    decoding.check_prompts(ids, config=model.config.model),
    list(texts),
    eos_ids=answer_eos_ids(model),
    kind=PromptKind.CONVERSATION,
  )


def answer_eos_ids(model: Model) -> tuple[int, ...] | None:
  """Return the tokens that end an answer; None where they are the model's own.

  Raises:
    EejaxError: the model has no chat template.
  """
  ends, own = model.answer_ends, model.config.model.eos_ids
  return None if set(ends) == set(own) else ends


def _listed(prompts: Any) -> list[Any]:
  """Return a list of prompts; one text or conversation may stand alone."""
  if isinstance(prompts, str) or _is_conversation(prompts):
    return [prompts]
  return list(prompts)


def _is_conversation(prompt: Any) -> bool:
  if isinstance(prompt, str) or not isinstance(prompt, Sequence):
    return False
  return any(isinstance(message, Mapping) for message in prompt)


def _texts(
  model: Model, prompts: list[Any], ids: list[list[int]]
) -> list[str | None]:
  texts: list[str | None] = []
  for prompt, tokens in zip(prompts, ids, strict=True):
    if isinstance(prompt, str):
      texts.append(prompt)
    elif model.tokenizer_folder is None:
      texts.append(None)
    else:
      texts.append(model.tokenizer.decode(tokens))
  return texts
