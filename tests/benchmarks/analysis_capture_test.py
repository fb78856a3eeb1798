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
"""Test that planted models hold what `planted_error` promises."""

import argparse
import importlib
import pathlib

import pytest

from eejax.testing import planted

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture
def benchmark(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  return importlib.import_module('analysis_capture')


def test_every_metric_equals_its_closed_form(benchmark):
  error, detail = benchmark.planted_error(argparse.Namespace())
  assert error <= 1e-5, detail['by_metric']
  assert len(detail['by_model']) == 5
  assert len(detail['by_metric']) >= 20


def test_an_error_would_show(benchmark, monkeypatch):
  # A plan that says other confidences than its model has.
  monkeypatch.setattr(
    planted,
    'planted_params',
    lambda plan, make=planted.planted_params: make(
      type(plan)(
        **{**vars(plan), 'answer_confidence': plan.answer_confidence - 1e-4}
      )
    ),
  )
  errors = benchmark._errors(benchmark._plans()['a known mix of depths'])
  assert errors['entropy'] > 1e-5
  assert errors['ece'] > 1e-5
