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
"""Test that the one compiled program generates what eejax generates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.loop.cache import Emission
from eejax.decoding.loop.while_loop import Chunk
from eejax.decoding.policy.policy import Mode, Policy
from eejax.ops.sampling import SamplingConfig
from eejax.t5x_adapter.decoding import (
  DecodedRows,
  DecodeSettings,
  appended,
  continuations,
)
from eejax.t5x_adapter.features import DecoderPrompts

WIDTH = 14
PROMPTS = [[1, 5, 9, 3], [1], [1, 7, 8, 11, 20, 21, 4]]
POLICIES = {
  'full': Policy(),
  'early_exit': Policy(Mode.EARLY_EXIT, 'max_prob', (0.05,), window=3),
  'speculative': Policy(
    Mode.SPECULATIVE, 'max_prob', (0.0,), draft_depth=2, draft_length=2
  ),
}


def as_prompts(rows):
  tokens = np.zeros((len(rows), WIDTH), np.int32)
  for row, ids in enumerate(rows):
    tokens[row, : len(ids)] = ids
  return DecoderPrompts(jnp.asarray(tokens), jnp.array([len(r) for r in rows]))


@pytest.mark.parametrize('name', POLICIES)
def test_tokens_and_depths_are_those_of_eejax(name, tiny_config, tiny_params):
  settings = DecodeSettings(policy=POLICIES[name], eos_ids=(2,))
  program = jax.jit(
    lambda params, prompts: continuations(
      params, prompts, config=tiny_config, settings=settings
    )
  )
  done = program(tiny_params, as_prompts(PROMPTS))
  for row, prompt in enumerate(PROMPTS):
    expected = generate(
      tiny_params,
      config=tiny_config,
      prompts=[prompt],
      policy=POLICIES[name],
      max_new_tokens=WIDTH - len(prompt) + 1,
      eos_ids=(2,),
    ).rows[0]
    count = int(done.counts[row])
    assert tuple(done.tokens[row, :count].tolist()) == expected.tokens
    if name != 'speculative':  # who drafts follows what pays for the batch
      depths = tuple(done.exit_depths[row, :count].tolist())
      assert depths == expected.exit_depths
    np.testing.assert_allclose(
      done.log_probs[row, :count], expected.logprobs, atol=1e-4
    )
    assert not done.tokens[row, count:].any()
    assert not done.exit_depths[row, count:].any()


def test_a_random_key_draws_other_tokens(tiny_config, tiny_params):
  settings = DecodeSettings(sampling=SamplingConfig(temperature=1.0))
  program = jax.jit(
    lambda key: (
      continuations(
        tiny_params,
        as_prompts(PROMPTS),
        config=tiny_config,
        settings=settings,
        key=key,
      ).tokens
    )
  )
  one, same, other = (program(jax.random.key(s)) for s in (0, 0, 1))
  np.testing.assert_array_equal(one, same)
  assert (one != other).any()


def test_chunks_are_joined_row_by_row():
  nothing = jnp.zeros((2, 5), jnp.int32)
  done = DecodedRows(
    nothing, nothing, nothing.astype(jnp.float32), jnp.zeros(2, jnp.int32)
  )
  # Two steps, then one that was not done; row 1 emits two tokens at once.
  token = jnp.array([[[4, 0], [7, 8]], [[5, 0], [0, 0]], [[9, 9], [9, 9]]])
  num = jnp.array([[1, 2], [1, 0], [2, 2]])
  emitted = Emission(
    token=token,
    depth=token + 10,
    score=token * 1.0,
    log_prob=token * -1.0,
    num=num,
  )
  done = appended(done, Chunk(emitted, jnp.int32(2)))
  done = appended(done, Chunk(emitted, jnp.int32(1)))
  np.testing.assert_array_equal(done.counts, [3, 4])
  np.testing.assert_array_equal(done.tokens, [[4, 5, 4, 0, 0], [7, 8, 7, 8, 0]])
  np.testing.assert_array_equal(
    done.exit_depths, [[14, 15, 14, 0, 0], [17, 18, 17, 18, 0]]
  )
