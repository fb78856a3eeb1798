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
"""Test what read-outs are worth, against counts and closed forms."""

import collections

import numpy as np
import pytest

from eejax.analysis.natural.curves import (
  curves,
  kappa,
  overlap,
  row_counts,
)
from eejax.capture.captured import ReadoutKind
from eejax.stats.bootstrap import Bootstrap

FEW = Bootstrap(draws=50)


def kappa_by_counting(here, final):
  """Return Cohen's kappa from a table of counts."""
  total = len(here)
  first, second = collections.Counter(here), collections.Counter(final)
  agreed = sum(a == b for a, b in zip(here, final, strict=True)) / total
  chance = sum(first[v] * second[v] for v in first) / total**2
  return (agreed - chance) / (1 - chance)


def test_kappa_of_a_table_of_two():
  # Cohen's form worked by hand: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no:
  # agreed 0.7, by chance 0.5, so (0.7 - 0.5) / 0.5.
  here = [1] * 25 + [0] * 25
  final = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
  assert kappa_by_counting(here, final) == pytest.approx(0.4)


def test_kappa_is_agreement_beyond_chance(by_hand):
  random = np.random.default_rng(0)
  final = random.integers(0, 6, 80)
  here = np.where(random.random(80) < 0.5, final, random.integers(0, 3, 80))
  captured = by_hand([here, final], row=np.arange(80) // 8)
  found = kappa(captured, 0, bootstrap=FEW)
  assert found.value == pytest.approx(
    kappa_by_counting(here.tolist(), final.tolist())
  )
  assert found.low < found.value < found.high
  assert kappa(captured, 1, bootstrap=FEW).value == pytest.approx(1.0)


def test_kappa_of_few_drawn_tokens_has_the_same_value(by_hand, monkeypatch):
  random = np.random.default_rng(1)
  top1 = random.integers(0, 11, (2, 60))
  captured = by_hand(top1, row=np.arange(60) // 6)
  whole = kappa(captured, 0, bootstrap=FEW)
  monkeypatch.setattr('eejax.analysis.natural.curves._DRAWN_TOKENS', 4)
  few = kappa(captured, 0, bootstrap=FEW)
  assert few.value == pytest.approx(whole.value)
  assert few.low == pytest.approx(whole.low, abs=0.05)


def test_agreement_where_one_token_is_all_that_is_said(by_hand):
  captured = by_hand(np.zeros((2, 6), int))
  assert kappa(captured, 0).value == 0.0


def test_overlap_by_hand():
  ours = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
  theirs = np.array([[4, 3, 9, 0], [1, 2, 3, 4]])
  assert overlap(ours, theirs).tolist() == [0.5, 0.0]


def test_curves_of_a_planted_model(captured, settles, plan):
  found = curves(captured, bootstrap=FEW)
  answers = np.array(plan.answers)[captured.token]
  guesses = np.array(plan.guesses)[captured.token]
  for figures in found:
    depth = figures.readout.depth
    # Attention moves the second block's answers half a block ahead.
    there = settles <= (2 if depth == 1.5 else depth)
    assert figures['agreement'].value == pytest.approx(there.mean())
    said = np.where(there, answers, guesses)
    assert figures['accuracy'].value == pytest.approx(
      (said == captured.target).mean()
    )
    if 0 < there.mean() < 1:
      assert figures['kappa'].value == pytest.approx(
        kappa_by_counting(said.tolist(), answers.tolist())
      )
    # Candidates: what is said, then the lowest tokens that are left.
    best = [{int(s), *[v for v in range(11) if v != s][:3]} for s in said]
    last = [{int(s), *[v for v in range(11) if v != s][:3]} for s in answers]
    shared = [len(a & b) / 4 for a, b in zip(best, last, strict=True)]
    assert figures['overlap'].value == pytest.approx(np.mean(shared))
    assert figures['kl_final'].value == pytest.approx(
      captured.kl_final[captured.readouts.index(figures.readout)].mean(),
      abs=1e-6,
    )


def test_figures_that_were_not_captured_are_left_out(by_hand):
  found = curves(by_hand([[1, 2], [1, 1]], loss=[[1, 3], [1, 1]]))
  assert set(found[0].figures) == {
    'loss',
    'agreement',
    'kappa',
    'accuracy',
    'overlap',
  }
  assert found[0]['loss'].value == 2.0
  assert found[0]['agreement'].value == 0.5


def test_counts_by_row(by_hand):
  captured = by_hand(np.zeros((2, 5), int), row=[4, 4, 7, 7, 7])
  bins = np.array([0, 2, 1, 1, 2])
  found = row_counts(captured, bins, bins=3)
  assert found.tolist() == [[1, 0, 1], [0, 2, 1]]
  doubled = row_counts(captured, bins, bins=3, values=np.arange(5.0))
  assert doubled.tolist() == [[0, 0, 1], [0, 5, 4]]


def test_only_natural_readouts_can_be_asked_for(captured):
  found = curves(captured.only(ReadoutKind.NATURAL), bootstrap=FEW)
  assert [f.readout.depth for f in found] == [0, 1, 2, 3, 4]
