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
"""A small trained model tells its story."""

import pathlib

import pytest

from eejax.checkpoint.huggingface import import_folder
from eejax.data.tokenizer import IncrementalDecoder, Tokenizer
from eejax.decoding.generate import generate
from eejax.decoding.text import TextStream

# Beside the repository, where it was developed; no part of it.
SOURCE = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'stories260K'
STORY = (
  'Once upon a time, there was a little girl named Lily. She loved to play '
  'outside in the park. One day, she saw a big, red ball.'
)

pytestmark = [
  pytest.mark.data_beside,
  pytest.mark.skipif(
    not SOURCE.is_dir(), reason='the stories260K model is not beside the code'
  ),
]


@pytest.fixture(scope='module')
def model():
  found = import_folder(SOURCE)
  return found.params, found.config, Tokenizer.load(SOURCE)


def tell(model, stop=()):
  params, config, tokenizer = model
  text = TextStream(IncrementalDecoder(tokenizer, context=[1]), stop=stop)
  result = generate(
    params, config=config, prompts=[[1]], max_new_tokens=60, texts=[text]
  )
  return result.rows[0]


def test_it_tells_its_story_from_the_start_token(model):
  row = tell(model)
  assert row.text.startswith(STORY)
  assert row.text == model[2].decode(row.tokens)


def test_it_stops_before_a_stop_string(model):
  row = tell(model, stop=['She loved'])
  assert row.text == STORY[: STORY.index('She loved')]
