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
"""What tests with t5x share: a tiny model, batches and a vocabulary."""

import numpy as np
import pytest


@pytest.fixture(scope='session')
def t5x_batch(tiny_config):
  """Return features [4, 10], packed, some padding, some weights 0."""
  generator = np.random.default_rng(0)
  vocabulary = tiny_config.model.vocab_size
  targets = generator.integers(3, vocabulary, (4, 10)).astype(np.int32)
  segments = np.repeat([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0]], 4, axis=0)
  segments[1, 7:] = 0
  targets = np.where(segments > 0, targets, 0)
  positions = np.repeat([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0]], 4, axis=0)
  inputs = np.roll(targets, 1, axis=1)
  inputs[positions == 0] = tiny_config.model.bos_id
  weights = (targets > 0).astype(np.int32)
  weights[2, :3] = 0
  as_int = lambda x: x.astype(np.int32)
  return {
    'decoder_input_tokens': as_int(inputs),
    'decoder_target_tokens': as_int(targets),
    'decoder_loss_weights': weights,
    'decoder_positions': as_int(positions),
    'decoder_segment_ids': as_int(segments),
  }


@pytest.fixture(scope='session')
def make_model(tiny_config):
  """Return a function that makes a model of t5x around `tiny_config`."""
  from eejax.data.seqio_runtime import seqio
  from eejax.t5x_adapter import optimizers, settings
  from eejax.t5x_adapter.model import EarlyExitModel

  def make(regime='joint', *, config=tiny_config, policy=None, **objective):
    more = {} if policy is None else {'policy': policy}
    return EarlyExitModel(
      config,
      seqio.PassThroughVocabulary(config.model.vocab_size, eos_id=2),
      optimizers.trained_part(regime, 1e-2, clip_norm=1.0),
      objective=settings.objective(regime=regime, **objective),
      **more,
    )

  return make
