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
"""The number of steps that pipelined decoding takes: plain arithmetic.

A step is one run of every stage, all at once; it lasts as long as the slowest
stage. With P stages, numbered from 0, and e(r, t) the stage at whose head
token t of row r was emitted:

    prefill = ceil(n / C) + P - 1        0 if n = 0
    decode  = max over r of  sum over t of  e(r, t) + 1

n is the longest prompt without its last token, in chunks of C tokens. A token
is emitted at the end of its step on stage e and the row's next one enters
stage 0 in the step that follows: filling deeper keys and values costs no time.

Reference:
  Chen et al. (2023), EE-LLM (arXiv 2312.04916), pipeline-based inference,
  where the latency of a token is the time of the stages up to its exit.
"""

from collections.abc import Sequence


def prefill_steps(length: int, *, chunk: int, num_stages: int) -> int:
  """Return the steps until every stage has seen prompts of `length` tokens.

  Args:
    length: tokens of the longest prompt that go through before decoding.
    chunk: tokens of a row that go through a stage together.
    num_stages: P.
  """
  if length == 0:
    return 0
  return -(-length // chunk) + num_stages - 1


def decode_steps(exit_stages: Sequence[Sequence[int]]) -> int:
  """Return the steps until the last token of all rows is emitted.

  Args:
    exit_stages: for each row, the stage each of its tokens was emitted at.
  """
  return max((_row_steps(row) for row in exit_stages), default=0)


def full_decode_steps(num_tokens: Sequence[int], *, num_stages: int) -> int:
  """Return the steps that decoding takes without exits: P a token.

  Args:
    num_tokens: how many tokens each row emits.
    num_stages: P.
  """
  return num_stages * max(num_tokens, default=0)


def stage_steps(
  exit_stages: Sequence[Sequence[int]], *, num_stages: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Return the steps in which each stage has work, and its head.

  A token enters stage 0 in the step after the one before it was emitted, and
  reaches stage s in the s-th step from there, unless all rows have ended.

  Args:
    exit_stages: for each row, the stage each of its tokens was emitted at.
    num_stages: P.

  Returns:
    For every stage, the steps in which some token passes it, and those in
    which some row has not emitted before.
  """
  end = decode_steps(exit_stages)
  passed = [set[int]() for _ in range(num_stages)]
  asked = [set[int]() for _ in range(num_stages)]
  for row in exit_stages:
    start = 0
    for exit_stage in row:
      for stage in range(min(num_stages, end - start)):
        passed[stage].add(start + stage)
        if stage <= exit_stage:
          asked[stage].add(start + stage)
      start += exit_stage + 1
  return tuple(map(len, passed)), tuple(map(len, asked))


def _row_steps(exit_stages: Sequence[int]) -> int:
  return sum(stage + 1 for stage in exit_stages)
