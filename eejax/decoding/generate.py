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
"""Generation from prompts: what callers use.

Example:
  result = generate(
    checkpoint.params,
    config=checkpoint.config,
    prompts=[tokenizer.encode('def ', add_bos=True)],
    policy=Policy(Mode.EARLY_EXIT, 'gate', (0.9,)),
  )
  print(tokenizer.decode(result.rows[0].tokens), result.accounting)
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eejax.config import EarlyExitConfig, ModelConfig
from eejax.decoding import window_costs
from eejax.decoding.loop.accounting import batch_accounting, row_accounting
from eejax.decoding.loop.cache import BatchSettings, DecodeState, cache_size
from eejax.decoding.loop.device_placement import place_state, replicate
from eejax.decoding.loop.exit_scoring import with_scored_matrices
from eejax.decoding.loop.plan import DecodePlan, bucket, make_plan
from eejax.decoding.loop.prepare import Prepared, check_plan, prepare
from eejax.decoding.loop.programs import decode_chunk, first_state, prefill
from eejax.decoding.loop.while_loop import Chunk
from eejax.decoding.policy.batching import PlatformCosts, platform_costs
from eejax.decoding.policy.check_use import check_uncertified
from eejax.decoding.policy.defaults import MAX_NEW_TOKENS
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.decoding.results import (
  DecodeResult,
  EmittedTokens,
  RowProgress,
  Timing,
  TokenUpdate,
)
from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError
from eejax.ops.sampling import (
  SamplingConfig,
  end_table,
  row_bias,
  row_sampling,
)
from eejax.types import DTypeLike, Params

# Tokens a call of the compiled loop has room for.
CHUNK_CAPACITY = 32
# Stop strings are looked for between calls; what a row emits after one is
# thrown away, so calls are shorter where there are any.
CHUNK_WITH_STOPS = 8
SMALLEST_PREFILL = 16

FULL_DEPTH = Policy()
GREEDY = SamplingConfig()


def generate(
  params: Params | Prepared,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Sequence[int]],
  policy: Policy = FULL_DEPTH,
  sampling: SamplingConfig = GREEDY,
  max_new_tokens: int = MAX_NEW_TOKENS,
  eos_ids: Sequence[int] | None = None,
  seeds: Sequence[int] | None = None,
  dtype: DTypeLike = jnp.float32,
  texts: Sequence[TextStream] | None = None,
  on_tokens: Callable[[TokenUpdate], None] | None = None,
  tokens_per_call: int | None = None,
  frequent_ids: Sequence[int] | None = None,
  platform: PlatformCosts | None = None,
  top_logprobs: int = 0,
  mesh: Mesh | None = None,
) -> DecodeResult:
  """Generate a continuation of every prompt, all in one batch.

  Rows do not influence one another: each gets the tokens, exit depths and
  scores it would get alone, up to float rounding; speculating, the tokens,
  while who drafts them follows what pays for the batch.

  Args:
    params: the model, as loaded or as `prepare` returns it. Prepare it once
      where there are several calls.
    config: the model with its exits.
    prompts: token ids; an empty one becomes the start token.
    policy: when to exit early; without a certificate, for parameters alone
      cannot tell whether it holds. `eejax.generate` takes the whole model.
    sampling: how tokens are chosen.
    max_new_tokens: tokens to emit at most, a row; the context may end a row
      sooner.
    eos_ids: tokens that end a row, which keeps them; by default the model's.
    seeds: one a row, by default `sampling.seed` and the numbers that follow.
    dtype: compute type, where `params` are not prepared yet.
    texts: one a row, to get text and heed stop strings.
    on_tokens: called with what a row emitted after every call of the loop.
    tokens_per_call: steps of one call of the compiled loop, at most
      `CHUNK_CAPACITY`; fewer show tokens sooner, more run faster.
    frequent_ids: the most frequent token first, for the scored vocabulary
      `frequent(k)`.
    platform: what tokens cost, for adaptive drafting; None measures what
      windows cost here, once for a program.
    top_logprobs: how many of the likeliest tokens to return beside each one
      that was emitted, at most 20.
    mesh: the devices, where `params` are not prepared yet.

  Raises:
    ArgumentError: something cannot be used as given.
  """
  check_uncertified(policy, 'parameters without their model')
  tokens = check_prompts(prompts, config=config.model)
  if max_new_tokens < 1:
    raise ArgumentError(
      f'max_new_tokens must be at least 1, not {max_new_tokens}.'
    )
  seeds = default_seeds(seeds, sampling, len(tokens))
  if texts is not None and len(texts) != len(tokens):
    raise ArgumentError('texts and prompts must be equally many.')
  if not isinstance(params, Prepared):
    params = prepare(params, config=config, dtype=dtype, mesh=mesh)
  plan, thresholds = make_plan(
    config,
    policy=policy,
    method=sampling.method,
    top_logprobs=top_logprobs,
  )
  check_plan(params, plan)
  params = with_scored_matrices(params, plan=plan, token_ids=frequent_ids)
  sampling.check_tokens(config.model.vocab_size)
  ends = sampling.end_ids(config.model.eos_ids if eos_ids is None else eos_ids)
  room = config.model.max_length
  limits = [min(max_new_tokens, room - len(p)) for p in tokens]
  end_ids = end_table([ends] * len(tokens))
  stated = window_costs.stated(
    platform or platform_costs(), plan=plan, rows=len(tokens)
  )
  run = _Run(params, plan, tokens, limits, texts, ends, on_tokens)
  run.start(
    BatchSettings(
      end_ids=end_ids,
      thresholds=jnp.tile(threshold_values(thresholds), (len(tokens), 1)),
      sampling=row_sampling(sampling, seeds=seeds),
      bias=row_bias(
        sampling,
        end_ids=end_ids,
        starts=list(map(len, tokens)),
        vocab_size=config.model.vocab_size,
      ),
      wants_top=jnp.ones(len(tokens), bool) if top_logprobs else None,
      window_costs=window_costs.for_rows(stated, len(tokens)),
    ),
    measures_costs=platform is None and window_costs.follows_costs(plan),
  )
  run.finish(tokens_per_call)
  return run.result(policy)


def check_prompts(
  prompts: Sequence[Sequence[int]], *, config: ModelConfig
) -> list[list[int]]:
  """Return prompts as lists; an empty one becomes the start token.

  Raises:
    ArgumentError: there is no prompt, one is empty and the model has no start
      token, one leaves no room in the context, or a token is not the model's.
  """
  if not prompts:
    raise ArgumentError('there is no prompt; give at least one.')
  checked = []
  for number, prompt in enumerate(prompts, start=1):
    ids = [int(t) for t in prompt]
    if not ids:
      if config.bos_id is None:
        raise ArgumentError(
          f'prompt {number} is empty and the model has no start token; give '
          'it at least one token.'
        )
      ids = [config.bos_id]
    if len(ids) >= config.max_length:
      raise ArgumentError(
        f'prompt {number} has {len(ids)} tokens and the context of the model '
        f'is {config.max_length}; shorten it to {config.max_length - 1} at '
        'most.'
      )
    wrong = [t for t in ids if not 0 <= t < config.vocab_size]
    if wrong:
      raise ArgumentError(
        f'prompt {number} has token {wrong[0]}, and the model only tokens '
        f'0 to {config.vocab_size - 1}.'
      )
    checked.append(ids)
  return checked


def padded_prompts(prompts: Sequence[Sequence[int]]) -> np.ndarray:
  """Return all prompts but their last tokens, padded on the right.

  The width is one of few, and 0 where no prompt is longer than one token.
  """
  width = _prompt_width(max(map(len, prompts)))
  padded = np.zeros((len(prompts), width), np.int32)
  for row, prompt in enumerate(prompts):
    padded[row, : len(prompt) - 1] = prompt[:-1]
  return padded


def prompt_widths(longest: int) -> list[int]:
  """Return the widths that prompts of up to `longest` tokens are padded to."""
  widths = [0]
  while widths[-1] < _prompt_width(longest):
    widths.append(_prompt_width(widths[-1] + 2))
  return widths


def _prompt_width(length: int) -> int:
  """Return the width that all but the last of `length` tokens are padded to."""
  if length <= 1:
    return 0
  return bucket(length - 1, smallest=SMALLEST_PREFILL)


def default_seeds(
  seeds: Sequence[int] | None, sampling: SamplingConfig, count: int
) -> Sequence[int]:
  """Return a seed for each of `count` rows, by default those that follow.

  Raises:
    ArgumentError: there is another number of seeds than of rows.
  """
  if seeds is None:
    return [sampling.seed + i for i in range(count)]
  if len(seeds) != count:
    raise ArgumentError(f'there are {len(seeds)} seeds for {count} prompts.')
  return seeds


def steps_of_call(
  tokens_per_call: int | None, rows: Sequence[RowProgress]
) -> int:
  """Return the steps of one call of the compiled loop.

  Args:
    tokens_per_call: what was asked for; None chooses.
    rows: those that may meet a stop string are looked at more often.
  """
  steps = tokens_per_call
  if steps is None:
    stops = any(row.may_stop for row in rows)
    steps = CHUNK_WITH_STOPS if stops else CHUNK_CAPACITY
  return max(1, min(steps, CHUNK_CAPACITY))


class _Run:
  """Drive the compiled programs for one batch and keep what rows emit."""

  def __init__(
    self,
    params: Prepared,
    plan: DecodePlan,
    prompts: list[list[int]],
    limits: list[int],
    texts: Sequence[TextStream] | None,
    end_ids: tuple[int, ...],
    on_tokens: Callable[[TokenUpdate], None] | None,
  ):
    self._params, self._plan, self._prompts = params, plan, prompts
    self._limits, self._on_tokens = limits, on_tokens
    streams = texts if texts is not None else [None] * len(prompts)
    self._rows = [
      RowProgress(i, t, end_ids=end_ids, top_logprobs=plan.top_logprobs)
      for i, t in enumerate(streams)
    ]
    self._timing = Timing()

  def start(self, request: BatchSettings, *, measures_costs: bool) -> None:
    """Compile both programs and fill the caches."""
    mesh = self._params.mesh
    self._request = replicate(request, mesh=mesh)
    padded = padded_prompts(self._prompts)
    counts = [len(p) - 1 for p in self._prompts]
    longest = max(map(sum, zip(counts, self._limits, strict=True)))
    size = cache_size(self._plan, longest=max(longest, padded.shape[1]))
    prompts, lengths = replicate(
      (jnp.asarray(padded), jnp.array(counts)), mesh=mesh
    )
    arguments = (self._params, prompts, lengths)
    clock = time.perf_counter()
    program = prefill.lower(*arguments, plan=self._plan, size=size).compile()
    if measures_costs:
      self._measure_costs(size)
    compile_s = time.perf_counter() - clock
    clock = time.perf_counter()
    segments = jax.block_until_ready(program(*arguments))
    prefill_s = time.perf_counter() - clock
    state = first_state(
      self._params,
      self._request,
      segments,
      plan=self._plan,
      size=size,
      prompts=prompts,
      tokens=jnp.array([p[-1] for p in self._prompts], jnp.int32),
      live=jnp.ones(len(self._prompts), bool),
      remaining=jnp.array(self._limits, jnp.int32),
    )
    clock = time.perf_counter()
    state = place_state(state, mesh=mesh)
    # No step at all, to compile.
    self._state, _ = jax.block_until_ready(self._call(state, 0))
    compile_s += time.perf_counter() - clock
    self._timing = Timing(compile_s=compile_s, prefill_s=prefill_s)

  def _measure_costs(self, size: int) -> None:
    """Put what windows cost here in place of what they are said to."""
    costs = window_costs.measure(
      self._params,
      self._request,
      plan=self._plan,
      size=size,
      capacity=CHUNK_CAPACITY,
    )
    self._request = dataclasses.replace(
      self._request,
      window_costs=replicate(
        window_costs.for_rows(costs, len(self._prompts)),
        mesh=self._params.mesh,
      ),
    )

  def finish(self, tokens_per_call: int | None) -> None:
    """Generate until every row has ended."""
    steps = steps_of_call(tokens_per_call, self._rows)
    clock = time.perf_counter()
    while not all(r.ended for r in self._rows):
      self._state, chunk = self._call(self._state, steps)
      self._take(chunk)
    decode_s = time.perf_counter() - clock
    count = sum(len(r.tokens) for r in self._rows)
    self._timing = self._timing.with_decoding(decode_s, num_tokens=count)

  def result(self, policy: Policy) -> DecodeResult:
    """Return everything about the rows."""
    counts = self._state.counts
    rows = []
    for number, (prompt, row) in enumerate(
      zip(self._prompts, self._rows, strict=True)
    ):
      accounting = row_accounting(
        counts, plan=self._plan, row=number, num_tokens=row.num_emitted
      )
      rows.append(row.result(prompt, accounting))
    return DecodeResult(
      rows=tuple(rows),
      timing=self._timing,
      batch=batch_accounting(counts, plan=self._plan),
      policy=policy,
    )

  def _call(self, state: DecodeState, steps: int) -> tuple[DecodeState, Chunk]:
    return decode_chunk(
      self._params,
      self._request,
      state,
      np.int32(steps),
      plan=self._plan,
      capacity=CHUNK_CAPACITY,
    )

  def _take(self, chunk: Chunk) -> None:
    """Give each row what it emitted; stop rows that met a stop string."""
    live = np.asarray(self._state.live)
    failed = np.asarray(self._state.failed)
    emitted = EmittedTokens.fetch(chunk)
    for number, row in enumerate(self._rows):
      if row.ended:
        continue
      update = row.take(
        emitted[number],
        is_live=bool(live[number]),
        has_failed=bool(failed[number]),
      )
      if self._on_tokens is not None:
        self._on_tokens(update)
    stopped = np.array([r.ended for r in self._rows])
    if (stopped & live).any():
      going = replicate(jnp.asarray(live & ~stopped), mesh=self._params.mesh)
      self._state = dataclasses.replace(self._state, live=going)
