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
"""Test comparisons of models, with models whose answers are planted."""

import numpy as np
import pytest

from eejax.analysis.comparison import compare
from eejax.analysis.manifest import parse_manifest
from eejax.analysis.suitability.skip import Quality
from eejax.capture.capture import capture
from eejax.errors import CheckpointError
from eejax.stats.bootstrap import Bootstrap
from eejax.testing.planted import PlantedPlan, planted_params, token_batch

FEW = Bootstrap(draws=100)
# Depths at which the tokens of each model settle, of 3 blocks.
PLANS = {
  'early': [1] * 7,
  'mixed': [1, 1, 2, 2, 3, 3, 3],
  'late': [3] * 7,
}


def manifest(**reference):
  kinds = {'early': 'dense', 'mixed': 'dense', 'late': 'moe', 'broken': 'moe'}
  return parse_manifest(
    {
      'models': [
        {'name': n, 'checkpoint': n, 'kind': k, 'tuning': 'base'}
        for n, k in kinds.items()
      ],
      'data': [{'path': 'one'}, {'path': 'two'}],
      **reference,
    }
  )


@pytest.fixture(scope='module')
def captures():
  random = np.random.default_rng(0)
  texts = {
    name: [token_batch(*random.integers(0, 7, (2, 6, 8)))]
    for name in ('one', 'two')
  }
  found = {}
  for name, depths in PLANS.items():
    plan = PlantedPlan.settling(depths, num_layers=3)
    params = planted_params(plan)
    for text, batches in texts.items():
      found[name, text] = capture(params, batches, config=plan.config)
  return found


@pytest.fixture(scope='module')
def told():
  return []


@pytest.fixture(scope='module')
def compared(captures, told):
  def capture_of(entry, data):
    if entry.name == 'broken':
      raise CheckpointError('broken has no blocks.')
    if (entry.name, data.name) == ('late', 'two'):
      raise ZeroDivisionError('nothing to divide by')
    return captures[entry.name, data.name]

  return compare(
    manifest(reference='mixed'), capture_of, bootstrap=FEW, on_model=told.append
  )


def test_the_others_finish_and_the_report_says_which_failed(compared):
  assert compared.failures == (
    'late on two: stopped by ZeroDivisionError (nothing to divide by).',
    'broken on one: broken has no blocks.',
    'broken on two: broken has no blocks.',
  )
  late, broken = compared.models[2:]
  assert [t.data for t in late.texts] == ['one']
  assert late.eas is not None
  assert (broken.texts, broken.eas, broken.stable) == ((), None, None)


def test_scores_are_means_over_texts(compared):
  early, mixed, late = compared.models[:3]
  for model in (early, mixed):
    of_texts = [t.score.eas.value for t in model.texts]
    assert model.eas.value == pytest.approx(np.mean(of_texts))
  assert early.eas.value > mixed.eas.value > late.eas.value
  assert early.stable == pytest.approx(2 / 3)
  assert late.stable == 0


def test_relative_to_the_reference(compared):
  early, mixed, late, broken = compared.models
  assert mixed.relative.value == 1
  ratio = early.eas.value / mixed.eas.value
  assert early.relative.value == pytest.approx(ratio)
  assert early.relative.low <= ratio <= early.relative.high
  assert late.relative.value < 1
  assert broken.relative is None


def test_skips_for_every_budget_and_quality(compared):
  early = compared.models[0].texts[0]
  budgets = [(s.quality, s.budget) for s in early.skips]
  assert budgets == [(q, e) for q in Quality for e in (0.0, 0.01, 0.05)]
  # All tokens settle at depth 1 of 3, so all may leave there.
  assert early.skips[0].skip.value == pytest.approx(2 / 3)


def test_groups(compared):
  # Nothing tells models apart by tuning; size and family are unknown.
  assert [(g.fact, g.value) for g in compared.groups] == [
    ('kind', 'dense'),
    ('kind', 'moe'),
  ]
  dense, moe = compared.groups
  assert (dense.models, moe.models) == (('early', 'mixed'), ('late',))
  assert dense.eas.value == pytest.approx(
    np.mean([m.eas.value for m in compared.models[:2]])
  )
  assert dense.eas.low <= dense.eas.value <= dense.eas.high


def test_each_model_is_told_when_it_is_there(compared, told):
  assert [r.entry.name for r in told] == ['early', 'mixed', 'late', 'broken']
  assert compared.reference == 'mixed'
  assert 'alpha 0.5' in compared.settings


def test_without_a_reference_nothing_is_relative(captures):
  found = compare(
    manifest(), lambda e, d: captures[e.name, d.name], bootstrap=FEW
  )
  assert [m.relative for m in found.models] == [None] * 4
