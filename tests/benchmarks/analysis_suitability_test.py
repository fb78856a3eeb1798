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
"""Test the benchmark of suitability, cut short: it runs and adds up."""

import argparse
import dataclasses
import importlib
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'
ARGS = argparse.Namespace(steps=2, seeds=1, draws=40)


@pytest.fixture(scope='module')
def script():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module('analysis_suitability')
    small = dataclasses.replace(found.MODEL, num_layers=2, embed_dim=16)
    patch.setattr(found, 'MODEL', small)
    patch.setattr(found, 'FILES', 8)
    patch.setattr(found, 'LENGTH', 32)
    patch.setattr(found, 'ROWS', 2)
    patch.setattr(found, 'HELD_OUT_TOKENS', 256)
    yield found


def test_the_figures_are_those_of_the_table(script):
  assert list(script.FIGURES) == [
    'joint_vs_plain',
    'dynamics',
    'bootstrap_coverage',
  ]


def test_coverage_is_near_the_nominal_one(script):
  worst, detail = script.bootstrap_coverage(ARGS)
  shares = detail['coverage'].values()
  assert worst in shares and min(shares) >= 0.8
  assert abs(worst - 0.95) == max(abs(s - 0.95) for s in shares)


def test_joint_against_plain_and_their_training(script):
  held, detail = script.joint_vs_plain(ARGS)
  found = detail['seeds'][0]['joint_read_at_its_exits']
  assert held == float(found['verdict'].startswith('The claim holds'))
  for figure in (found['ceilings']['stable'], found['gate_skip']):
    gap = figure['joint']['value'] - figure['plain']['value']
    assert figure['gap']['value'] == pytest.approx(gap, abs=1e-6)
  change, maps = script.training_dynamics(ARGS)
  steps = maps['plain']['steps']
  assert [s['step'] for s in steps] == [0, 1, 2]
  assert change == pytest.approx(
    steps[-1]['stable']['value'] - steps[0]['stable']['value'], abs=1e-6
  )
  # Both start from the same parameters.
  first = [maps[name]['steps'][0]['loss'] for name in ('plain', 'joint')]
  assert first[0] == pytest.approx(first[1], abs=1e-5)
