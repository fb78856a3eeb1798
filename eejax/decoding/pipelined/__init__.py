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
"""Pipeline-based inference: early exit on a mesh, with exact keys and values.

Blocks are laid over the devices of a mesh axis `stage`. A token that exits at
a stage starts the next token on the first stage at once, while the deeper
stages go on and fill the exited token's keys and values. The work a token
costs is that of the whole model; what is saved is its latency.

Rows of a batch do not queue. In a step every stage runs once, for each row
that has a token there, and a row's tokens move on by one stage every step; so
each row takes as many steps as if it were alone. Two stages (A, B), two rows;
row 0 exits at stage A with every token, row 1 with its second only:

    step         0    1    2    3
    row 0    A   t0   t1   t2   t3
             B        t0   t1   t2     keys and values of exited tokens
    row 1    A   u0        u1   u2
             B        u0        u1

A row's token therefore never meets another of the same row, and reaches each
stage before the tokens that follow it: keys and values are those of a full
pass, with no window to bound how many tokens wait for theirs.

Reference:
  Chen et al. (2023), EE-LLM (arXiv 2312.04916), pipeline-based inference.
"""
