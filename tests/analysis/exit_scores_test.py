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
"""Test that scores of a capture are those that decoding sees."""

import numpy as np
import pytest

from eejax.analysis.exit_scores import ALL, exit_scores, is_served
from eejax.capture.capture import CaptureConfig, capture
from eejax.capture.captured import ReadoutKind
from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.testing import tiny

CONFIG = tiny.tiny_config(
  '1:norm:gate,2:mlp:gate,4:norm:gate', num_layers=5, max_length=64
)
PROMPT, NEW = [3, 4, 5, 6], 24


def captured(params, row):
  ids = np.array([[*row.prompt_tokens, *row.tokens]], np.int32)
  shape = (1, ids.shape[1] - 1)
  text = Batch(
    tokens=ids[:, :-1],
    targets=ids[:, 1:],
    weights=np.ones(shape, np.float32),
    positions=np.arange(shape[1], dtype=np.int32)[None],
    segment_ids=np.ones(shape, np.int32),
  )
  read = capture(
    params, [text], config=CONFIG, settings=CaptureConfig(num_candidates=2)
  )
  return read.only(ReadoutKind.EXIT)


# Low thresholds, so that tokens leave at every exit.
@pytest.mark.parametrize(
  'criterion, threshold',
  [
    ('max_prob', 0.06),
    ('margin', 0.02),
    ('entropy', 0.01),
    ('patience(2)', 0.5),
    ('patience(1)', 1.0),
    ('js', 0.9),
    ('gate', 0.5),
  ],
)
def test_scores_are_those_of_decoding(criterion, threshold):
  params = tiny.tiny_params(CONFIG)
  params['exits'] = {
    name: {k: scaled(v) for k, v in exit.items()}
    for name, exit in params['exits'].items()
  }
  row = generate(
    params,
    config=CONFIG,
    prompts=[PROMPT],
    policy=Policy(Mode.EARLY_EXIT, criterion, (threshold,), window=6),
    max_new_tokens=NEW,
    eos_ids=(),
  ).rows[0]
  read = captured(params, row)
  scores = exit_scores(read, criterion)
  place = {int(r.depth): i for i, r in enumerate(read.readouts[:-1])}
  compared = 0
  for t, (depth, score) in enumerate(
    zip(row.exit_depths, row.scores, strict=True)
  ):
    at = len(PROMPT) - 1 + t
    if score is not None:
      assert scores[place[depth], at] == pytest.approx(score, abs=1e-5)
      compared += 1
    before = [i for d, i in place.items() if d < depth]
    if depth < 5:
      assert (scores[before, at] < threshold + 1e-5).all()
  assert 0 < compared < NEW


def scaled(tree):
  import jax

  return jax.tree.map(lambda leaf: 3 * leaf, tree)


def test_every_score_is_one_of_a_capture():
  params = tiny.tiny_params(CONFIG)
  row = generate(
    params, config=CONFIG, prompts=[PROMPT], max_new_tokens=3, eos_ids=()
  ).rows[0]
  read = captured(params, row)
  for criterion in ALL:
    assert is_served(read, criterion)
    scores = exit_scores(read, criterion)[:-1]
    assert scores.shape == (3, 6)
    assert (scores >= 0).all() and (scores <= 1).all()
  # The first exit has none to compare with.
  for criterion in ('js', 'hidden_cosine', 'patience(2)'):
    assert (exit_scores(read, criterion)[0] == 0).all()
