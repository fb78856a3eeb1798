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
"""Test the prompts that recipes take."""

import pytest

from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError
from eejax.recipes.prompts import (
  HELD_OUT,
  PROMPT_TOKENS,
  Prompts,
  check_has_exits,
  token_prompts,
)
from eejax.testing import tiny


@pytest.fixture(scope='module')
def small():
  """Return a model without a tokenizer and with a short context."""
  config = tiny.tiny_config('')
  return Model(config, {'backbone': {}, 'exits': {}})


@pytest.fixture(scope='module')
def default():
  return load('default')


def test_token_ids_are_taken_as_they_are(small):
  prompts = token_prompts(small, [[3, 4], [5]], max_new_tokens=4)
  assert prompts.tokens == ((3, 4), (5,))
  named = Prompts('a file', ((3,),))
  assert token_prompts(small, named, max_new_tokens=4) == named


def test_texts_are_encoded_and_one_text_is_a_prompt(default):
  prompts = token_prompts(default, 'def main', max_new_tokens=4)
  (ids,) = prompts.tokens
  assert default.tokenizer.decode(ids[1:]) == 'def main'
  assert ids[0] == default.config.model.bos_id


def test_without_prompts_held_out_text_is_continued(default):
  prompts = token_prompts(default, max_new_tokens=4, count=3)
  assert prompts.source == HELD_OUT
  assert [len(ids) for ids in prompts.tokens] == [PROMPT_TOKENS] * 3


@pytest.mark.parametrize(
  'prompts, new_tokens, sentence',
  [
    ([[3]], 0, 'max_new_tokens must be at least 1'),
    ([[3]], 48, 'leave room for a prompt in the context of 48 tokens'),
    ([[3] * 4], 45, 'a prompt of 4 tokens and 45 new ones'),
    ([], 4, 'there is no prompt'),
    ([[99]], 4, '99'),
    ([[3], 'text'], 4, 'all texts or all token ids'),
    (['text'], 4, 'has no tokenizer'),
  ],
)
def test_wrong_prompts_are_one_sentence(small, prompts, new_tokens, sentence):
  with pytest.raises(ArgumentError, match=sentence):
    token_prompts(small, prompts, max_new_tokens=new_tokens)


def test_a_model_without_exits_is_told_what_to_do(small):
  with pytest.raises(ArgumentError, match='has no exits; add some'):
    check_has_exits(small)
