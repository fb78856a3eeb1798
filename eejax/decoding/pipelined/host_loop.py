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
"""What the host does between two chunks of tokens."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from eejax.decoding.pipelined import results
from eejax.decoding.pipelined.decode_loop import PipelineState
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.rows import RecordedTokens
from eejax.decoding.results import RowProgress, TokenUpdate
from eejax.types import Array, Bool

# Runs a chunk; rows that the host has ended come beside the state.
RunChunk = Callable[
  [PipelineState, Bool[Array, 'B']], tuple[RecordedTokens, PipelineState]
]


@dataclasses.dataclass(frozen=True)
class PipelineRun:
  """What a batch did until all its rows had ended.

  Attributes:
    exit_stages: for each row, the stage each of its tokens was emitted at,
      those that were thrown away after a stop string included.
    steps: how many steps of the pipeline it took.
  """

  exit_stages: tuple[tuple[int, ...], ...]
  steps: int


def run_to_end(
  run_chunk: RunChunk,
  state: PipelineState,
  rows: Sequence[RowProgress],
  *,
  layout: PipelineLayout,
  on_tokens: Callable[[TokenUpdate], None] | None,
) -> PipelineRun:
  """Generate until every row has ended.

  Args:
    run_chunk: one call of the compiled loop.
    state: of the batch; it is consumed.
    rows: keep what they emit.
    layout: which stage runs what.
    on_tokens: called with what a row emitted, after every chunk.
  """
  stages: list[list[int]] = [[] for _ in rows]
  steps = 0
  while not all(row.ended for row in rows):
    ended = jnp.array([row.ended for row in rows])
    record, state = run_chunk(state, ended)
    live, counts = np.asarray(state.rows.live), np.asarray(record.counts)
    emitted_at = np.asarray(record.emitted.stage)
    steps += int(record.steps)
    for number, row in enumerate(rows):
      if row.ended:
        continue
      stages[number] += emitted_at[number, : counts[number]].tolist()
      emitted, is_broken = results.emitted_tokens(record, number, layout=layout)
      is_live = bool(live[number]) and not is_broken
      update = row.take(emitted, is_live=is_live, has_failed=is_broken)
      if on_tokens is not None:
        on_tokens(update)
  return PipelineRun(tuple(map(tuple, stages)), steps)
