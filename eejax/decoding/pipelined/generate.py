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
"""Pipelined generation from prompts: `Pipeline`.

`eejax.generate(model, prompts, mesh='stage=4')` calls it.

Example:
  pipeline = Pipeline(
    model.params,
    config=model.config,
    mesh=jax.make_mesh((4,), ('stage',)),
    policy=Policy(Mode.EARLY_EXIT, 'gate', (0.9,)),
  )
  result = pipeline.generate([tokenizer.encode('def ', add_bos=True)])
  print(result.rows[0].tokens, result.pipeline.speedup)
"""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.config import EarlyExitConfig
from eejax.decoding.generate import (
  CHUNK_CAPACITY,
  FULL_DEPTH,
  GREEDY,
  check_prompts,
  default_seeds,
  steps_of_call,
)
from eejax.decoding.loop.plan import bucket, check_top_logprobs
from eejax.decoding.pipelined import results
from eejax.decoding.pipelined.decode_loop import (
  PipelineState,
  decode_chunk,
  first_state,
)
from eejax.decoding.pipelined.host_loop import PipelineRun, RunChunk, run_to_end
from eejax.decoding.pipelined.layout import make_layout
from eejax.decoding.pipelined.mesh import num_stages, pipeline_mesh
from eejax.decoding.pipelined.parameters import place_params
from eejax.decoding.pipelined.prefill import empty_caches, prefill
from eejax.decoding.pipelined.results import PipelinedResult, PipelineSteps
from eejax.decoding.pipelined.rows import PipelineRequest, first_rows
from eejax.decoding.pipelined.stage import Caches
from eejax.decoding.policy.check_use import check_uncertified
from eejax.decoding.policy.defaults import MAX_NEW_TOKENS
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import (
  RowProgress,
  Timing,
  TokenUpdate,
)
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError
from eejax.ops.sampling import (
  SamplingConfig,
  SamplingMethod,
  end_table,
  row_bias,
  row_sampling,
)
from eejax.types import DTypeLike, Params, PyTree

PREFILL_CHUNK = 64
# Room for tokens grows in these steps, so that few programs are compiled.
SMALLEST_ROOM = 32
# Why a certificate does not cover this: tokens exit that a window, which was
# part of what was certified, would have brought to full depth.
NO_WINDOW = 'a pipeline, where no window brings tokens to full depth'


class Pipeline:
  """A model laid out over the stages of a mesh, which generates there.

  Attributes:
    layout: which stage runs what.
    mesh: where it runs.
    params: the model, each stage's part on the stage's own devices.
  """

  def __init__(
    self,
    params: Params,
    *,
    config: EarlyExitConfig,
    mesh: Mesh,
    policy: Policy = FULL_DEPTH,
    dtype: DTypeLike = jnp.float32,
    stage_ends: Sequence[int] | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
  ):
    """Lay a model out.

    Args:
      params: the model, as loaded.
      config: the model with its exits.
      mesh: has an axis `stage`; an axis `model` splits each stage's matrices.
      policy: when to exit early; exits that may be taken stand at the ends of
        stages.
      dtype: compute type.
      stage_ends: depth each stage ends at, rising to the model's; by default
        stages are as equal as can be.
      prefill_chunk: tokens of a row that go through a stage together before
        decoding.

    Raises:
      ArgumentError: something cannot be used as given.
    """
    _check_positive('prefill_chunk', prefill_chunk)
    self._config, self._dtype, self._chunk = config, dtype, prefill_chunk
    check_uncertified(policy, NO_WINDOW)
    self.mesh = pipeline_mesh(mesh)
    self._policy = policy
    self.layout, self._thresholds = make_layout(
      config,
      policy=policy,
      num_stages=num_stages(self.mesh),
      stage_ends=stage_ends,
    )
    self.params = place_params(
      params, config=config, layout=self.layout, mesh=self.mesh, dtype=dtype
    )

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig = GREEDY,
    max_new_tokens: int = MAX_NEW_TOKENS,
    eos_ids: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    texts: Sequence[TextStream] | None = None,
    on_tokens: Callable[[TokenUpdate], None] | None = None,
    tokens_per_call: int | None = None,
    top_logprobs: int = 0,
  ) -> PipelinedResult:
    """Generate a continuation of every prompt, all in one batch.

    Rows get the tokens, exit depths and scores that
    `eejax.decoding.generate.generate` gives them with the same thresholds and
    a window without end, up to float rounding.

    Args:
      prompts: token ids; an empty one becomes the start token.
      sampling: how tokens are chosen.
      max_new_tokens: tokens to emit at most, a row; the context may end a row
        sooner.
      eos_ids: tokens that end a row, which keeps them; by default the model's.
      seeds: one a row, by default `sampling.seed` and the numbers that follow.
      texts: one a row, to get text and heed stop strings.
      on_tokens: called with what a row emitted after every call of the loop.
      tokens_per_call: tokens that the row ahead emits in one call of the
        compiled loop, at most `CHUNK_CAPACITY`.
      top_logprobs: how many of the likeliest tokens to return beside each one
        that was emitted, at most 20.

    Raises:
      ArgumentError: something cannot be used as given.
    """
    _check_positive('max_new_tokens', max_new_tokens)
    model = self._config.model
    check_top_logprobs(top_logprobs, config=model)
    tokens = check_prompts(prompts, config=model)
    sampling.check_tokens(model.vocab_size)
    seeds = default_seeds(seeds, sampling, len(tokens))
    ends = sampling.end_ids(model.eos_ids if eos_ids is None else eos_ids)
    streams = texts if texts is not None else [None] * len(tokens)
    rows = [
      RowProgress(number, text, end_ids=ends, top_logprobs=top_logprobs)
      for number, text in enumerate(streams)
    ]
    run_chunk = self._run_chunk(
      self._request(tokens, sampling, seeds, ends),
      tokens=steps_of_call(tokens_per_call, rows),
      method=sampling.method,
      top_logprobs=top_logprobs,
    )
    limits = [min(max_new_tokens, model.max_length - len(p)) for p in tokens]
    state, steps, timing = self._begin(run_chunk, tokens, limits)
    clock = time.perf_counter()
    run = run_to_end(
      run_chunk, state, rows, layout=self.layout, on_tokens=on_tokens
    )
    timing = timing.with_decoding(
      time.perf_counter() - clock, num_tokens=sum(len(r.tokens) for r in rows)
    )
    return self._result(tokens, rows, run, steps, timing)

  def prefill(
    self, prompts: Sequence[Sequence[int]], *, room: int
  ) -> tuple[Caches, int]:
    """Run all but the last token of each prompt through all stages.

    Args:
      prompts: token ids.
      room: how many tokens the caches are to hold besides.

    Returns:
      The caches, and how many steps it took.
    """
    padded, lengths, caches = self._start(prompts, room)
    return self._prefill(caches, padded, lengths)

  def _start(
    self, prompts: Sequence[Sequence[int]], room: int
  ) -> tuple[np.ndarray, np.ndarray, Caches]:
    """Return prompts [B, T] without their last tokens, lengths and caches."""
    longest, width = max(map(len, prompts)) - 1, self._chunk
    chunks = bucket(-(-longest // width), smallest=1) if longest else 0
    padded = np.zeros((len(prompts), chunks * width), np.int32)
    for row, prompt in enumerate(prompts):
      padded[row, : len(prompt) - 1] = prompt[:-1]
    # A chunk is written whole, padding included.
    size = max(longest + 1 + room, padded.shape[1])
    caches = empty_caches(
      self.layout,
      mesh=self.mesh,
      batch_size=len(prompts),
      size=bucket(size, smallest=SMALLEST_ROOM),
      dtype=self._dtype,
    )
    lengths = np.array([len(p) - 1 for p in prompts], np.int32)
    return padded, lengths, caches

  def _prefill(
    self, caches: Caches, padded: np.ndarray, lengths: np.ndarray
  ) -> tuple[Caches, int]:
    if not padded.shape[1]:
      return caches, 0
    caches, steps = prefill(
      self.params,
      caches,
      *self._everywhere((padded, lengths)),
      layout=self.layout,
      mesh=self.mesh,
      width=self._chunk,
    )
    return caches, int(steps)

  def _request(
    self,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    seeds: Sequence[int],
    ends: Sequence[int],
  ) -> PipelineRequest:
    """Return settings of the rows, on all devices."""
    end_ids = end_table([ends] * len(prompts))
    request = PipelineRequest(
      end_ids=end_ids,
      thresholds=jnp.array(self._thresholds, jnp.float32),
      sampling=row_sampling(sampling, seeds=seeds),
      bias=row_bias(
        sampling,
        end_ids=end_ids,
        starts=list(map(len, prompts)),
        vocab_size=self._config.model.vocab_size,
      ),
    )
    return self._everywhere(request)

  def _run_chunk(
    self,
    request: PipelineRequest,
    *,
    tokens: int,
    method: SamplingMethod,
    top_logprobs: int,
  ) -> RunChunk:
    """Return what runs one chunk of `tokens` of a batch."""
    return lambda state, ended: decode_chunk(
      self.params,
      request,
      state,
      *self._everywhere((ended, np.int32(tokens))),
      layout=self.layout,
      mesh=self.mesh,
      method=method,
      capacity=CHUNK_CAPACITY,
      top_logprobs=top_logprobs,
    )

  def _begin(
    self,
    run_chunk: RunChunk,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
  ) -> tuple[PipelineState, int, Timing]:
    """Return the state after the prompts, the steps they took, and times.

    Both programs are compiled by calls that have no token to work on, so
    that the times of the calls that follow are those of the work.
    """

    def start(caches: Caches) -> PipelineState:
      rows = self._everywhere(first_rows(prompts, limits))
      return first_state(
        rows, caches, layout=self.layout, mesh=self.mesh, dtype=self._dtype
      )

    clock = time.perf_counter()
    padded, lengths, caches = self._start(prompts, max(limits))
    caches, _ = self._prefill(caches, padded, np.zeros_like(lengths))
    everybody = jnp.ones(len(prompts), bool)
    _, state = jax.block_until_ready(run_chunk(start(caches), everybody))
    compiled = time.perf_counter()
    caches, steps = self._prefill(state.caches, padded, lengths)
    jax.block_until_ready(caches)
    filled = time.perf_counter()
    return start(caches), steps, Timing(compiled - clock, filled - compiled)

  def _everywhere(self, tree: PyTree) -> PyTree:
    """Put arrays on all devices."""
    return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

  def _result(
    self,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[RowProgress],
    run: PipelineRun,
    prefill_steps: int,
    timing: Timing,
  ) -> PipelinedResult:
    layout, stages = self.layout, run.exit_stages
    return PipelinedResult(
      rows=tuple(
        row.result(prompt, results.row_accounting(exits, layout=layout))
        for row, prompt, exits in zip(rows, prompts, stages, strict=True)
      ),
      timing=timing,
      batch=results.batch_accounting(stages, layout=layout),
      policy=self._policy,
      pipeline=PipelineSteps.of(
        stages,
        layout=layout,
        prefill_length=max(map(len, prompts)) - 1,
        prefill_chunk=self._chunk,
        prefill_steps=prefill_steps,
        decode_steps=run.steps,
      ),
    )


def _check_positive(name: str, value: int) -> None:
  if value < 1:
    raise ArgumentError(f'{name} must be at least 1, not {value}.')
