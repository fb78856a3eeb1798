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
"""The routes of the OpenAI protocol, and those that others expect beside it."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from eejax.errors import EejaxError
from eejax.serving import page
from eejax.serving.api_error import (
  of_argument,
  unknown_model,
  wrong_field,
)
from eejax.serving.generation import begin
from eejax.serving.generation_request import (
  Endpoint,
  model_name,
  parse_request,
)
from eejax.serving.http import (
  EventStream,
  JsonResponse,
  read_body,
  until_disconnected,
)
from eejax.serving.json_fields import Fields, parse_object
from eejax.serving.prompts import ServedText
from eejax.serving.served_model import ServedModel
from eejax.serving.service import Service
from eejax.version import __version__

METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8'


class Routes:
  """What answers each route; the state is the service's."""

  def __init__(self, service: Service):
    self._service = service

  def all(self) -> list[Route]:
    """Return every route."""
    return [
      Route('/v1/models', self.models),
      Route('/v1/models/{name:path}', self.model),
      Route('/v1/completions', self.completions, methods=['POST']),
      Route('/v1/chat/completions', self.chat, methods=['POST']),
      Route('/tokenize', self.tokenize, methods=['POST']),
      Route('/detokenize', self.detokenize, methods=['POST']),
      Route('/tokenizer_info', self.tokenizer_info),
      Route('/health', self.health),
      Route('/version', self.version),
      Route('/metrics', self.metrics),
      Route('/', self.page),
    ]

  # MARK: Texts

  async def completions(self, request: Request) -> Response:
    """Continue prompts."""
    return await self._generate(request, Endpoint.COMPLETION)

  async def chat(self, request: Request) -> Response:
    """Answer a conversation."""
    return await self._generate(request, Endpoint.CHAT)

  async def _generate(self, request: Request, endpoint: Endpoint) -> Response:
    limits = self._service.limits
    values = parse_object(await read_body(request, limits))
    served = self._named(values)
    wanted = parse_request(
      values,
      endpoint=endpoint,
      vocab_size=served.model.config.model.vocab_size,
    )
    submitted = begin(served, wanted, timeout_s=limits.request_timeout_s)
    generation = await until_disconnected(request, submitted)

    def close() -> None:
      if generation.cancel():
        self._service.metrics.aborted(served.name)

    if wanted.is_streamed:
      return EventStream(
        generation.stream(),
        write_timeout_s=limits.write_timeout_s,
        close=close,
      )
    try:
      return JsonResponse(await until_disconnected(request, generation.whole()))
    finally:
      close()

  # MARK: Models

  async def models(self, request: Request) -> Response:
    """List the models that are served."""
    del request
    cards = [self._card(served) for served in self._service.models.values()]
    return JsonResponse({'object': 'list', 'data': cards})

  async def model(self, request: Request) -> Response:
    """Describe one model."""
    name = request.path_params['name']
    if name not in self._service.models:
      raise unknown_model(name)
    return JsonResponse(self._card(self._service.models[name]))

  def _card(self, served: ServedModel) -> dict[str, Any]:
    return {
      'id': served.name,
      'object': 'model',
      'created': self._service.created,
      'owned_by': 'eejax',
      'max_model_len': served.max_length,
      'eejax': {
        'levels': served.levels,
        'policy': served.policy.to_json(),
        'has_tokenizer': served.model.tokenizer_folder is not None,
        'has_chat_template': served.has_chat_template,
      },
    }

  def _named(self, values: Mapping[str, Any]) -> ServedModel:
    """Return the model that a body names; a single one may be left out."""
    name, models = model_name(values), self._service.models
    if name is None and len(models) == 1:
      return next(iter(models.values()))
    if name is None:
      raise wrong_field('model', 'model is missing.')
    if name not in models:
      raise unknown_model(name)
    return models[name]

  # MARK: Tokens

  async def tokenize(self, request: Request) -> Response:
    """Turn a text into token ids."""
    values = parse_object(await read_body(request, self._service.limits))
    served, fields = self._named(values), Fields(values)
    ids = _tokenized(served, values, fields)
    tokenizer = served.model.tokenizer
    answer = {
      'count': len(ids),
      'max_model_len': served.max_length,
      'tokens': ids,
      'token_strs': None,
    }
    if fields.boolean('return_token_strs'):
      answer['token_strs'] = [tokenizer.token_name(i) for i in ids]
    return JsonResponse(answer)

  async def detokenize(self, request: Request) -> Response:
    """Turn token ids into their text."""
    values = parse_object(await read_body(request, self._service.limits))
    served, fields = self._named(values), Fields(values)
    vocab_size = served.model.config.model.vocab_size
    if fields.get('tokens') is None:
      raise wrong_field('tokens', 'tokens is missing.')
    ids = fields.token_ids('tokens', vocab_size=vocab_size)
    return JsonResponse({'prompt': ServedText(served).text(ids)})

  async def tokenizer_info(self, request: Request) -> Response:
    """Describe a model's tokenizer, as its folder does."""
    values = dict(request.query_params)
    info = ServedText(self._named(values)).tokenizer_info()
    return JsonResponse(info)

  # MARK: The server

  async def health(self, request: Request) -> Response:
    """Tell whether requests are taken, as status and as a word."""
    del request
    health = self._service.health
    return JsonResponse(
      {'status': health.value}, status_code=200 if health.is_well else 503
    )

  async def version(self, request: Request) -> Response:
    """Tell the version of eejax."""
    del request
    return JsonResponse({'version': __version__})

  async def metrics(self, request: Request) -> Response:
    """Answer what Prometheus asks."""
    del request
    return Response(
      self._service.metrics.text(), headers={'Content-Type': METRICS_TYPE}
    )

  async def page(self, request: Request) -> Response:
    """Show the page on which one tries a prompt."""
    del request
    return HTMLResponse(
      page.HTML, headers={'Content-Security-Policy': page.CONTENT_POLICY}
    )


def _tokenized(
  served: ServedModel, values: Mapping[str, Any], fields: Fields
) -> list[int]:
  """Return the ids of a prompt or of messages.

  Raises:
    ApiError: there is neither, or the model cannot read it.
  """
  if fields.get('messages') is not None:
    vocab_size = served.model.config.model.vocab_size
    request = parse_request(
      values, endpoint=Endpoint.CHAT, vocab_size=vocab_size
    )
    return list(ServedText(served).conversation(request).tokens)
  text = fields.text('prompt')
  if text is None:
    raise wrong_field('prompt', 'prompt is missing.')
  try:
    tokenizer = served.model.tokenizer
  except EejaxError as error:
    raise of_argument(error, param='model') from error
  adds = fields.boolean('add_special_tokens', default=True)
  return tokenizer.encode(text, add_bos=adds and tokenizer.adds_bos)
