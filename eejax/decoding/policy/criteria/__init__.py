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
"""Criteria: numbers that say how safe it is to exit.

    name         reads                          costs
    gate         a trained probe of the stream  no head
    cosine       the streams of two exits       no head
    static       the depth                      nothing
    schedule     the position                   nothing
    max_prob     the exit's logits              a head for each row that asks
    margin       likewise                       likewise
    entropy      likewise                       likewise
    patience     likewise, of several exits     likewise
    js, kl       the logits of two exits        likewise

Oracles compare with the final output, so nothing can be decoded by them; see
`eejax.evaluation.oracle_decoding`.

Add your own with `register`: one class with `name`, `reads` and `score`.
"""

from eejax.decoding.policy.criteria.criterion import Criterion, Evidence, Reads
from eejax.decoding.policy.criteria.distribution import (
  Entropy,
  Margin,
  MaxProbability,
)
from eejax.decoding.policy.criteria.fixed import DepthSchedule, Static
from eejax.decoding.policy.criteria.gates import GateScore
from eejax.decoding.policy.criteria.memory import (
  Memory,
  blank_memory,
  recall,
  remember,
)
from eejax.decoding.policy.criteria.neighbours import (
  Cosine,
  JensenShannon,
  KullbackLeibler,
  Patience,
)
from eejax.decoding.policy.criteria.registry import (
  criterion_names,
  default_criterion,
  get_criterion,
  register,
)

__all__ = [
  'Cosine',
  'Criterion',
  'Entropy',
  'Evidence',
  'GateScore',
  'JensenShannon',
  'KullbackLeibler',
  'Margin',
  'MaxProbability',
  'Memory',
  'Patience',
  'Reads',
  'DepthSchedule',
  'Static',
  'blank_memory',
  'criterion_names',
  'default_criterion',
  'get_criterion',
  'recall',
  'register',
  'remember',
]
