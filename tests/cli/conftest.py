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
"""A tiny checkpoint on the disk, and a criterion of a user's own."""

import jax
import numpy as np
import pytest

from eejax.checkpoint import folder
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']

# Every second position is easy.
TURNS = """
import dataclasses

import gin
import jax.numpy as jnp

from eejax.decoding.policy.criteria import Criterion, Reads


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Turns(Criterion):
  every: int = 2

  name = 'turns'
  reads = Reads.POSITIONS

  def score(self, evidence):
    return jnp.where(evidence.positions % self.every == 0, 1.0, 0.0)
"""


@pytest.fixture(scope='session')
def turns():
  """Return a module with a user's own criterion, `Turns`.

  Call it turns_of_a_user everywhere: gin knows a name once in a process.
  """
  return TURNS


@pytest.fixture(scope='session')
def save_tiny():
  """Return what saves a tiny model with exits as `model` into a folder.

  It is larger than a fresh one by `scale`, so that its texts vary.
  """

  def save(root, *, exits='1:norm,3:mlp', scale=4):
    random = np.random.default_rng(0)
    text = ' '.join(random.choice(WORDS, 400))
    tokenizer = train_bpe([text], vocab_size=300)
    tokenizer.save(root / 'tokenizer')
    config = tiny.tiny_config(
      exits,
      vocab_size=300,
      bos_id=tokenizer.bos_id,
      eos_ids=(),
      max_length=64,
    )
    params = jax.tree.map(lambda x: scale * x, tiny.tiny_params(config))
    model = Model(config, params, tokenizer_folder=root / 'tokenizer')
    return folder.save(root / 'model', model)

  return save
