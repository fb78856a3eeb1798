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
"""How many ticks pipelined decoding takes: plain arithmetic.

A tick is one run of every stage, all at once; it lasts as long as the slowest
stage. With P stages, numbered from 0, and e(r, t) the stage at whose head
token t of row r was emitted:

    prefill = ceil(n / C) + P - 1        0 if n = 0
    decode  = max over r of  sum over t of  e(r, t) + 1

n is the longest prompt without its last token, in chunks of C tokens. A token
is emitted at the end of its tick on stage e and the row's next one enters
stage 0 in the tick that follows: filling deeper keys and values costs no time.

Reference:
  Chen et al. (2023), EE-LLM (arXiv 2312.04916), pipeline-based inference,
  where the latency of a token is the time of the stages up to its exit.
"""

from collections.abc import Sequence


def prefill_ticks(length: int, *, chunk: int, num_stages: int) -> int:
  """Return the ticks until every stage has seen prompts of `length` tokens.

  Args:
    length: tokens of the longest prompt that go through before decoding.
    chunk: tokens of a row that go through a stage together.
    num_stages: P.
  """
  if length == 0:
    return 0
  return -(-length // chunk) + num_stages - 1


def decode_ticks(exit_stages: Sequence[Sequence[int]]) -> int:
  """Return the ticks until the last token of all rows is emitted.

  Args:
    exit_stages: for each row, the stage each of its tokens was emitted at.
  """
  return max((_row_ticks(row) for row in exit_stages), default=0)


def speedup(exit_stages: Sequence[Sequence[int]], *, num_stages: int) -> float:
  """Return how many times fewer ticks that is than without exits.

  Without them every token takes P ticks, so the speed-up lies in [1, P].
  """
  full = max((num_stages * len(row) for row in exit_stages), default=0)
  return full / max(decode_ticks(exit_stages), 1) if full else 1.0


def _row_ticks(exit_stages: Sequence[int]) -> int:
  return sum(stage + 1 for stage in exit_stages)
