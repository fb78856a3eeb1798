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
"""A tiny checkpoint on the disk, with a tokenizer of five words."""

import jax
import numpy as np
import pytest

from eejax.checkpoint import folder
from eejax.checkpoint.folder import Checkpoint
from eejax.data.tokenizer import train_bpe
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']


@pytest.fixture(scope='session')
def save_tiny():
  """Return what saves a tiny model with exits as `model` into a folder."""

  def save(root):
    random = np.random.default_rng(0)
    text = ' '.join(random.choice(WORDS, 400))
    tokenizer = train_bpe([text], vocab_size=300)
    tokenizer.save(root / 'tokenizer')
    config = tiny.tiny_config(
      '1:norm,3:mlp',
      vocab_size=300,
      bos_id=tokenizer.bos_id,
      eos_ids=(),
      max_length=64,
    )
    # Larger than a fresh model, so that its texts vary.
    params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config))
    model = Checkpoint(config, params, tokenizer_folder=root / 'tokenizer')
    folder.save(root / 'model', model)
    return model

  return save
