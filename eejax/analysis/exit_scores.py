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
"""Scores of captured read-outs, as the decoder's criteria define them.

A captured text keeps, of each read-out's distribution, what a criterion makes
its score of, so scores are computed by the criteria of
`eejax.decoding.policy.criteria` themselves, without running the model again.
"Before" is the read-out before as captured: read-outs that were left out since
count, but for `patience`, which is asked of the read-outs that are there.

`hidden_cosine` alone is no criterion of the decoder: it is the cosine with the
read-out before of what the output matrices read, after the norm, where the
criterion `cosine` compares the streams before it.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from eejax.capture.captured import Captured
from eejax.decoding.policy.criteria import (
  Criterion,
  Evidence,
  Patience,
  blank_memory,
  get_criterion,
  recall,
  remember,
)
from eejax.decoding.policy.criteria.distribution import (
  entropy_score,
  margin_score,
  probability_score,
)
from eejax.decoding.policy.criteria.neighbours import (
  compared_score,
  similarity_score,
)
from eejax.errors import ArgumentError
from eejax.types import Float

HIDDEN_COSINE = 'hidden_cosine'
# The array of a capture that each score is made of.
_NEEDS = {
  'max_prob': 'top_log_probs',
  'margin': 'top_log_probs',
  'entropy': 'entropy',
  'patience(2)': 'top_tokens',
  HIDDEN_COSINE: 'hidden_cosine_previous',
  'js': 'js_previous',
  'gate': 'gate_score',
}
# Every score that a capture can serve.
ALL = tuple(_NEEDS)


def exit_scores(captured: Captured, criterion: str) -> Float[np.ndarray, 'R N']:
  """Return the score of every read-out at every position, in [0, 1].

  Where a criterion compares with the read-out before and there is none, the
  score is 0, as in decoding. A read-out without a gate has NaN for `gate`.

  Args:
    captured: a text with the arrays that the criterion is made of.
    criterion: as a policy names it, such as `margin` or `patience(3)`, or
      `hidden_cosine`.

  Raises:
    ArgumentError: there is no such criterion, or the capture lacks what it is
      made of.

  Example:
    scores = exit_scores(captured, 'max_prob')[:-1]  # all but the full model's
  """
  if criterion == HIDDEN_COSINE:
    return np.asarray(_hidden_cosine(captured))
  asked = get_criterion(criterion)
  if isinstance(asked, Patience):
    return _patience(captured, asked)
  if asked.name not in _READERS:
    served = ', '.join(ALL)
    raise ArgumentError(
      f'the scores of {criterion} cannot be read from a captured text; there '
      f'are {served}.'
    )
  return np.asarray(_READERS[asked.name](captured))


def readable_criteria(captured: Captured) -> tuple[str, ...]:
  """Return which scores a capture has the arrays for at every read-out.

  `gate` is among them where every read-out but the last has one.
  """
  names = [name for name in ALL if _NEEDS[name] in captured]
  if captured.facts.num_candidates < 2:
    names = [name for name in names if name != 'margin']
  if 'gate' in names:
    gated = ~np.isnan(captured.gate_score[:-1]).any(axis=1)
    if not len(gated) or not gated.all():
      names.remove('gate')
  return tuple(names)


def is_served(captured: Captured, criterion: str) -> bool:
  """Return whether a capture has a score at some read-out but the last.

  A score that has nothing to compare with, or a gate that no exit has, says
  nothing anywhere.
  """
  needs = _NEEDS.get(criterion, 'top_tokens')
  if needs not in captured:
    return False
  if criterion == 'margin':
    return captured.facts.num_candidates > 1
  if criterion in (HIDDEN_COSINE, 'js', 'gate'):
    return not np.isnan(captured[needs][:-1]).all()
  return True


def asks_head(criterion: str) -> bool:
  """Return whether a score costs an output matrix wherever it is asked."""
  if criterion == HIDDEN_COSINE:
    return False
  return get_criterion(criterion).reads.asks_head


def _max_prob(captured: Captured):
  return probability_score(captured.top_log_probs[..., 0])


def _margin(captured: Captured):
  if captured.facts.num_candidates < 2:
    raise ArgumentError(
      'margin needs two candidates; capture the text with more.'
    )
  log_probs = captured.top_log_probs
  return margin_score(log_probs[..., 0], log_probs[..., 1])


def _entropy(captured: Captured):
  return entropy_score(captured.entropy, vocab_size=captured.facts.vocab_size)


def _js(captured: Captured):
  js = captured.js_previous
  return compared_score(
    similarity_score(jnp.nan_to_num(js, nan=0.0)), has_previous=~np.isnan(js)
  )


def _hidden_cosine(captured: Captured):
  cosine = captured.hidden_cosine_previous
  return compared_score(
    jnp.nan_to_num(cosine, nan=0.0), has_previous=~np.isnan(cosine)
  )


def _gate(captured: Captured):
  # A capture keeps what `GateScore` returns.
  return captured.gate_score


_READERS: Mapping[str, Callable[[Captured], object]] = {
  'max_prob': _max_prob,
  'margin': _margin,
  'entropy': _entropy,
  'js': _js,
  'gate': _gate,
}


def _patience(
  captured: Captured, criterion: Criterion
) -> Float[np.ndarray, 'R N']:
  """Return the score of a streak, read-out after read-out as in decoding."""
  top1 = np.asarray(captured.top1)
  count = top1.shape[1]
  positions, rows = jnp.zeros(count, jnp.int32), jnp.ones(count, bool)
  memory = blank_memory(
    criterion.reads, batch_size=count, num_scored=0, embed_dim=0
  )
  scores = []
  for index, tokens in enumerate(top1):
    shown = Evidence(top_token=jnp.asarray(tokens, jnp.int32), exit_index=index)
    shown = recall(shown, memory, positions=positions)
    scores.append(np.asarray(criterion.score(shown)))
    memory = remember(memory, shown, positions=positions, rows=rows)
  return np.stack(scores)
