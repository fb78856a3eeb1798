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
"""The interface of EE-LLM's server: `PUT /api`.

What it sends and answers is EE-LLM's (its `text_generation_server.py`), the
exits of each text besides. `early_exit_thres` is compared with the criterion
max_prob; above 1, as its default is, no exit is taken.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eejax.data.chat import ChatEnding
from eejax.decoding.policy.modes import Mode
from eejax.decoding.policy.threshold_values import Threshold
from eejax.ops.sampling import SamplingConfig
from eejax.serving.api_error import wrong_field
from eejax.serving.generation import begin
from eejax.serving.generation_request import (
  MOST_STOPS,
  Delivery,
  Endpoint,
  ExitSettings,
  GenerationRequest,
  Prompt,
  TokenSettings,
)
from eejax.serving.http import JsonResponse, read_body, until_disconnected
from eejax.serving.json_fields import Fields, is_list_of, parse_object
from eejax.serving.prompts import ServedText
from eejax.serving.served_model import ServedModel
from eejax.serving.service import Service

MOST_PROMPTS = 128


class EeLlmRoute:
  """Answers `PUT /api` by the first model of a service."""

  def __init__(self, service: Service):
    self._service = service

  def route(self) -> Route:
    """Return the route."""
    return Route('/api', self.answer, methods=['PUT'])

  async def answer(self, request: Request) -> Response:
    """Continue prompts as EE-LLM does."""
    began = time.perf_counter()
    limits = self._service.limits
    values = parse_object(await read_body(request, limits))
    served = next(iter(self._service.models.values()))
    wanted = parse_ee_llm(values, served)
    generation = await until_disconnected(
      request,
      begin(served, wanted, timeout_s=limits.request_timeout_s),
    )
    try:
      answer = await until_disconnected(request, generation.whole())
    finally:
      if generation.cancel():
        self._service.metrics.aborted(served.name)
    return JsonResponse(
      _as_ee_llm(answer, served, wanted)
      | {'requst_time': time.perf_counter() - began}
    )


def parse_ee_llm(
  values: Mapping[str, Any], served: ServedModel
) -> GenerationRequest:
  """Return what the body of EE-LLM's interface asks for.

  Raises:
    ApiError: a field cannot be used as given.
  """
  fields = Fields(values)
  if fields.get('prompts') is None:
    raise wrong_field('prompts', 'prompts argument required')
  prompts = fields.texts('prompts', most=MOST_PROMPTS)
  if not prompts:
    raise wrong_field('prompts', 'prompts is empty')
  for name in ('beam_width', 'length_penalty', 'prevent_newline_after_colon'):
    fields.refuse(name, f'{name} is not supported; leave it out.', 0, 1, False)
  request = GenerationRequest(
    endpoint=Endpoint.COMPLETION,
    prompts=_with_start(fields, prompts, served),
    messages=(),
    ending=ChatEnding.ANSWER,
    template_values={},
    choices=1,
    echoes=fields.boolean('echo_prompts'),
    prompt_logprobs=None,
    returns_token_ids=True,
    delivery=Delivery.WHOLE,
    tokens=TokenSettings(
      max_new_tokens=fields.integer('tokens_to_generate', default=64, low=0),
      sampling=_sampling(fields),
      stop=fields.stop_strings('stop_sequences', most=MOST_STOPS),
      logprobs=0 if fields.boolean('logprobs') else None,
    ),
    exits=_exits(fields, served),
    ignored=fields.unread(),
  )
  if request.tokens.max_new_tokens == 0:
    # EE-LLM scores the prompts then.
    return dataclasses.replace(request, echoes=True)
  return request


def _with_start(
  fields: Fields, prompts: tuple[str, ...], served: ServedModel
) -> tuple[Prompt, ...]:
  """Return prompts with the start token where `add_BOS` asks for it."""
  if not fields.boolean('add_BOS'):
    return prompts
  start = served.model.config.model.bos_id
  if start is None:
    raise wrong_field('add_BOS', 'the model has no start token.')
  reader = ServedText(served)
  ids = [reader.token_ids(prompt) for prompt in prompts]
  return tuple(tuple(i if i[:1] == [start] else [start, *i]) for i in ids)


def _sampling(fields: Fields) -> SamplingConfig:
  temperature = fields.number('temperature', default=0.0, low=0, high=100)
  top_k = fields.integer('top_k', default=0, low=0, high=1000)
  top_p = fields.number('top_p', default=0.0, low=0, high=1)
  if top_k > 0 and top_p > 0:
    raise wrong_field('top_p', 'cannot set both top-k and top-p samplings.')
  return SamplingConfig(
    temperature=temperature,
    top_k=top_k,
    # EE-LLM switches it off by 0.
    top_p=top_p or 1.0,
    seed=fields.integer('random_seed', default=1234, low=0),
  )


def _exits(fields: Fields, served: ServedModel) -> ExitSettings:
  # These two are on if they are there at all.
  is_early = fields.get('use_early_exit') is not None
  fields.get('print_max_prob')
  threshold = fields.number('early_exit_thres', default=40.0, low=0, high=1e9)
  layers = fields.get('exit_layers') or []
  depths = served.model.config.exit_depths
  if not is_list_of(layers, int) or not set(layers) <= set(depths):
    raise wrong_field(
      'exit_layers',
      'exit_layers must be an array of depths of exits: '
      f'{", ".join(map(str, depths)) or "there are none"}.',
    )
  if not is_early:
    return ExitSettings(mode=Mode.FULL)
  taken: Threshold = threshold if threshold <= 1 else None
  thresholds = tuple(
    taken if not layers or depth in layers else None for depth in depths
  )
  return ExitSettings(
    mode=Mode.EARLY_EXIT, criterion='max_prob', thresholds=thresholds
  )


def _as_ee_llm(
  answer: Mapping[str, Any], served: ServedModel, request: GenerationRequest
) -> dict[str, Any]:
  """Return an answer in EE-LLM's form."""
  reader = ServedText(served)
  choices = answer['choices']
  logprobs = None
  if request.tokens.logprobs is not None:
    logprobs = [choice['logprobs']['token_logprobs'] for choice in choices]
  segments = []
  for choice in choices:
    echoed = choice['prompt_token_ids'] if request.echoes else []
    ids = [*echoed, *choice['token_ids']]
    segments.append([reader.token_text(token) for token in ids])
  return {
    'text': [choice['text'] for choice in choices],
    'segments': segments,
    'logprobs': logprobs,
    'exit_depths': [c['eejax'].get('exit_depths', []) for c in choices],
    'scores': [c['eejax'].get('scores', []) for c in choices],
  }
