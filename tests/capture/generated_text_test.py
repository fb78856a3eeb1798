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
"""Test that a model's own text is captured as it was generated."""

import jax
import numpy as np
import pytest

from eejax.capture.capture import capture
from eejax.capture.captured import TextKind
from eejax.capture.generated_text import free_running
from eejax.capture.settings import CHEAP, About, CaptureConfig
from eejax.decoding.generate import generate
from eejax.errors import ArgumentError
from eejax.testing import tiny

PROMPTS = [[5, 6, 7], [8], [9, 10]]


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm')
  params = jax.tree.map(lambda x: 3 * x, tiny.tiny_params(config))
  return config, params


@pytest.fixture(scope='module')
def batches(model):
  config, params = model
  return list(
    free_running(
      params, config=config, prompts=PROMPTS, new_tokens=6, batch_size=2
    )
  )


def test_the_full_models_text_is_what_counts(model, batches):
  config, params = model
  assert [b.tokens.shape for b in batches] == [(2, 8), (2, 8)]
  result = generate(params, config=config, prompts=PROMPTS, max_new_tokens=6)
  rows = [
    (batch.targets[i][batch.weights[i] > 0]).tolist()
    for batch in batches
    for i in range(2)
  ]
  assert rows == [*(list(r.tokens) for r in result.rows), []]
  first = batches[0]
  assert first.tokens[0, :4].tolist() == [5, 6, 7, result.rows[0].tokens[0]]


def test_the_full_model_agrees_with_itself(model, batches):
  # Each generated token was the likeliest one where it was generated.
  config, params = model
  found = capture(
    params,
    batches,
    config=config,
    settings=CaptureConfig(fields=CHEAP, num_candidates=1),
    about=About(text=TextKind.FREE_RUNNING),
  )
  np.testing.assert_array_equal(found.top1[-1], found.target)
  assert found.facts.text is TextKind.FREE_RUNNING


def test_no_prompt(model):
  config, params = model
  with pytest.raises(ArgumentError, match='no prompt'):
    list(free_running(params, config=config, prompts=[]))
