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
"""Tests of names, settings and criteria of users."""

import dataclasses

import jax.numpy as jnp
import pytest

from eejax.decoding.policy import criteria
from eejax.decoding.policy.criteria import Criterion, Evidence, Reads, registry
from eejax.errors import ArgumentError
from eejax.testing import tiny


@pytest.fixture(autouse=True)
def known(monkeypatch):
  """Let a test register what it likes."""
  monkeypatch.setattr(registry, '_CRITERIA', dict(registry._CRITERIA))


class Always(Criterion):
  name = 'always'
  reads = Reads.LOGITS

  def score(self, evidence):
    return jnp.ones(evidence.logits.shape[:-1])


@dataclasses.dataclass(frozen=True)
class Share(Criterion):
  count: int = 2
  weight: float = 0.5

  name = 'share'
  reads = Reads.NOTHING

  def score(self, evidence):
    return jnp.float32(self.weight / self.count)


def test_all_that_are_promised_are_there():
  assert criteria.criterion_names() == (
    'gate',
    'max_prob',
    'margin',
    'entropy',
    'patience',
    'cosine',
    'js',
    'kl',
    'static',
    'schedule',
  )


@pytest.mark.parametrize('name', criteria.criterion_names())
def test_every_criterion_says_what_it_is(name):
  criterion = criteria.get_criterion(name)
  assert criterion.name == name
  assert criteria.get_criterion(criterion.notation).notation == (
    criterion.notation
  )
  text = type(criterion).__doc__
  for part in ('score = ', 'Reference:'):
    assert part in text
  assert 'Range' in text or 'Values 0' in text


def test_an_unknown_criterion_is_refused_with_the_known_ones():
  with pytest.raises(ArgumentError, match='gate, max_prob, margin, entropy'):
    criteria.get_criterion('confidence')


@pytest.mark.parametrize('name', ['first_match', 'stable'])
def test_an_oracle_is_no_criterion(name):
  with pytest.raises(ArgumentError, match='evaluation.oracle_decoding'):
    criteria.get_criterion(name)


@pytest.mark.parametrize(
  'text, message',
  [
    ('margin(1)', 'criterion margin takes 0 numbers'),
    ('patience(2, 3)', 'takes 1 numbers'),
    ('patience(2.5)', 'patience must be a whole number'),
    ('patience(0)', 'at least 1'),
    ('patience(two)', 'not a number'),
    ('patience()', 'not a number'),
    ('patience(2', 'neither a name'),
  ],
)
def test_settings_that_make_no_sense_are_refused(text, message):
  with pytest.raises(ArgumentError, match=message):
    criteria.get_criterion(text)


def test_a_user_registers_a_criterion():
  assert criteria.register(Always()) == 'always'
  evidence = Evidence(logits=jnp.zeros((2, 3)))
  score = criteria.get_criterion('always').score(evidence)
  assert score.tolist() == [1, 1]


def test_a_user_s_criterion_has_settings_if_it_is_a_dataclass():
  assert criteria.register(Share(4)) == 'share(4, 0.5)'
  assert criteria.get_criterion('share(4, 0.5)') == Share(4, 0.5)
  assert criteria.get_criterion('share(8)') == Share(8)
  assert criteria.register(Share(8)) == 'share(8, 0.5)'


def test_a_name_means_one_kind_of_criterion():
  class Impostor(Always):
    name = 'max_prob'

  with pytest.raises(ArgumentError, match='already'):
    criteria.register(Impostor())


def test_what_is_read_says_what_it_costs():
  reads = {
    n: criteria.get_criterion(n).reads for n in criteria.criterion_names()
  }
  assert [n for n, r in reads.items() if not r.asks_head] == [
    'gate',
    'cosine',
    'static',
    'schedule',
  ]
  remembering = [n for n, r in reads.items() if r.remembers]
  assert remembering == ['patience', 'cosine', 'js', 'kl']


def test_the_default_follows_the_gates():
  gated = tiny.tiny_config('1:norm:gate,2:norm:mlp_gate')
  mixed = tiny.tiny_config('1:norm:gate,2:norm')
  assert criteria.default_criterion(gated) == 'gate'
  assert criteria.default_criterion(mixed) == 'max_prob'
  no_exits = dataclasses.replace(mixed, exits=())
  assert criteria.default_criterion(no_exits) == 'max_prob'
