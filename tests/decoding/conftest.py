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
"""A tiny model whose texts are varied enough to tell mistakes apart."""

import zlib

import jax
import pytest

from eejax.config import EarlyExitConfig
from eejax.testing import tiny
from eejax.types import Params


def make_lively(config: EarlyExitConfig, seed: int = 0) -> Params:
  """Return parameters whose greedy texts do not repeat one token.

  Matrices are larger than a fresh model's, so attention is sharp, heads
  disagree and scores spread over their range.
  """
  params = tiny.tiny_params(config, seed=seed)

  def enlarge(path, leaf):
    names = [p.key for p in path]
    if names[-1] == 'table':
      return leaf / leaf.std()
    if 'gate' in names and names[-1] == 'bias':
      return leaf
    if names[-1] != 'kernel':
      return leaf
    # Attention to one token, and updates as large as the stream itself.
    gain = 2.5 if names[-2] in ('query', 'key', 'output', 'down') else 1.5
    key = jax.random.fold_in(
      jax.random.key(seed), zlib.crc32('/'.join(names).encode())
    )
    fresh = jax.random.normal(key, leaf.shape)
    return gain * fresh / config.model.embed_dim**0.5

  return jax.tree_util.tree_map_with_path(enlarge, params)


@pytest.fixture(scope='session')
def lively():
  """Return `(config, params)` for exits and model fields, made once each."""
  made = {}

  def get(exits='1:norm:gate,2:mlp:gate,3:norm:gate', *, seed=0, **overrides):
    key = (exits, seed, tuple(sorted(overrides.items())))
    if key not in made:
      config = tiny.tiny_config(exits, **{'eos_ids': (), **overrides})
      made[key] = config, make_lively(config, seed)
    return made[key]

  return get


@pytest.fixture(scope='session')
def prompts():
  """Return prompts of different lengths, one of a single token."""
  return [[3, 17, 8, 25, 11], [7], [21, 4, 4, 19, 28, 13, 6, 9, 12], [5, 14]]
