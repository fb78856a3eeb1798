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
"""Tests of adding, dropping and extending exits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import surgery
from eejax.config import Initialization, parse_exits
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.stacking import truncate, unstack
from eejax.testing import tiny

COPY, RANDOM = Initialization.COPY, Initialization.RANDOM
# One exit of every kind, and gates, at every depth there is.
EXITS = (
  '0:norm:gate,1:mlp:untied,2:bottleneck_mlp(5):mlp_gate,'
  '3:block:tied_embedding,4:mlp'
)


@pytest.fixture(scope='module')
def config():
  return tiny.tiny_config('')


@pytest.fixture(scope='module')
def params(config):
  return tiny.tiny_params(config)


def add(params, config, exits, initialization=COPY, seed=0):
  """Add exits, once for the same arguments: most of the time is compiling."""
  at = (id(params), config, exits, initialization, seed)
  if at not in _ADDED:
    result = surgery.add_exits(
      params,
      config,
      parse_exits(exits),
      initialization=initialization,
      key=jax.random.key(seed),
    )
    _ADDED[at] = (result, params)  # which keeps the id
  return _ADDED[at][0]


_ADDED = {}


def assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def all_logits(params, config):
  return decoder.logits(params, tiny.tiny_tokens(config), config=config)


@pytest.mark.parametrize(
  ('initialization', 'dtype'), [(COPY, jnp.bfloat16), (RANDOM, jnp.float32)]
)
def test_exits_of_every_kind_run(config, params, dtype, initialization):
  params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  grown, larger = add(params, config, EXITS, initialization)
  assert larger.exits == parse_exits(EXITS)
  assert {leaf.dtype for leaf in jax.tree.leaves(grown['exits'])} == {
    jnp.dtype(dtype)
  }
  logits = all_logits(grown, larger)
  assert all(bool(jnp.isfinite(x).all()) for x in logits.values())
  # The same tree as a model that had them from the start.
  expected = jax.eval_shape(
    lambda k: decoder.init(larger, k, dtype=dtype), jax.random.key(0)
  )
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(grown) == shapes(expected)


@pytest.mark.parametrize('tied_head', [False, True])
def test_copies_are_of_the_right_parts(params, tied_head):
  config = tiny.tiny_config('', tied_head=tied_head)
  if tied_head:
    kept = {k: v for k, v in params['backbone'].items() if k != 'head'}
    params = {**params, 'backbone': kept}
  grown, _ = add(params, config, EXITS)
  backbone, exits = params['backbone'], grown['exits']
  blocks = unstack(backbone['blocks'])
  for name in exits:
    assert_equal(exits[name]['norm'], backbone['final_norm'])
  assert_equal(exits['exit_1']['mlp'], blocks[0]['mlp'])
  assert_equal(exits['exit_4']['mlp'], blocks[3]['mlp'])
  assert_equal(exits['exit_3']['block'], blocks[3])
  head = (
    backbone['embedding']['table'].T
    if tied_head
    else backbone['head']['kernel']
  )
  assert_equal(exits['exit_1']['output']['kernel'], head)


def test_copies_start_as_their_norm_exits(params, config):
  """Check that an MLP exit is the norm exit at step 0, exactly."""
  norm = all_logits(*add(params, config, '1:norm,2:norm,4:norm'))
  other = all_logits(
    *add(params, config, '1:mlp,2:bottleneck_mlp(5),4:mlp:untied')
  )
  for name in norm:
    np.testing.assert_allclose(other[name], norm[name], atol=2e-6)
  # And at depth L, as the model itself.
  np.testing.assert_allclose(other['exit_4'], other['final'], atol=2e-6)


def test_a_block_copied_is_the_last_block_run_early(params, config):
  early, larger = add(params, config, '3:block')
  logits = all_logits(early, larger)
  np.testing.assert_allclose(logits['exit_3'], logits['final'], atol=2e-6)


def test_random_exits_are_as_ee_llm_makes_them():
  config = tiny.tiny_config('', embed_dim=64, mlp_dim=96)
  params = tiny.tiny_params(config)
  exits = add(params, config, '2:mlp:untied,4:block', RANDOM)[0]['exits']
  std = lambda leaf: float(jnp.std(leaf))
  block = exits['exit_4']['block']
  assert std(exits['exit_2']['mlp']['up']['kernel']) == pytest.approx(
    0.02, rel=0.1
  )
  assert std(exits['exit_2']['mlp']['down']['kernel']) == pytest.approx(
    0.02 / 2, rel=0.1
  )
  assert std(block['attention']['output']['kernel']) == pytest.approx(
    0.02 / 8**0.5, rel=0.1
  )
  assert std(exits['exit_2']['output']['kernel']) == pytest.approx(
    0.02, rel=0.1
  )
  for norm in (exits['exit_2']['norm'], block['mlp_norm']):
    assert_equal(norm['scale'], jnp.ones((64,)))


def test_gates_start_undecided(params, config):
  gates = '0:norm:gate,2:bottleneck_mlp(5):mlp_gate'
  for initialization in Initialization:
    exits = add(params, config, gates, initialization)[0]['exits']
    for name in ('exit_0', 'exit_2'):
      for leaf in jax.tree.leaves(exits[name]['gate']['output']):
        assert not leaf.any()


def test_exits_do_not_depend_on_one_another(params, config):
  together, _ = add(params, config, EXITS, COPY)
  first, larger = add(params, config, '2:bottleneck_mlp(5):mlp_gate', COPY)
  alone = first['exits']['exit_2']
  assert_equal(alone, together['exits']['exit_2'])
  # Extending what is there gives the same as adding all at once.
  rest = '0:norm:gate,1:mlp:untied,3:block:tied_embedding,4:mlp'
  extended, whole = add(first, larger, rest, COPY)
  assert whole.exits == parse_exits(EXITS)
  assert_equal(extended['exits'], together['exits'])


def test_random_exits_differ_by_depth_and_seed(params, config):
  exits = add(params, config, '1:mlp,2:mlp', RANDOM)[0]['exits']
  again = add(params, config, '1:mlp,2:mlp', RANDOM, seed=1)[0]['exits']
  kernels = [
    np.asarray(e['mlp']['up']['kernel'])
    for e in (*exits.values(), *again.values())
  ]
  for i, one in enumerate(kernels):
    for other in kernels[i + 1 :]:
      assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.3


def test_the_backbone_and_the_arguments_are_left_alone(params, config):
  before = jax.tree.map(np.array, params)
  grown, larger = add(params, config, EXITS)
  surgery.drop_exits(grown, larger, [1])
  assert_equal(params, before)
  assert jax.tree.structure(params) == jax.tree.structure(before)
  assert grown['backbone'] is params['backbone']


def test_copies_share_no_memory(params, config):
  grown, _ = add(params, config, EXITS)
  pointers = {
    leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(grown['backbone'])
  }
  for leaf in jax.tree.leaves(grown['exits']):
    assert leaf.unsafe_buffer_pointer() not in pointers


def test_unstacked_and_host_parameters(params, config):
  blocks = unstack(params['backbone']['blocks'])
  unstacked = {**params, 'backbone': {**params['backbone'], 'blocks': blocks}}
  host = jax.tree.map(np.asarray, unstacked)
  expected = add(params, config, EXITS)[0]['exits']
  assert_equal(add(unstacked, config, EXITS)[0]['exits'], expected)
  found = add(host, config, EXITS)[0]['exits']
  assert_equal(found, expected)
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_dropping_an_exit_leaves_the_others(params, config):
  grown, larger = add(params, config, EXITS)
  fewer, smaller = surgery.drop_exits(grown, larger, [1, 3])
  assert smaller.exit_depths == (0, 2, 4)
  assert set(fewer['exits']) == {'exit_0', 'exit_2', 'exit_4'}
  before, after = all_logits(grown, larger), all_logits(fewer, smaller)
  for name in after:
    np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
  ('exits', 'words'),
  [
    ('2:mlp', 'already an exit at depth 2'),
    ('1:mlp,1:norm', 'already an exit at depth 1'),
    ('5:norm', 'beyond the model, which has 4'),
  ],
)
def test_exits_that_cannot_be_added(params, config, exits, words):
  grown, larger = add(params, config, '2:norm')
  with pytest.raises(ArgumentError, match=words):
    add(grown, larger, exits)


def test_exits_that_cannot_be_dropped(params, config):
  with pytest.raises(ArgumentError, match=r'no exit at depth 3 \(exits: 2\)'):
    surgery.drop_exits(*add(params, config, '2:norm'), [3])


def test_a_block_that_is_not_loaded_cannot_be_copied(params, config):
  first = truncate(params, depth=2)
  assert set(add(first, config, '2:mlp')[0]['exits']) == {'exit_2'}
  with pytest.raises(ArgumentError, match='block 4.*only 2'):
    add(first, config, '1:block')


@pytest.mark.parametrize(
  ('exits', 'initialization', 'expected'),
  [
    ('1:mlp,3:norm', COPY, 3),
    ('1:block', COPY, 4),
    ('1:block', RANDOM, 1),
    ('0:norm', COPY, 0),
  ],
)
def test_how_many_blocks_are_needed(config, exits, initialization, expected):
  added = parse_exits(exits)
  larger = config.with_exits(added)
  assert surgery.blocks_read(larger, added, initialization) == expected
