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
"""Tests of oracles: two ceilings, along the full model's own text."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.errors import ArgumentError
from eejax.evaluation.oracle_decoding import (
  Oracle,
  decode_with_oracle,
  oracle_exits,
)
from eejax.models import decoder
from eejax.testing import tiny

# Exits, and tokens: whether each exit says what the full model says.
AGREE = np.array([[1, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [1, 1, 0, 0]]) == 1

PROMPTS = [[3, 17, 8, 25, 11], [7]]


def test_first_match_and_stable_are_different_ceilings():
  assert oracle_exits(AGREE, Oracle.FIRST_MATCH).tolist() == [0, 0, 4, 0]
  assert oracle_exits(AGREE, Oracle.STABLE).tolist() == [2, 0, 4, 4]


def test_stable_never_comes_before_the_first_match():
  agree = np.random.default_rng(0).random((6, 5, 40)) < 0.7
  first, stable = (oracle_exits(agree, oracle) for oracle in Oracle)
  assert (first <= stable).all() and (first < stable).any()
  for exit, marks in zip(stable.ravel(), agree.reshape(6, -1).T, strict=True):
    assert marks[exit:].all() and (exit == 0 or not marks[exit - 1])


@pytest.mark.parametrize('oracle', Oracle)
def test_the_text_is_the_full_models_and_exits_are_where_heads_agree(oracle):
  config = tiny.tiny_config('1:norm,2:mlp,3:block', eos_ids=())
  params = tiny.tiny_params(config, seed=1)
  decoded = decode_with_oracle(
    params, config=config, prompts=PROMPTS, oracle=oracle, max_new_tokens=9
  )
  full = generate(params, config=config, prompts=PROMPTS, max_new_tokens=9)
  for row, expected in zip(decoded, full.rows, strict=True):
    assert row.tokens == tuple(expected.tokens)
    text = [*expected.prompt_tokens, *expected.tokens]
    logits = decoder.logits(params, jnp.array([text]), config=config)
    first = len(expected.prompt_tokens) - 1
    top1 = {
      name: np.argmax(x[0, first:-1], axis=-1) for name, x in logits.items()
    }
    agree = np.stack([top1[e.name] == top1['final'] for e in config.exits])
    depths = np.array([1, 2, 3, config.model.num_layers])
    exits = depths[oracle_exits(agree, oracle)]
    assert row.exit_depths == tuple(exits.tolist())


def test_a_model_without_exits_has_no_oracle():
  config = tiny.tiny_config('', eos_ids=())
  params = tiny.tiny_params(config)
  with pytest.raises(ArgumentError, match='no exits to score'):
    decode_with_oracle(
      params, config=config, prompts=PROMPTS, oracle=Oracle.STABLE
    )
