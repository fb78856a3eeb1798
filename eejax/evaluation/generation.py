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
"""Many texts generated under one policy, each with settings of its own."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax.sharding import Mesh

from eejax.checkpoint.model import Model
from eejax.data.tokenizer import IncrementalDecoder
from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.certificate import PromptKind
from eejax.decoding.policy.check_use import Use, check_covered
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import GeneratedRow
from eejax.decoding.text import TextStream
from eejax.ops.sampling import SamplingConfig, SamplingMethod
from eejax.progress import SILENT, Progress


@dataclasses.dataclass(frozen=True)
class TextRequest:
  """A text that is asked for.

  Attributes:
    prompt: token ids. Where they leave no room for the new ones, the first of
      them are left out.
    max_new_tokens: tokens generated at most.
    sampling: how they are chosen.
    stop: the text ends before any of these.
  """

  prompt: Sequence[int]
  max_new_tokens: int
  sampling: SamplingConfig = SamplingConfig()
  stop: tuple[str, ...] = ()


class TextGenerator:
  """Generates texts in the slots of one engine.

  A text that ends makes room for the next one, so short ones do not wait for
  long ones.
  """

  def __init__(
    self,
    model: Model,
    policy: Policy,
    *,
    dtype: str = 'float32',
    batch_size: int = 8,
    mesh: Mesh | None = None,
  ):
    """Prepare to generate.

    Args:
      model: with a tokenizer.
      policy: when exits are taken; it was checked to be the model's.
      dtype: what is computed in.
      batch_size: texts at a time.
      mesh: the devices; None takes those that the model lies on.
    """
    self._mesh = mesh
    self._model, self._policy = model, policy
    self._dtype, self._batch_size = dtype, batch_size

  @functools.cached_property
  def _prepared(self) -> Prepared:
    return prepare(
      self._model.params,
      config=self._model.config,
      dtype=jnp.dtype(self._dtype),
      mesh=self._mesh,
    )

  def generate(
    self,
    requests: Sequence[TextRequest],
    *,
    prompt_kind: PromptKind,
    eos_ids: tuple[int, ...] | None = None,
    progress: Progress = SILENT,
  ) -> list[GeneratedRow]:
    """Return a text for each request, in their order.

    Args:
      requests: what is asked for.
      prompt_kind: what their prompts are.
      eos_ids: tokens that end a text; None takes the model's.
      progress: is told of every text.

    Raises:
      ArgumentError: the certificate of the policy does not cover a request,
        or a stop string is empty.
    """
    for request in requests:
      use = Use(
        temperature=request.sampling.temperature,
        max_new_tokens=request.max_new_tokens,
        prompt_kind=prompt_kind,
      )
      check_covered(self._policy, use)
    engine = self._engine(requests, eos_ids)
    rows: dict[int, GeneratedRow] = {}
    waiting = collections.deque(requests)
    with progress.bar('generating', total=len(requests), unit='text') as bar:
      while waiting or not engine.is_idle:
        # An engine numbers requests as they come.
        while waiting and engine.num_waiting < self._batch_size:
          self._submit(engine, waiting.popleft())
        for update in engine.step():
          if update.finish_reason is not None:
            rows[update.row] = engine.result(update.row)
            bar.update()
    return [rows[number] for number in range(len(requests))]

  def _engine(
    self, requests: Sequence[TextRequest], eos_ids: tuple[int, ...] | None
  ) -> Engine:
    samples = any(r.sampling.temperature for r in requests)
    return Engine(
      self._prepared,
      config=self._model.config,
      policy=self._policy.without_certificate(),
      limits=EngineLimits(slots=self._batch_size, max_waiting=self._batch_size),
      method=SamplingMethod.RANDOM if samples else SamplingMethod.GREEDY,
      eos_ids=eos_ids,
    )

  def _submit(self, engine: Engine, request: TextRequest) -> int:
    room = self._model.config.model.max_length
    new = min(request.max_new_tokens, room - 1)
    prompt = list(request.prompt)[-(room - new) :]
    decoder = IncrementalDecoder(self._model.tokenizer, context=prompt)
    return engine.submit(
      prompt,
      max_new_tokens=new,
      sampling=request.sampling,
      text=TextStream(decoder, stop=request.stop),
    )
