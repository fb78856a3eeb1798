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
"""What scores a read-out when it is asked whether to stop; higher is safer.

Every gate is read from a captured text, so all of them are compared on the
same tokens without running the model again.
"""

import enum
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eejax.capture.captured import Captured
from eejax.errors import EejaxError
from eejax.types import Float, Int


class Gate(enum.Enum):
  """What scores a read-out.

  MAX_PROB: probability of the likeliest token. MARGIN: less that of the next.
  ENTROPY: 1 - H(p) / ln V. PATIENCE: how many read-outs in a row, this one
  included, said the same, over the number of read-outs. HIDDEN_COSINE: cosine
  with the read-out before. JS: 1 - JS(p, p before) / ln 2. TRAINED: the exit's
  own gate, where there is one.
  """

  MAX_PROB = 'max_prob'
  MARGIN = 'margin'
  ENTROPY = 'entropy'
  PATIENCE = 'patience'
  HIDDEN_COSINE = 'hidden_cosine'
  JS = 'js'
  TRAINED = 'trained'

  @property
  def reads_logits(self) -> bool:
    """Return whether a score costs an output matrix."""
    return self not in (Gate.HIDDEN_COSINE, Gate.TRAINED)


def gate_scores(
  captured: Captured, gates: Sequence[Gate] = tuple(Gate)
) -> Mapping[Gate, Float[np.ndarray, 'X N']]:
  """Return the scores of every read-out but the last, by gate.

  Gates whose arrays the capture lacks are left out, as is a gate that no exit
  has.

  Raises:
    EejaxError: a score is not finite.
  """
  found = {}
  for gate in gates:
    needs, function = _GATES[gate]
    if needs not in captured:
      continue
    scores = function(captured)[:-1]
    if gate is Gate.TRAINED or gate in _AGAINST_BEFORE:
      missing = np.asarray(np.isnan(scores).all(axis=1))
      if missing.all():
        continue
      # An exit without a score of its own is never taken.
      scores = np.where(missing[:, None], -np.inf, scores)
    if np.isnan(scores).any():
      raise EejaxError(
        f'the model returns numbers that are not finite (gate {gate.value}); '
        'the checkpoint is damaged, or its numbers do not fit the compute '
        'dtype (try float32).'
      )
    found[gate] = scores
  return found


def patience(top1: Int[np.ndarray, 'R N']) -> Float[np.ndarray, 'R N']:
  """Return how many read-outs in a row said the same, over their number."""
  run = np.ones(top1.shape, np.float32)
  for i in range(1, len(top1)):
    run[i] = np.where(top1[i] == top1[i - 1], run[i - 1] + 1, 1)
  return run / len(top1)


def _margin(captured: Captured):
  if captured.top_log_probs.shape[-1] < 2:
    return np.full(captured.top_log_probs.shape[:2], np.nan, np.float32)
  best = np.exp(captured.top_log_probs[..., :2])
  return best[..., 0] - best[..., 1]


_Scores = Callable[[Captured], np.ndarray]
_GATES: Mapping[Gate, tuple[str, _Scores]] = {
  Gate.MAX_PROB: (
    'top_log_probs',
    lambda c: np.exp(c.top_log_probs[..., 0]),
  ),
  Gate.MARGIN: ('top_log_probs', _margin),
  Gate.ENTROPY: (
    'entropy',
    lambda c: 1 - c.entropy / math.log(max(c.facts.vocab_size, 2)),
  ),
  Gate.PATIENCE: ('top_tokens', lambda c: patience(c.top1)),
  Gate.HIDDEN_COSINE: (
    'hidden_cosine_previous',
    lambda c: c.hidden_cosine_previous,
  ),
  Gate.JS: ('js_previous', lambda c: 1 - c.js_previous / math.log(2)),
  Gate.TRAINED: ('gate_score', lambda c: c.gate_score),
}
# The first read-out of all has none before it.
_AGAINST_BEFORE = (Gate.HIDDEN_COSINE, Gate.JS, Gate.MARGIN)
