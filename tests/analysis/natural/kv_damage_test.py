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
"""Test the damage of stand-ins for keys and values."""

import jax
import numpy as np
import pytest

from eejax.analysis.natural.kv_damage import (
  Decider,
  compare_texts,
  kv_damage,
)
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import Bootstrap
from eejax.testing import planted, tiny

FEW = Bootstrap(draws=50)
PROMPTS = [[5, 6, 7], [8, 9], [11], [12, 3]]
GATE = Policy(Mode.EARLY_EXIT, 'max_prob', (0.3, 0.4))


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm,3:norm')
  # Larger weights, for fresh ones say nearly the same of every token.
  params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config))
  return config, params


def run(model, **fields):
  config, params = model
  arguments = {
    'strategies': (KVStrategy.PROPAGATE, KVStrategy.MASK),
    'new_tokens': 12,
    'stretch': 5,
    'bootstrap': FEW,
    'policy': GATE,
    'prompts': PROMPTS,
    **fields,
  }
  return kv_damage(params, config=config, **arguments)


@pytest.fixture(scope='module')
def found(model):
  return run(model)


def test_both_kinds_of_error_are_there(found):
  assert found.wrong_tokens.skip.value > 0
  assert found.wrong_tokens.strategy is KVStrategy.DEFERRED
  for strategy, damage in found.wrong_keys_and_values.items():
    assert damage.strategy is strategy
    assert damage.decider is Decider.ORACLE
    assert damage.skip.value > 0
    # Exact keys and values would leave the text as it is.
    assert damage.divergence.value < 12
  texts = [found.wrong_tokens, *found.by_strategy.values()]
  assert min(d.divergence.value for d in texts) < 12


def test_stretches_cover_the_text(found):
  spans = [(s.begin, s.end) for s in found.wrong_tokens.stretches]
  assert spans == [(0, 5), (5, 10), (10, 12)]
  for damage in found.by_strategy.values():
    shares = [s.agreement.value for s in damage.stretches]
    # What follows a difference does not count.
    assert shares == sorted(shares, reverse=True)
    assert all(s.agreement.value <= s.same.value for s in damage.stretches)


def test_an_oracle_with_exact_keys_and_values_does_no_harm(model):
  exact = run(model, strategies=(KVStrategy.DEFERRED,))
  damage = exact.wrong_keys_and_values[KVStrategy.DEFERRED]
  assert damage.unharmed.value == 1.0
  assert damage.divergence.value == 12.0
  assert damage.skip.value > 0


def test_stand_ins_of_idle_blocks_do_no_harm(model):
  # Above depth 1 the stream stays, so projecting it from there is exact.
  config, params = model
  idle = planted.idle_from(params, 1)
  norm = idle['backbone']['final_norm']
  idle['exits'] = {e.name: {'norm': norm} for e in config.exits}
  always = Policy(Mode.EARLY_EXIT, 'max_prob', (1e-9, 1e-9))
  harmless = run(
    (config, idle), policy=always, strategies=(KVStrategy.PROPAGATE,)
  )
  damage = harmless.by_strategy[KVStrategy.PROPAGATE]
  assert damage.skip.value == pytest.approx(0.75)
  assert damage.unharmed.value == 1.0


def test_texts_by_hand():
  full = [[1, 2, 3, 4], [5, 6, 7, 8]]
  found = compare_texts(
    [[1, 2, 9, 4], [5, 6, 7, 8]],
    full,
    depths=[np.array([1, 1, 4, 4]), np.array([4, 4, 4, 4])],
    num_layers=4,
    strategy=KVStrategy.COPY,
    decider=Decider.GATE,
    stretch=2,
    bootstrap=FEW,
  )
  assert found.unharmed.value == 0.5
  assert found.divergence.value == 3.0
  assert found.skip.value == pytest.approx(1.5 / 8)
  first, second = found.stretches
  assert (first.agreement.value, first.same.value) == (1.0, 1.0)
  assert (second.agreement.value, second.same.value) == (0.5, 0.75)


def test_bad_settings(model):
  with pytest.raises(ArgumentError, match='mode full'):
    run(model, policy=Policy())
  with pytest.raises(ArgumentError, match='at least 1'):
    run(model, stretch=0)
