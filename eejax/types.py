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
"""Dimension letters and array types used in every signature.

Letters (a dimension means the same thing everywhere):

  B batch          T query length   S key/value length   D embed
  N query heads    K key/value heads                     G = N // K
  H head_dim       F mlp            V vocab              L blocks
  E exits          R bottleneck rank                     W decode window
  P pipeline stages                 M microbatches
  X experts          J experts of a token                Y F of one expert
  I inner width of a state-space mixer

A *depth* is a number of blocks run, 0..L. An exit at depth e reads the
residual stream after e blocks; depth L is the final head's place.
"""

from typing import Any

from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Integer, Num

PyTree = Any
# A nested dict of arrays, laid out as `eejax.models.decoder` documents.
Params = dict[str, Any]

__all__ = [
  'Array',
  'Bool',
  'DTypeLike',
  'Float',
  'Int',
  'Integer',
  'Num',
  'Params',
  'PyTree',
]
