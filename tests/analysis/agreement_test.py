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
"""Test natural exits on planted models and hand-made readings."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.analysis import agreement
from eejax.analysis.natural.depths import first_match_depth, stable_depth
from eejax.capture.capture import capture
from eejax.capture.captured import ReadoutKind
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.testing import planted, tiny


def make_batch(config, *, rows=3, length=8):
  random = np.random.default_rng(0)
  ids = random.integers(3, config.model.vocab_size, (rows, length + 1))
  ones = np.ones((rows, length))
  return Batch(
    tokens=ids[:, :-1].astype(np.int32),
    targets=ids[:, 1:].astype(np.int32),
    weights=ones.astype(np.float32),
    positions=(np.arange(length) * ones).astype(np.int32),
    segment_ids=ones.astype(np.int32),
  )


class TestPlanted:
  def test_idle_upper_blocks_agree_exactly(self, tiny_config, tiny_params):
    batch = make_batch(tiny_config)
    found = agreement.natural_exits(
      planted.idle_from(tiny_params, 2), [batch], config=tiny_config.model
    )
    assert [d.depth for d in found.depths] == [0, 1, 2, 3, 4]
    last = found.depths[-1]
    for d in found.depths[2:]:
      assert d.agreement.value == 1.0
      assert d.loss == last.loss
    assert found.depths[1].agreement.value < 1
    assert sum(d.stable for d in found.depths[:3]) == pytest.approx(1)
    assert found.saved_if_stable.value >= 0.5

  def test_a_model_that_decides_last(self, tiny_config, tiny_params):
    # The last block overrules all others with one large direction.
    batch = make_batch(tiny_config)
    idle = planted.idle_from(tiny_params, 0)
    blocks = idle['backbone']['blocks']
    down = blocks['mlp']['down']['kernel']
    table = idle['backbone']['embedding']['table']
    blocks['mlp']['down'] = {
      'kernel': down.at[3].set(100 * jnp.ones_like(down[3]))
    }
    # Depths 0 to 3 repeat the input token, which never is its successor here.
    idle['backbone']['head'] = {'kernel': 100 * table.T}
    idle['backbone']['final_norm'] = {'scale': jnp.ones(16)}
    found = agreement.natural_exits(idle, [batch], config=tiny_config.model)
    assert found.depths[3].stable < 0.2
    assert found.depths[4].stable > 0.8
    assert found.saved_if_stable.value < 0.2


def test_depths_equal_exits_with_the_final_norm(tiny_params):
  # A norm exit whose norm is the final one is the natural exit of its depth.
  config = tiny.tiny_config('1:norm,3:norm')
  batch = make_batch(config)
  norm = tiny_params['backbone']['final_norm']
  params = {
    'backbone': tiny_params['backbone'],
    'exits': {'exit_1': {'norm': norm}, 'exit_3': {'norm': norm}},
  }
  logits = decoder.logits(params, jnp.asarray(batch.tokens), config=config)
  captured = capture(params, [batch], config=config).only(ReadoutKind.NATURAL)
  for depth, name in ((1, 'exit_1'), (3, 'exit_3'), (4, 'final')):
    np.testing.assert_array_equal(
      captured.top1[depth], jnp.argmax(logits[name], -1).reshape(-1)
    )


class TestHandMade:
  #              settled early, passing match, last moment, always right
  TOP1 = np.array([[1, 5, 1, 7], [5, 2, 1, 7], [5, 5, 2, 7], [5, 5, 5, 7]])

  def test_first_match_and_stable_depths(self):
    first = first_match_depth(self.TOP1)
    stable = stable_depth(self.TOP1)
    assert first.tolist() == [1, 0, 3, 0]
    assert stable.tolist() == [1, 2, 3, 0]

  def found(self):
    loss = np.arange(16, dtype=float).reshape(4, 1, 4)
    return agreement.summarise(loss, self.TOP1[:, None], np.ones((1, 4)))

  def test_summary(self):
    found = self.found()
    assert [d.agreement.value for d in found.depths] == [0.5, 0.5, 0.75, 1.0]
    assert [d.stable for d in found.depths] == [0.25, 0.25, 0.25, 0.25]
    assert [d.first_match for d in found.depths] == [0.5, 0.25, 0.0, 0.25]
    assert found.depths[1].loss.value == np.mean([4, 5, 6, 7])
    assert found.saved_if_stable.value == pytest.approx((2 + 1 + 0 + 3) / 12)
    assert found.saved_if_first_match.value == pytest.approx(8 / 12)

  def test_padding_does_not_count(self):
    top1 = np.concatenate([self.TOP1, np.full((4, 1), 9)], axis=1)[:, None]
    loss = np.full(top1.shape, 1.0)
    loss[..., -1] = np.nan
    weights = np.array([[1.0, 1, 1, 1, 0]])
    found = agreement.summarise(loss, top1, weights)
    assert found.tokens == 4
    assert found.saved_if_stable == self.found().saved_if_stable

  def test_no_room_is_a_ceiling_of_nothing(self):
    top1 = np.arange(20).reshape(5, 1, 4)
    found = agreement.summarise(np.ones(top1.shape), top1, np.ones((1, 4)))
    assert found.saved_if_stable.value == 0
    assert found.level == agreement.LEVEL


def test_no_text_is_an_error(tiny_config, tiny_params):
  with pytest.raises(ArgumentError, match='no text'):
    agreement.natural_exits(tiny_params, [], config=tiny_config.model)


def test_numbers_that_are_not_finite_are_an_error():
  top1 = np.zeros((2, 1, 3), int)
  with pytest.raises(EejaxError, match='not finite'):
    agreement.summarise(np.full((2, 1, 3), np.inf), top1, np.ones((1, 3)))
