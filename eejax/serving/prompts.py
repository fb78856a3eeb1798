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
"""Prompts of requests as token ids, and tokens as text."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from eejax.decoding.generate import check_prompts
from eejax.errors import EejaxError
from eejax.serving.answers import EncodedPrompt
from eejax.serving.api_error import of_argument, wrong_field
from eejax.serving.generation_request import (
  Endpoint,
  GenerationRequest,
  Prompt,
)
from eejax.serving.prompt_scores import prompt_scores
from eejax.serving.served_model import ServedModel
from eejax.serving.token_logprobs import ScoredToken


class ServedText:
  """Reads and writes the text of a model that is served."""

  def __init__(self, served: ServedModel):
    self._served, self._model = served, served.model

  async def encode(self, request: GenerationRequest) -> list[EncodedPrompt]:
    """Return the prompts of a request; other requests go on meanwhile.

    Raises:
      ApiError: one cannot be read, or has more tokens than the context.
    """
    prompts = await asyncio.to_thread(self._encode_all, request)
    count = request.scored_of_prompt
    if count is None:
      return prompts
    scored = []
    for prompt in prompts:
      async with self._served.scoring:
        scored.append(await asyncio.to_thread(self._with_scores, prompt, count))
    return scored

  def token_text(self, token: int) -> str:
    """Return what a token is as text: its own, or else its name."""
    if self._model.tokenizer_folder is None:
      return f'token_id:{token}'
    tokenizer = self._model.tokenizer
    return tokenizer.decode([token]) or tokenizer.token_name(token)

  def token_ids(self, text: str) -> list[int]:
    """Return the ids of a prompt's text.

    Raises:
      ApiError: the model has no tokenizer.
    """
    try:
      tokenizer = self._model.tokenizer
      return tokenizer.encode(text, add_bos=tokenizer.adds_bos)
    except EejaxError as error:
      raise of_argument(error, param='prompt') from error

  def text(self, tokens: Sequence[int]) -> str:
    """Return the text of tokens, '' where the model has no tokenizer."""
    if self._model.tokenizer_folder is None:
      return ''
    return self._model.tokenizer.decode(tokens)

  def tokenizer_info(self) -> dict[str, Any]:
    """Return the names of control tokens, and the chat template.

    Raises:
      ApiError: the model has no tokenizer.
    """
    try:
      info: dict[str, Any] = dict(self._model.tokenizer.special_tokens)
    except EejaxError as error:
      raise of_argument(error, param='model') from error
    with contextlib.suppress(EejaxError):
      info['chat_template'] = self._model.chat_template.source
    return info

  def _encode_all(self, request: GenerationRequest) -> list[EncodedPrompt]:
    if request.endpoint is Endpoint.CHAT:
      return [self.conversation(request)]
    return [self._encode(prompt) for prompt in request.prompts]

  def conversation(self, request: GenerationRequest) -> EncodedPrompt:
    """Return the messages of a request as a prompt.

    Raises:
      ApiError: the model has no chat template, or it refuses them.
    """
    try:
      text = self._model.chat_template.render(
        request.messages,
        ending=request.ending,
        variables=request.template_values,
      )
    except EejaxError as error:
      raise of_argument(error, param='messages') from error
    ids = self._model.tokenizer.encode(text, add_bos=False)
    self._check_length(ids, param='messages')
    return EncodedPrompt(tuple(ids), text)

  def _encode(self, prompt: Prompt) -> EncodedPrompt:
    is_text = isinstance(prompt, str)
    ids = self.token_ids(prompt) if isinstance(prompt, str) else list(prompt)
    config = self._model.config.model
    self._check_length(ids, param='prompt')
    if not ids:
      try:
        ids = check_prompts([ids], config=config)[0]
      except EejaxError as error:
        raise of_argument(error, param='prompt') from error
    text = prompt if is_text else self.text(ids)
    return EncodedPrompt(tuple(ids), str(text))

  def _check_length(self, ids: Sequence[int], *, param: str) -> None:
    most = self._served.max_length
    if len(ids) > most:
      raise wrong_field(
        param,
        f"this model's maximum context length is {most} tokens, and the "
        f'{param} have {len(ids)}; shorten them.',
        code='context_length_exceeded',
      )

  def _with_scores(self, prompt: EncodedPrompt, count: int) -> EncodedPrompt:
    scores = prompt_scores(
      self._model,
      prompt.tokens,
      dtype=self._served.dtype,
      count=count,
    )
    scored = tuple(
      ScoredToken(token, score.logprob, score.top, piece, score.rank)
      for token, score, piece in zip(
        prompt.tokens, scores, self._pieces(prompt.tokens), strict=True
      )
    )
    return EncodedPrompt(prompt.tokens, prompt.text, scored)

  def _pieces(self, tokens: Sequence[int]) -> list[str]:
    if self._model.tokenizer_folder is None:
      return ['' for _ in tokens]
    return self._model.tokenizer.pieces(tokens)
