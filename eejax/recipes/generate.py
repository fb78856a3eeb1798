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
"""Text that a model generates, with the exits that its tokens take."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp

from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import IncrementalDecoder
from eejax.decoding import generate as decoding
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.pipelined.generate import NO_WINDOW, Pipeline
from eejax.decoding.policy import defaults
from eejax.decoding.policy.check_use import (
  Use,
  check_sampling_covered,
  check_uncertified,
  check_use,
  longest_covered,
)
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.policy.threshold_values import (
  Threshold,
  parse_threshold,
  parse_thresholds,
)
from eejax.decoding.results import DecodeResult, TokenUpdate
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig
from eejax.parallel.mesh import MeshChoice, devices_of, has_stages
from eejax.progress import SILENT, Bar, Progress
from eejax.recipes import pipelined
from eejax.recipes.encoded_prompts import (
  Conversation,
  Prompt,
  encode_prompts,
)
from eejax.recipes.generated import GenerateResult

# Dtypes that are computed in.
DTYPES = ('float32', 'bfloat16')


def generate(
  model: Model,
  prompts: str | Conversation | Sequence[Prompt],
  *,
  policy: Policy | None = None,
  mode: Mode | str | None = None,
  criterion: str | None = None,
  thresholds: str | float | Sequence[Threshold] | None = None,
  max_new_tokens: int | None = None,
  temperature: float = 0.0,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
  seed: int = 0,
  stop: Sequence[str] = (),
  logit_bias: Mapping[int, float] | None = None,
  min_tokens: int = 0,
  ignore_eos: bool = False,
  stop_token_ids: Sequence[int] = (),
  top_logprobs: int = 0,
  dtype: str = 'float32',
  weights: str | None = None,
  kv: str | None = None,
  batch_size: int = 8,
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
  on_tokens: Callable[[TokenUpdate], None] | None = None,
  tokens_per_call: int | None = None,
) -> GenerateResult:
  """Generate a continuation of every prompt.

  Prompts do not influence one another: each gets the tokens, exit depths and
  scores it would get alone, up to float rounding. What is laid out and
  compiled for a model is kept with it, so that a second call begins at once.

  Args:
    model: as `eejax.load` returns it.
    prompts: texts, lists of token ids, or both; or conversations, each a list
      of messages `{'role': ..., 'content': ...}`, which the chat template of
      the tokenizer's folder turns into text and whose answers end at its end
      tokens, too. One text or conversation may stand alone.
    policy: when to exit early; None decodes at full depth unless `mode`,
      `criterion` or `thresholds` say otherwise.
    mode: `full`, `early_exit` or `speculative`. A policy in another mode than
      its own keeps no certificate.
    criterion: name of the score that exits are taken by, such as `max_prob`
      or `gate`; None is the gate where every exit has one, else `max_prob`.
    thresholds: a number in [0, 1] for all exits or one an exit, None or
      `never` where one is not to be taken; or a text such as `0.9,never`.
    max_new_tokens: tokens to generate at most for each prompt; None is 128,
      or as many as the policy was certified for, if those are fewer.
    temperature: 0 is greedy.
    top_k: choose among this many of the likeliest tokens; 0 is all.
    top_p: choose among the likeliest tokens with this share, in (0, 1].
    min_p: drop tokens below this share of the likeliest, in [0, 1].
    seed: of the first prompt; the next has one more.
    stop: a text ends before any of these; they need a tokenizer.
    logit_bias: added to the logits of some tokens before one is chosen.
    min_tokens: tokens to generate before an end token may be chosen or a stop
      string is looked for.
    ignore_eos: whether the model's end tokens end nothing.
    stop_token_ids: tokens that end a text, besides the model's.
    top_logprobs: how many of the likeliest tokens to return beside each one,
      at most 20; they and all log-probabilities are by the logits of the head
      that emitted the token, before `logit_bias`, temperature and filters.
    dtype: what is computed in, `float32` or `bfloat16`.
    weights: `int8` keeps kernels of the blocks in a byte a number.
    kv: `int8` keeps keys and values in a byte a number.
    batch_size: prompts that are decoded together.
    mesh: the devices: axes as in `data=2,model=4`, a name in
      `configs/meshes`, a `MeshConfig` or a mesh of jax; None takes the default
      device. Tokens are those of one device but for rounding. `stage=4`, or
      `stage=2,model=2`, lays the blocks over a pipeline: a token that exits at
      a stage starts the next one at once while deeper stages go on, so the
      policy's window and batching do not matter.
    progress: is told while weights are hashed, programs compiled and tokens
      generated.
    on_tokens: called with what a prompt's text grew by; its `row` is the
      number of the prompt, from 0.
    tokens_per_call: decode steps between two such calls, at most 32; fewer
      show tokens sooner, more run faster. None chooses.

  Returns:
    A row for each prompt, in their order, with texts, tokens, exit depths,
    scores and the work that was done.

  Raises:
    ArgumentError: something cannot be used as given: the model has no
      tokenizer and a prompt is text, or no chat template and it is a
      conversation, a prompt leaves no room, the policy is another model's, or
      its certificate does not cover this use.

  Example:
    >>> import eejax
    >>> model = eejax.load('default')
    >>> out = eejax.generate(model, ['import os'], max_new_tokens=4)
    >>> len(out.rows[0].tokens), out.rows[0].exit_depths
    (4, (12, 12, 12, 12))
  """
  if batch_size < 1:
    raise ArgumentError(f'batch_size must be at least 1, not {batch_size}.')
  policy = _chosen_policy(model, policy, mode, criterion, thresholds)
  if max_new_tokens is None:
    max_new_tokens = longest_covered(policy, default=defaults.MAX_NEW_TOKENS)
  sampling = SamplingConfig(
    temperature,
    top_k,
    top_p,
    min_p,
    seed,
    logit_bias=logit_bias or {},
    min_tokens=min_tokens,
    ignore_eos=ignore_eos,
    stop_token_ids=stop_token_ids,
  )
  check_sampling_covered(policy, sampling)
  encoded = encode_prompts(model, prompts)
  use = dataclasses.replace(
    _use(dtype, weights, kv, temperature, max_new_tokens),
    prompt_kind=encoded.kind,
  )
  if mesh is not None and has_stages(mesh):
    pipelined.check_arguments(use)
    check_uncertified(policy, NO_WINDOW)
  check_use(policy, model, use, progress=progress)
  batches = _Batches(
    model,
    _decoder(model, mesh, policy, use),
    policy.without_certificate(),
    sampling,
    max_new_tokens,
    tuple(stop),
    encoded.eos_ids,
    tokens_per_call,
    top_logprobs,
  )
  results = batches.decode_all(
    encoded.ids,
    batch_size=batch_size,
    progress=progress,
    on_tokens=on_tokens,
  )
  return GenerateResult.of(
    results, policy=policy, model=model, prompts=encoded.texts
  )


def _use(
  dtype: str,
  weights: str | None,
  kv: str | None,
  temperature: float,
  max_new_tokens: int,
) -> Use:
  return Use(
    dtype=_known(dtype, DTYPES, 'dtype'),
    weights=_quantization(weights, 'weights'),
    kv=_quantization(kv, 'kv'),
    temperature=temperature,
    max_new_tokens=max_new_tokens,
  )


def _decoder(
  model: Model, mesh: MeshChoice | None, policy: Policy, use: Use
) -> Prepared | Pipeline:
  if mesh is not None and has_stages(mesh):
    return pipelined.pipeline(model, mesh, policy=policy, dtype=use.dtype)
  return prepared(
    model, dtype=use.dtype, weights=use.weights, kv=use.kv, mesh=mesh
  )


def prepared(
  model: Model,
  *,
  dtype: str = 'float32',
  weights: Quantization = Quantization.NONE,
  kv: Quantization = Quantization.NONE,
  mesh: MeshChoice | None = None,
) -> Prepared:
  """Return a model laid out for decoding, kept with it for the next call.

  Of a model whose first blocks alone are loaded, only exits there are held.

  Raises:
    EejaxError: the mesh does not fit the devices or the model, or has stages.
  """
  devices = None if mesh is None else devices_of(mesh)
  loaded = tree.count_blocks(model.params)
  held = tuple(e for e in model.config.exits if e.depth <= loaded)
  return model.kept(
    ('prepared', dtype, weights, kv, devices),
    lambda: prepare(
      model.params,
      config=model.config.with_exits(held),
      dtype=jnp.dtype(dtype),
      quantization=weights,
      kv_quantization=kv,
      mesh=devices,
    ),
  )


@dataclasses.dataclass(frozen=True)
class _Batches:
  """What all batches share; see `eejax.decoding.generate.generate`."""

  model: Model
  decoder: Prepared | Pipeline
  policy: Policy
  sampling: SamplingConfig
  max_new_tokens: int
  stop: tuple[str, ...]
  eos_ids: tuple[int, ...] | None
  tokens_per_call: int | None
  top_logprobs: int

  def decode_all(
    self,
    prompts: list[list[int]],
    *,
    batch_size: int,
    progress: Progress,
    on_tokens: Callable[[TokenUpdate], None] | None,
  ) -> list[DecodeResult]:
    """Decode prompts batch by batch."""
    total, results = len(prompts) * self.max_new_tokens, []
    with _shown(progress, total, on_tokens) as listen:
      for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        results.append(self.decode(batch, first=first, on_tokens=listen))
    return results

  def decode(
    self,
    prompts: list[list[int]],
    *,
    first: int,
    on_tokens: Callable[[TokenUpdate], None],
  ) -> DecodeResult:
    """Decode one batch; `first` is the number of its first prompt."""

    def renumbered(update: TokenUpdate) -> None:
      on_tokens(dataclasses.replace(update, row=first + update.row))

    seeds = [self.sampling.seed + first + i for i in range(len(prompts))]
    if isinstance(self.decoder, Pipeline):
      return self.decoder.generate(
        prompts,
        sampling=self.sampling,
        max_new_tokens=self.max_new_tokens,
        eos_ids=self.eos_ids,
        seeds=seeds,
        texts=self._streams(prompts),
        on_tokens=renumbered,
        tokens_per_call=self.tokens_per_call,
        top_logprobs=self.top_logprobs,
      )
    return decoding.generate(
      self.decoder,
      config=self.model.config,
      prompts=prompts,
      policy=self.policy,
      sampling=self.sampling,
      max_new_tokens=self.max_new_tokens,
      eos_ids=self.eos_ids,
      seeds=seeds,
      texts=self._streams(prompts),
      on_tokens=renumbered,
      tokens_per_call=self.tokens_per_call,
      top_logprobs=self.top_logprobs,
    )

  def _streams(self, prompts: list[list[int]]) -> list[TextStream] | None:
    if self.model.tokenizer_folder is None:
      if self.stop:
        raise ArgumentError(
          'stop strings are looked for in text, and the model has no '
          'tokenizer; leave stop out.'
        )
      return None
    tokenizer = self.model.tokenizer
    return [
      TextStream(
        IncrementalDecoder(tokenizer, context=ids),
        stop=self.stop,
        min_tokens=self.sampling.min_tokens,
      )
      for ids in prompts
    ]


def _chosen_policy(
  model: Model,
  policy: Policy | None,
  mode: Mode | str | None,
  criterion: str | None,
  thresholds: str | float | Sequence[Threshold] | None,
) -> Policy:
  """Return the policy that the arguments of `generate` ask for."""
  said = criterion is not None or thresholds is not None
  if policy is not None:
    if said:
      raise ArgumentError(
        'a policy says what criterion and thresholds say; give one of them.'
      )
    return policy.with_mode(mode)
  asked = Policy().with_mode(mode or ('early_exit' if said else 'full')).mode
  if asked is Mode.FULL:
    if said:
      raise ArgumentError(
        'mode full uses no exits, so it takes neither criterion nor thresholds.'
      )
    return Policy()
  fields: dict = {'mode': asked}
  if criterion is not None:
    fields['criterion'] = criterion
  if thresholds is not None:
    fields['thresholds'] = _listed_thresholds(thresholds)
  return defaults.complete_policy(model.config, **fields)


def _listed_thresholds(
  thresholds: str | float | Sequence[Threshold],
) -> tuple[Threshold, ...]:
  if isinstance(thresholds, str):
    return parse_thresholds(thresholds)
  if isinstance(thresholds, (int, float)):
    return (float(thresholds),)
  return tuple(None if t is None else parse_threshold(t) for t in thresholds)


def _known(value: str, known: Sequence[str], name: str) -> str:
  if value not in known:
    raise ArgumentError(
      f'{name} must be one of {", ".join(known)}, not {value!r}.'
    )
  return value


def _quantization(value: str | None, name: str) -> Quantization:
  if value is None:
    return Quantization.NONE
  return Quantization(_known(value, [q.value for q in Quantization], name))


@contextlib.contextmanager
def _shown(
  progress: Progress,
  total: int,
  on_tokens: Callable[[TokenUpdate], None] | None,
) -> Iterator[Callable[[TokenUpdate], None]]:
  """Give what shows tokens as they come, and the wait for the first ones."""
  with contextlib.ExitStack() as bars, contextlib.ExitStack() as compiling:
    compiling.enter_context(progress.waiting('compiling'))
    shown: list[Bar] = []

    def listen(update: TokenUpdate) -> None:
      compiling.close()
      if not shown:
        bar = progress.bar('generating', total=total, unit='token')
        shown.append(bars.enter_context(bar))
      shown[0].update(len(update.tokens))
      if on_tokens is not None:
        on_tokens(update)

    yield listen
