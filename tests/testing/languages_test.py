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
"""Test that synthetic languages are as difficult as they say."""

import math

import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.testing.languages import (
  SEPARATOR,
  Brackets,
  Branching,
  Copying,
  Hopping,
  Mixture,
)

LANGUAGES = [
  Branching(),
  Copying(),
  Hopping(),
  Brackets(),
  Mixture((Copying(letters=3), Branching()), (1.0, 3.0)),
]


@pytest.mark.parametrize('language', LANGUAGES, ids=lambda x: type(x).__name__)
class TestEvery:
  def test_samples_are_tokens_of_one_length(self, language):
    sample = language.sample(5, 31)
    assert sample.tokens.shape == sample.entropy.shape == (5, 31)
    assert sample.tokens.min() >= 0
    assert sample.tokens.max() < language.vocab_size
    assert sample.kinds.max() < len(sample.kind_names)
    assert (sample.entropy >= 0).all()

  def test_equal_seeds_give_equal_text(self, language):
    first, same = language.sample(2, 20, seed=3), language.sample(2, 20, seed=3)
    other = language.sample(2, 20, seed=4)
    np.testing.assert_array_equal(first.tokens, same.tokens)
    assert (first.tokens != other.tokens).any()

  def test_a_batch_predicts_each_next_token(self, language):
    sample = language.sample(3, 12)
    batch = sample.batch()
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert batch.targets.shape == sample.target_entropy.shape
    assert batch.targets.shape == sample.target_kinds.shape


class TestBranching:
  def test_successors_are_as_many_as_said_and_equally_likely(self):
    language = Branching(branches=(1, 2, 3, 4))
    tokens = language.sample(20, 500).tokens
    for v, allowed in enumerate(language.successors()):
      assert len(set(allowed.tolist())) == language.branches[v]
      following = tokens[:, 1:][tokens[:, :-1] == v + 1]
      found, counts = np.unique(following, return_counts=True)
      assert set(found) == set(allowed.tolist())
      share = counts / counts.sum()
      assert share == pytest.approx(1 / len(allowed), abs=0.06)

  def test_entropy_is_that_of_the_choice(self):
    language = Branching(branches=(1, 2, 3, 4))
    sample = language.sample(2, 30)
    before = sample.tokens[:, :-1] - 1
    wanted = np.log(np.array(language.branches))[before]
    np.testing.assert_allclose(sample.entropy[:, 1:], wanted)

  def test_branches_are_checked(self):
    with pytest.raises(ArgumentError, match='successors'):
      Branching(branches=(3, 1))


def test_a_copy_is_certain_and_a_word_random():
  sample = Copying(letters=8, word=4).sample(6, 40)
  rounds = sample.tokens.reshape(6, 4, 10)
  np.testing.assert_array_equal(rounds[..., :4], rounds[..., 5:9])
  assert (rounds[..., [4, 9]] == SEPARATOR).all()
  entropy = sample.entropy.reshape(6, 4, 10)
  np.testing.assert_allclose(entropy[..., :4], math.log(8))
  assert (entropy[..., 4:] == 0).all()


def test_answers_are_so_many_hops_away():
  language = Hopping(keys=4, hops=(1, 2, 3))
  sample = language.sample(5, 9 + 3 * 7, seed=1)
  asked = set()
  for row, entropy in zip(sample.tokens, sample.entropy, strict=True):
    follows = dict(row[:8].reshape(4, 2).tolist())
    assert len(set(follows.values())) == 4
    # All that can be drawn of a map: log 4! for keys, and for values.
    assert entropy[:8].sum() == pytest.approx(2 * math.log(24))
    for question, key, answer in row[9:].reshape(-1, 3).tolist():
      asked.add(question)
      for _ in range(question):
        key = follows[key]
      assert key == answer
    assert (entropy[9:].reshape(-1, 3)[:, 2] == 0).all()
  assert asked == {1, 2, 3}


class TestBrackets:
  def test_what_closes_was_opened_last(self):
    sample = Brackets(kinds=2, deepest=3).sample(8, 60)
    for row in sample.tokens - 1:
      open_kinds = []
      for token in row.tolist():
        if token < 2:
          open_kinds.append(token)
        else:
          assert open_kinds.pop() == token - 2
        assert len(open_kinds) <= 3

  def test_entropy_by_what_can_follow(self):
    sample = Brackets(kinds=2, deepest=3, opens=0.25).sample(8, 60)
    free = -0.25 * math.log(0.25) - 0.75 * math.log(0.75) + 0.25 * math.log(2)
    for kind, wanted in enumerate((math.log(2), 0.0, free)):
      here = sample.entropy[sample.kinds == kind]
      assert len(here) and here == pytest.approx(wanted)

  def test_openings_are_as_likely_as_said(self):
    sample = Brackets(kinds=2, deepest=6, opens=0.3).sample(60, 100)
    free = sample.tokens[sample.kinds == 2]
    assert (free < 3).mean() == pytest.approx(0.3, abs=0.03)


def test_a_mixture_keeps_its_rates_and_its_languages_apart():
  mixture = Mixture((Copying(letters=3, word=2), Brackets()), (1.0, 3.0))
  sample = mixture.sample(400, 6)
  copies = sample.tokens[:, 0] < 4
  assert copies.mean() == pytest.approx(0.25, abs=0.07)
  assert (sample.tokens[copies] < 4).all()
  assert (sample.tokens[~copies] >= 4).all()
  assert sample.kind_names[0] == 'copying: separator'
  assert (sample.kinds[~copies] >= 3).all()


def test_settings_are_checked():
  with pytest.raises(ArgumentError, match='rate'):
    Mixture((Copying(),), (1.0, 2.0))
  with pytest.raises(ArgumentError, match='two tokens'):
    Copying().sample(1, 1)
  with pytest.raises(ArgumentError, match='hops'):
    Hopping(hops=())
