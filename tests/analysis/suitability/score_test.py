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
"""Test scores against closed forms."""

import dataclasses
import math

import numpy as np
import pytest

from eejax.analysis.suitability.score import (
  DepthRange,
  ScoreSettings,
  Similarity,
  eas_of_draws,
  largest_score,
  relative,
  score,
  similarity,
  top_k_overlap,
)
from eejax.capture.captured import ReadoutKind
from eejax.errors import ArgumentError, EejaxError
from eejax.stats.bootstrap import Interval, draw_rows

LAYERS = 4


def by_hand(values, *, alpha, depths, layers=LAYERS):
  return np.mean(
    [
      s**alpha * (1 - d / layers) ** (1 - alpha)
      for s, d in zip(values, depths, strict=True)
    ]
  )


@pytest.mark.parametrize('kind', Similarity)
def test_identical_depths_reach_the_largest_score(planted, kind):
  logits = np.random.default_rng(0).normal(size=(1, 24, 11))
  captured = planted.of_logits(np.repeat(logits, LAYERS + 1, axis=0))
  settings = ScoreSettings(similarity=kind, top_k=3)
  found = score(captured, settings=settings)
  assert found.eas.value == pytest.approx(
    by_hand([1] * 3, alpha=0.5, depths=[1, 2, 3]), abs=1e-5
  )
  assert found.normalised.value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
  'depths, counted',
  [
    (DepthRange.INNER, [1, 2, 3]),
    (DepthRange.WITH_LAST, [1, 2, 3, 4]),
    (DepthRange.WITH_EMBEDDING, [0, 1, 2, 3]),
  ],
)
@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
def test_the_definition(mixed, alpha, depths, counted):
  settings = ScoreSettings(Similarity.TOP1, alpha=alpha, depths=depths)
  found = score(mixed, settings=settings)
  agreement = mixed.agree.mean(axis=1)
  assert found.eas.value == pytest.approx(
    by_hand(agreement[counted], alpha=alpha, depths=counted), abs=1e-6
  )
  assert found.eas.low < found.eas.value < found.eas.high or alpha == 0
  assert [s.value for s in found.similarity] == pytest.approx(agreement)
  assert (found.tokens, found.rows) == (96, 12)


def test_the_largest_score_of_a_deep_model():
  # The mean of sqrt(1 - x) over 0 to 1 is 2/3.
  depths = np.arange(1001.0)
  assert largest_score(depths, 1000, ScoreSettings()) == pytest.approx(
    2 / 3, abs=1e-3
  )


def test_a_constant_added_to_logits_changes_nothing(planted):
  logits = np.random.default_rng(1).normal(size=(3, 16, 11))
  shifted = logits + np.array([0.0, 50.0, -3.0])[:, None, None]
  plain, moved = (score(planted.of_logits(x)) for x in (logits, shifted))
  assert plain.eas.value == pytest.approx(moved.eas.value, abs=1e-9)


def test_opposite_logits_count_as_nothing(planted):
  logits = np.random.default_rng(2).normal(size=(1, 16, 11))
  captured = planted.of_logits(np.concatenate([-logits, -logits, logits]))
  assert score(captured).eas.value == 0
  assert captured.logit_cosine[0] == pytest.approx(-np.ones(16))


def test_top_k_overlap_by_hand(planted):
  ranks = lambda order: -np.argsort(order)[None].astype(float)
  captured = planted.of_logits(
    np.stack([ranks([0, 1, 2, 3, 4]), ranks([3, 1, 0, 4, 2])])
  )
  overlap = lambda k: top_k_overlap(captured, k=k)[0, 0]
  assert [overlap(k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 2, 2 / 3])
  with pytest.raises(ArgumentError, match='kept 4'):
    overlap(5)


def test_js_of_unlike_distributions_is_nothing(planted):
  captured = planted.of_logits(
    planted.logits_of_tokens([[1] * 8, [2] * 8, [3] * 8], sure=60.0)
  )
  settings = ScoreSettings(Similarity.JS)
  assert similarity(captured, settings)[:2] == pytest.approx(0, abs=1e-6)
  assert similarity(captured, settings)[2] == pytest.approx(1)


def test_positions_outside_the_range_do_not_count(mixed, planted):
  settings = ScoreSettings(Similarity.TOP1, first_position=2, last_position=4)
  inside = np.isin(mixed.position, [2, 3, 4])
  found = score(mixed, settings=settings)
  alone = score(
    mixed.at_positions(inside), settings=ScoreSettings(Similarity.TOP1)
  )
  assert found.eas == alone.eas
  assert 'positions 2 to 4' in found.settings
  with pytest.raises(ArgumentError, match='no position'):
    score(mixed, settings=ScoreSettings(first_position=99))


def test_draws_of_every_row_once_give_the_score(mixed):
  settings = ScoreSettings()
  once = eas_of_draws(mixed, np.ones((1, 12)), settings)
  assert once[0] == pytest.approx(score(mixed).eas.value)
  assert np.std(eas_of_draws(mixed, draw_rows(12), settings)) > 0


def test_settings_stand_beside_the_score(mixed):
  found = score(mixed, settings=ScoreSettings(Similarity.TOP_K, top_k=2))
  assert found.settings == 'top_k, K 2, alpha 0.5, depths 1 to L-1, ' + (
    'all positions'
  )
  assert found.name == 'EAS (eejax definition)'


def test_other_read_outs_do_not_count(mixed, planted):
  kinds = [ReadoutKind.NATURAL] * 5
  kinds[2] = ReadoutKind.EXIT
  found = score(planted.with_kinds(mixed, kinds))
  assert found.depths == (0, 1, 3, 4)


def test_numbers_that_are_not_finite_are_an_error(mixed, planted):
  broken = np.array(mixed.logit_cosine)
  broken[1, 3] = math.nan
  with pytest.raises(EejaxError, match='not finite'):
    score(planted.with_arrays(mixed, logit_cosine=broken))


def test_one_depth_is_not_compared(mixed):
  with pytest.raises(ArgumentError, match='one natural read-out'):
    score(mixed.at_readouts([4]))
  with pytest.raises(ArgumentError, match='depths 1 to 3'):
    score(mixed.at_readouts([0, 4]))


def test_relative_scores():
  reference = Interval(0.5, 0.45, 0.55)
  same = relative(reference, reference)
  assert same.value == 1
  assert same.low < 0.9 < 1.1 < same.high
  exact = relative(Interval(0.25, 0.25, 0.25), Interval(0.5, 0.5, 0.5))
  assert dataclasses.astuple(exact) == (0.5, 0.5, 0.5)
  with pytest.raises(ArgumentError, match='is none'):
    relative(reference, Interval(0.0, 0.0, 0.0))


@pytest.mark.parametrize(
  'fields',
  [{'alpha': 1.5}, {'top_k': 0}, {'first_position': 3, 'last_position': 2}],
)
def test_settings_are_checked(fields):
  with pytest.raises(ArgumentError):
    ScoreSettings(**fields)
