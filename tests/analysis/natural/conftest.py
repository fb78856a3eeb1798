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
"""Captures made by hand, and of planted models."""

import numpy as np
import pytest

from eejax.capture.capture import capture
from eejax.capture.captured import Captured, CaptureFacts, Readout, ReadoutKind
from eejax.capture.settings import EVERYWHERE, CaptureConfig
from eejax.testing import planted
from eejax.testing.planted import PlantedPlan

VOCABULARY, LAYERS = 11, 4
# Where the answer of each token settles: at every depth there is, some twice.
SETTLES = (0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 2)


def make_captured(top1, *, target=None, row=None, kinds=None, **arrays):
  """Return a capture in which read-out i says `top1[i]`."""
  top1 = np.asarray(top1)
  readouts, positions = top1.shape
  kinds = kinds or [ReadoutKind.NATURAL] * readouts
  depths = [float(i) for i in range(readouts)]
  if ReadoutKind.ATTENTION in kinds:
    depths = [i / 2 for i in range(readouts)]
  places = zip(depths, kinds, strict=True)
  zeros = np.zeros(positions, np.int32)
  source = {
    'row': zeros if row is None else np.asarray(row, np.int32),
    'position': zeros,
    'segment': zeros,
    'token': zeros,
    'target': zeros if target is None else np.asarray(target, np.int32),
    'weight': np.ones(positions, np.float32),
    'top_tokens': top1[..., None].astype(np.int32),
    **{k: np.asarray(v, np.float32) for k, v in arrays.items()},
  }
  facts = CaptureFacts(
    readouts=tuple(Readout(f'{k.value}_{d:g}', d, k) for d, k in places),
    fields=('top_tokens', *arrays),
    num_candidates=1,
    num_layers=int(depths[-1]),
    vocab_size=VOCABULARY,
  )
  return Captured(facts, source)


@pytest.fixture(scope='session')
def by_hand():
  """Return `make_captured`."""
  return make_captured


@pytest.fixture(scope='session')
def plan():
  """Return a plan whose gate tells exactly where answers settle."""
  return PlantedPlan.settling(
    SETTLES,
    num_layers=LAYERS,
    answer_confidence=0.85,
    guess_confidence=0.57,
    attention_blocks=(2,),
    exits=(1, 2, 3),
  )


@pytest.fixture(scope='session')
def tokens():
  """Return rows of text in which every token comes up."""
  random = np.random.default_rng(5)
  drawn = random.integers(0, VOCABULARY, (6, 22))
  drawn[0, :VOCABULARY] = np.arange(VOCABULARY)
  return drawn


@pytest.fixture(scope='session')
def captured(plan, tokens):
  """Return the capture of a planted model; targets are its answers or not."""
  targets = (tokens + 1 + (tokens[:, ::-1] % 2)) % VOCABULARY
  return capture(
    planted.planted_params(plan),
    [planted.token_batch(tokens, targets)],
    config=plan.config,
    settings=CaptureConfig(kinds=EVERYWHERE, num_candidates=4, chunk_size=64),
  )


@pytest.fixture(scope='session')
def settles(tokens):
  """Return the depth at which each position's answer settles."""
  return np.array(SETTLES)[tokens.reshape(-1)]
