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
"""Pipelined generation from prompts: what callers use.

Example:
  pipeline = Pipeline(
    checkpoint.params,
    config=checkpoint.config,
    mesh=jax.make_mesh((4,), ('stage',)),
    policy=Policy(Mode.EARLY_EXIT, 'gate', (0.9,)),
  )
  result = pipeline.generate([tokenizer.encode('def ', add_bos=True)])
  print(result.rows[0].tokens, result.decode_ticks, result.speedup)
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eejax.config import EarlyExitConfig
from eejax.decoding.generate import check_prompts
from eejax.decoding.loop.plan import bucket
from eejax.decoding.pipelined.layout import make_layout, stages_of_mesh
from eejax.decoding.pipelined.parameters import place_params
from eejax.decoding.pipelined.results import PipelinedResult, PipelinedRow
from eejax.decoding.pipelined.rows import Record, Request, Rows
from eejax.decoding.pipelined.stage import Caches
from eejax.decoding.pipelined.ticks import decode, empty_caches, prefill
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingConfig, row_sampling
from eejax.types import DTypeLike, Params, PyTree

PREFILL_CHUNK = 64
# Room for tokens grows in these steps, so that few programs are compiled.
SMALLEST_ROOM = 32

FULL_DEPTH = Policy()
GREEDY = SamplingConfig()


class Pipeline:
  """Generate on a model that is laid out over the stages of a mesh.

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
    _check_positive('prefill-chunk', prefill_chunk)
    self._config, self._dtype, self._chunk = config, dtype, prefill_chunk
    self.layout, self._thresholds = make_layout(
      config,
      policy=policy,
      num_stages=stages_of_mesh(mesh),
      stage_ends=stage_ends,
    )
    # The compiler splits what is not a stage's, whatever kind of axis is given.
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    self.mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)
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
  ) -> PipelinedResult:
    """Generate a continuation of every prompt, all in one batch.

    Args:
      prompts: token ids; an empty one becomes the start token.
      sampling: how tokens are chosen.
      max_new_tokens: tokens to emit at most, a row; the context may end a row
        sooner.
      eos_ids: tokens that end a row, which keeps them; by default the model's.
      seeds: one a row, by default `sampling.seed` and the numbers that follow.

    Raises:
      ArgumentError: something cannot be used as given.
    """
    _check_positive('max-new-tokens', max_new_tokens)
    model = self._config.model
    tokens = check_prompts(prompts, config=model)
    if seeds is None:
      seeds = [sampling.seed + i for i in range(len(tokens))]
    if len(seeds) != len(tokens):
      raise ArgumentError(
        f'there are {len(seeds)} seeds for {len(tokens)} prompts.'
      )
    eos = model.eos_ids if eos_ids is None else tuple(eos_ids)
    limits = [min(max_new_tokens, model.max_length - len(p)) for p in tokens]
    request = Request(
      eos=jnp.array(eos, jnp.int32),
      thresholds=jnp.array(self._thresholds, jnp.float32),
      sampling=row_sampling(sampling, seeds=seeds),
    )
    caches, ticks = self.prefill(tokens, room=max(limits))
    record, _ = decode(
      self.params,
      caches,
      *self._everywhere((request, _first_rows(tokens, limits))),
      layout=self.layout,
      mesh=self.mesh,
      method=sampling.method,
      capacity=bucket(max(limits), smallest=SMALLEST_ROOM),
    )
    return self._result(tokens, record, eos, ticks)

  def prefill(
    self, prompts: Sequence[Sequence[int]], *, room: int
  ) -> tuple[Caches, int]:
    """Run all but the last token of each prompt through all stages.

    Args:
      prompts: token ids.
      room: how many tokens the caches are to hold besides.

    Returns:
      The caches, and how many ticks it took.
    """
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
    if not longest:
      return caches, 0
    lengths = jnp.array([len(p) - 1 for p in prompts], jnp.int32)
    caches, ticks = prefill(
      self.params,
      caches,
      *self._everywhere((padded, lengths)),
      layout=self.layout,
      mesh=self.mesh,
      width=width,
    )
    return caches, int(ticks)

  def _everywhere(self, tree: PyTree) -> PyTree:
    """Put arrays on all devices."""
    return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

  def _result(
    self,
    prompts: Sequence[Sequence[int]],
    record: Record,
    eos_ids: Sequence[int],
    prefill_ticks: int,
  ) -> PipelinedResult:
    ends = [stage.last for stage in self.layout.stages]
    emitted = record.emitted
    fields = (emitted.token, emitted.stage, emitted.score, emitted.log_prob)
    columns = [np.asarray(field) for field in fields]
    rows = []
    for row, prompt in enumerate(prompts):
      kept = slice(int(record.counts[row]))
      tokens, stages, scores, logprobs = (
        c[row, kept].tolist() for c in columns
      )
      is_eos = tokens[-1] in eos_ids
      rows.append(
        PipelinedRow(
          prompt_tokens=tuple(prompt),
          tokens=tuple(tokens),
          exit_depths=tuple(ends[s] for s in stages),
          exit_stages=tuple(stages),
          scores=tuple(None if math.isnan(s) else s for s in scores),
          logprobs=tuple(logprobs),
          finish_reason=FinishReason.EOS if is_eos else FinishReason.LENGTH,
        )
      )
    return PipelinedResult(
      rows=tuple(rows),
      num_stages=len(ends),
      prefill_chunk=self._chunk,
      prefill_ticks=prefill_ticks,
      decode_ticks=int(record.ticks),
    )


def pipelined_generate(
  params: Params,
  *,
  config: EarlyExitConfig,
  mesh: Mesh,
  prompts: Sequence[Sequence[int]],
  policy: Policy = FULL_DEPTH,
  sampling: SamplingConfig = GREEDY,
  max_new_tokens: int = 128,
  eos_ids: Sequence[int] | None = None,
  seeds: Sequence[int] | None = None,
  dtype: DTypeLike = jnp.float32,
  stage_ends: Sequence[int] | None = None,
) -> PipelinedResult:
  """Lay a model out over a mesh and generate once; see `Pipeline`.

  Rows get the tokens, exit depths and scores that
  `eejax.decoding.generate.generate` gives them with the same thresholds and a
  window without end, up to float rounding.

  Args:
    params: the model, as loaded.
    config: the model with its exits.
    mesh: has an axis `stage`, and `model` for tensor parallelism.
    prompts: token ids; an empty one becomes the start token.
    policy: when to exit early.
    sampling: how tokens are chosen.
    max_new_tokens: tokens to emit at most, a row.
    eos_ids: tokens that end a row; by default the model's.
    seeds: one a row, by default `sampling.seed` and the numbers that follow.
    dtype: compute type.
    stage_ends: depth each stage ends at; by default about equal stages.

  Raises:
    ArgumentError: something cannot be used as given.
  """
  pipeline = Pipeline(
    params,
    config=config,
    mesh=mesh,
    policy=policy,
    dtype=dtype,
    stage_ends=stage_ends,
  )
  return pipeline.generate(
    prompts,
    sampling=sampling,
    max_new_tokens=max_new_tokens,
    eos_ids=eos_ids,
    seeds=seeds,
  )


def _first_rows(
  prompts: Sequence[Sequence[int]], limits: Sequence[int]
) -> Rows:
  """Return rows whose last prompt token is about to enter."""
  everyone = jnp.ones(len(prompts), bool)
  return Rows(
    token=jnp.array([p[-1] for p in prompts], jnp.int32),
    position=jnp.array([len(p) - 1 for p in prompts], jnp.int32),
    enters=everyone,
    live=everyone,
    remaining=jnp.array(limits, jnp.int32),
  )


def _check_positive(name: str, value: int) -> None:
  if value < 1:
    raise ArgumentError(f'{name} must be at least 1, not {value}.')
