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
"""What pipelined decoding returns."""

import dataclasses

from eejax.decoding.pipelined.latency import (
  decode_ticks,
  prefill_ticks,
  speedup,
)
from eejax.decoding.results import FinishReason


@dataclasses.dataclass(frozen=True)
class PipelinedRow:
  """Hold the continuation of one prompt; its lists are equally long.

  Attributes:
    prompt_tokens: the prompt.
    tokens: what was generated, an end token included.
    exit_depths: blocks each token went through before it was emitted.
    exit_stages: stage each was emitted at, from 0.
    scores: score at the exit each came from; None from the final head.
    logprobs: log-probability of each, untempered, under its own head.
    finish_reason: why it ended.
  """

  prompt_tokens: tuple[int, ...]
  tokens: tuple[int, ...]
  exit_depths: tuple[int, ...]
  exit_stages: tuple[int, ...]
  scores: tuple[float | None, ...]
  logprobs: tuple[float, ...]
  finish_reason: FinishReason


@dataclasses.dataclass(frozen=True)
class PipelinedResult:
  """Hold the continuations of a batch.

  Attributes:
    rows: one a prompt, in their order.
    num_stages: stages of the pipeline.
    prefill_chunk: tokens of a row that went through a stage together before
      decoding.
    prefill_ticks: ticks that the prompts took.
    decode_ticks: ticks from there to the last token, counted in the loop.
  """

  rows: tuple[PipelinedRow, ...]
  num_stages: int
  prefill_chunk: int
  prefill_ticks: int
  decode_ticks: int

  @property
  def predicted_prefill_ticks(self) -> int:
    """Return what the latency model makes of the prompts' lengths."""
    longest = max(len(row.prompt_tokens) for row in self.rows)
    return prefill_ticks(
      longest - 1, chunk=self.prefill_chunk, num_stages=self.num_stages
    )

  @property
  def predicted_decode_ticks(self) -> int:
    """Return what the latency model makes of the rows' exits."""
    return decode_ticks([row.exit_stages for row in self.rows])

  @property
  def speedup(self) -> float:
    """Return how many times fewer ticks exits made of decoding."""
    exit_stages = [row.exit_stages for row in self.rows]
    return speedup(exit_stages, num_stages=self.num_stages)
