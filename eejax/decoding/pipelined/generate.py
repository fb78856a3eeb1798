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

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.config import EarlyExitConfig
from eejax.decoding.generate import (
  FULL_DEPTH,
  GREEDY,
  check_prompts,
  default_seeds,
)
from eejax.decoding.loop.plan import bucket
from eejax.decoding.pipelined import results
from eejax.decoding.pipelined.layout import make_layout
from eejax.decoding.pipelined.mesh import num_stages, pipeline_mesh
from eejax.decoding.pipelined.parameters import place_params
from eejax.decoding.pipelined.programs import decode, empty_caches, prefill
from eejax.decoding.pipelined.results import PipelinedResult, PipelineSteps
from eejax.decoding.pipelined.rows import (
  PipelineRequest,
  RecordedTokens,
  Rows,
  first_rows,
)
from eejax.decoding.pipelined.stage import Caches
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.use import check_uncertified
from eejax.decoding.results import (
  RowProgress,
  Timing,
  TokenUpdate,
)
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingConfig, row_sampling
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
    max_new_tokens: int = 128,
    eos_ids: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    texts: Sequence[TextStream] | None = None,
    on_tokens: Callable[[TokenUpdate], None] | None = None,
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
      texts: one a row, to get text; without stop strings.
      on_tokens: called once for each row, when all have ended.

    Raises:
      ArgumentError: something cannot be used as given.
    """
    _check_positive('max_new_tokens', max_new_tokens)
    model = self._config.model
    tokens = check_prompts(prompts, config=model)
    count = len(tokens)
    seeds = default_seeds(seeds, sampling, count)
    _check_sampling(sampling, model.vocab_size)
    eos = sampling.end_ids(model.eos_ids if eos_ids is None else eos_ids)
    limits = [min(max_new_tokens, model.max_length - len(p)) for p in tokens]
    request = PipelineRequest(
      eos=jnp.array(eos, jnp.int32),
      thresholds=jnp.array(self._thresholds, jnp.float32),
      sampling=row_sampling(sampling, seeds=seeds),
    )
    record, steps, timing = self._run(request, tokens, limits, sampling)
    streams = texts if texts is not None else [None] * count
    rows = []
    for number, stream in enumerate(streams):
      row = RowProgress(number, stream, end_ids=eos)
      emitted, is_broken = results.emitted_tokens(
        record, number, layout=self.layout
      )
      update = row.take(emitted, is_live=False, has_failed=is_broken)
      if on_tokens is not None:
        on_tokens(update)
      rows.append(row)
    return self._result(tokens, rows, record, steps, timing)

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

  def _run(
    self,
    request: PipelineRequest,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: SamplingConfig,
  ) -> tuple[RecordedTokens, int, Timing]:
    """Return what rows emitted, the steps of prefill, and times.

    Both programs are compiled by calls that have no token to work on, so
    that the times of the calls that follow are those of the work.
    """
    padded, lengths, caches = self._start(prompts, max(limits))
    rows = first_rows(prompts, limits)

    def run(caches: Caches, rows: Rows) -> tuple[RecordedTokens, Caches]:
      return decode(
        self.params,
        caches,
        *self._everywhere((request, rows)),
        layout=self.layout,
        mesh=self.mesh,
        method=sampling.method,
        capacity=bucket(max(limits), smallest=SMALLEST_ROOM),
      )

    clock = time.perf_counter()
    caches, _ = self._prefill(caches, padded, np.zeros_like(lengths))
    nobody = jnp.zeros(len(prompts), bool)
    _, caches = run(caches, dataclasses.replace(rows, live=nobody))
    jax.block_until_ready(caches)
    compiled = time.perf_counter()
    caches, steps = self._prefill(caches, padded, lengths)
    jax.block_until_ready(caches)
    filled = time.perf_counter()
    record, _ = run(caches, rows)
    num_tokens = int(record.counts.sum())
    timing = Timing(compile_s=compiled - clock, prefill_s=filled - compiled)
    decode_s = time.perf_counter() - filled
    return record, steps, timing.with_decoding(decode_s, num_tokens=num_tokens)

  def _everywhere(self, tree: PyTree) -> PyTree:
    """Put arrays on all devices."""
    return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

  def _result(
    self,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[RowProgress],
    record: RecordedTokens,
    prefill_steps: int,
    timing: Timing,
  ) -> PipelinedResult:
    layout = self.layout
    stages = results.exit_stages(record)
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
        decode_steps=int(record.steps),
      ),
    )


def _check_sampling(sampling: SamplingConfig, vocab_size: int) -> None:
  sampling.check_tokens(vocab_size)
  if sampling.changes_logits:
    raise ArgumentError(
      'pipelined decoding takes neither logit_bias nor min_tokens; leave them '
      'out, or leave the mesh out.'
    )


def _check_positive(name: str, value: int) -> None:
  if value < 1:
    raise ArgumentError(f'{name} must be at least 1, not {value}.')
