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
"""Test what is frozen, and that optimizers know of nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.errors import ArgumentError
from eejax.models.stacking import num_blocks
from eejax.testing import tiny
from eejax.training import freeze, optimizers, state
from eejax.training.freeze import Regime


@pytest.mark.parametrize(
  'regime, trained, kept',
  [
    (Regime.STANDARD, {'backbone'}, {'exits'}),
    (Regime.JOINT, {'backbone', 'exits'}, set()),
    (Regime.TUNE, {'exits'}, {'backbone'}),
  ],
)
def test_split_and_merge(tiny_params, regime, trained, kept):
  trainable, frozen = freeze.split(tiny_params, regime=regime)
  with_leaves = lambda tree: {k for k in tree if jax.tree.leaves(tree[k])}
  assert with_leaves(trainable) == trained
  assert with_leaves(frozen) == kept
  merged = freeze.merge(trainable, frozen)
  assert jax.tree.structure(merged) == jax.tree.structure(tiny_params)
  mask = freeze.train_mask(tiny_params, regime=regime)
  assert jax.tree.structure(mask) == jax.tree.structure(tiny_params)
  assert all(jax.tree.leaves({k: mask[k] for k in trained}))
  assert not any(jax.tree.leaves({k: mask[k] for k in kept}))


def test_tuning_without_exits_is_refused(tiny_params):
  with pytest.raises(ArgumentError, match='nothing to train.*add exits'):
    freeze.split({**tiny_params, 'exits': {}}, regime=Regime.TUNE)


def test_optimizer_state_has_no_backbone_leaf(tiny_params):
  trainable, _ = freeze.split(tiny_params, regime=Regime.TUNE)
  start = state.create(trainable, optimizer=optimizers.clipped_adamw(1e-3))
  shapes = {x.shape for x in jax.tree.leaves(start.opt_state)}
  exit_shapes = {x.shape for x in jax.tree.leaves(tiny_params['exits'])}
  assert shapes <= exit_shapes | {()}
  # Two moments of every exit leaf, and counts.
  moments = [x for x in jax.tree.leaves(start.opt_state) if x.ndim]
  assert len(moments) == 2 * len(jax.tree.leaves(tiny_params['exits']))


class TestFreeze:
  def test_frozen_leaves_stay_and_have_no_state(self, tiny_params):
    mask = freeze.train_mask(tiny_params, regime=Regime.TUNE)
    optimizer = freeze.freeze(optax.adamw(1e-2), mask=mask)
    opt_state = optimizer.init(tiny_params)
    grads = jax.tree.map(jnp.ones_like, tiny_params)
    updates, _ = optimizer.update(grads, opt_state, tiny_params)
    assert not any(np.any(u) for u in jax.tree.leaves(updates['backbone']))
    assert all(np.all(u != 0) for u in jax.tree.leaves(updates['exits']))
    moments = [x for x in jax.tree.leaves(opt_state) if x.ndim]
    assert len(moments) == 2 * len(jax.tree.leaves(tiny_params['exits']))

  def test_masked_alone_would_not_freeze(self, tiny_params):
    # The trap that `freeze` avoids: raw gradients pass through.
    mask = freeze.train_mask(tiny_params, regime=Regime.TUNE)
    optimizer = optax.masked(optax.adamw(1e-2), mask)
    grads = jax.tree.map(jnp.ones_like, tiny_params)
    updates, _ = optimizer.update(
      grads, optimizer.init(tiny_params), tiny_params
    )
    assert all(np.all(u == 1) for u in jax.tree.leaves(updates['backbone']))

  def test_clipping_sees_the_trainable_part_alone(self, tiny_params):
    mask = freeze.train_mask(tiny_params, regime=Regime.TUNE)
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    optimizer = freeze.freeze(inner, mask=mask)
    grads = jax.tree.map(jnp.ones_like, tiny_params)
    updates, _ = optimizer.update(
      grads, optimizer.init(tiny_params), tiny_params
    )
    norm = optax.global_norm(updates['exits'])
    np.testing.assert_allclose(norm, 1.0, rtol=1e-5)


class TestPatterns:
  def split(self, params, *patterns):
    return freeze.split(params, regime=Regime.JOINT, frozen=patterns)

  def test_what_matches_is_frozen(self, tiny_params):
    trainable, frozen = self.split(
      tiny_params, 'backbone/embedding/.*', 'backbone/blocks/.*/mlp/up/kernel'
    )
    kept = frozen['backbone']
    assert jax.tree.leaves(kept['embedding'])
    assert jax.tree.leaves(kept['blocks']['mlp']['up'])
    assert not jax.tree.leaves(kept['blocks']['mlp']['down'])
    assert not jax.tree.leaves(trainable['backbone']['embedding'])
    merged = freeze.merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(tiny_params)

  def test_some_blocks_of_a_stack_have_a_mask_of_their_own(self, tiny_params):
    mask = freeze.train_mask(
      tiny_params, regime=Regime.JOINT, frozen=('backbone/blocks/(?!3/).*',)
    )
    for rows in jax.tree.leaves(mask['backbone']['blocks']):
      assert rows.tolist() == [False, False, False, True]
    assert all(x is True for x in jax.tree.leaves(mask['exits']))

  @pytest.mark.parametrize(
    'pattern, words',
    [
      (
        'backbone/embeding/.*',
        r'matches no parameter; there are .*'
        r'backbone/blocks/0..3/mlp/up/kernel.* backbone/embedding/table',
      ),
      ('(', 'is no regular expression'),
      ('.*', 'every parameter is frozen'),
      ('embedding', 'matches no parameter'),
    ],
  )
  def test_bad_patterns(self, tiny_params, pattern, words):
    with pytest.raises(ArgumentError, match=words):
      self.split(tiny_params, pattern)

  def test_patterns_reach_no_further_than_the_regime(self, tiny_params):
    with pytest.raises(ArgumentError, match='matches no parameter'):
      freeze.split(tiny_params, regime=Regime.TUNE, frozen=('backbone/.*',))


def test_state_on_disk_has_no_mask(tiny_params):
  """Run folders keep what they kept when frozen leaves were left out."""
  optimizer = optimizers.clipped_adamw(1e-3)
  trainable, _ = freeze.split(tiny_params, regime=Regime.TUNE)
  now = state.create(trainable, optimizer=optimizer)
  kept = state.to_checkpoint(now)
  exits = {'exits': tiny_params['exits']}
  before = state.TrainState(
    step=now.step, trainable=exits, opt_state=optimizer.init(exits)
  )
  assert jax.tree.structure(kept) == jax.tree.structure(before)
  back = state.from_checkpoint(kept, like=now)
  assert jax.tree.structure(back) == jax.tree.structure(now)


@pytest.mark.parametrize('mixer', [None, 'mamba', 'mamba2'])
def test_norms_and_biases_do_not_decay(mixer):
  fields = {'qkv_bias': True, 'mlp_bias': True, 'qk_norm': True}
  if mixer is not None:
    kind = tiny.KINDS_OF_RECURRENT_BLOCK[mixer]
    fields['state_space'] = kind['state_space']
  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT, **fields)
  params = tiny.tiny_params(config)
  mask = freeze.decay_mask(params)
  for path, decays in jax.tree_util.tree_leaves_with_path(mask):
    assert decays == (path[-1].key in ('kernel', 'table')), path


def test_decay_moves_matrices_alone(tiny_params):
  optimizer = optimizers.clipped_adamw(1.0, weight_decay=0.5)
  zeros = jax.tree.map(jnp.zeros_like, tiny_params)
  updates, _ = optimizer.update(zeros, optimizer.init(tiny_params), tiny_params)
  scale = updates['backbone']['final_norm']['scale']
  assert not np.any(scale)
  table = updates['backbone']['embedding']['table']
  want = -0.5 * tiny_params['backbone']['embedding']['table']
  np.testing.assert_allclose(table, want, rtol=1e-6)


def test_warmup_cosine_against_hand_computed_rates():
  rate = optimizers.warmup_cosine(
    1.0, steps=14, warmup_steps=4, end_fraction=0.2
  )
  got = [float(rate(step)) for step in (0, 2, 4, 9, 14, 100)]
  # A line from 1/4 to 1 in four steps; half way down between 1 and 0.2; end.
  np.testing.assert_allclose(got, [0.25, 0.625, 1.0, 0.6, 0.2, 0.2], rtol=1e-5)


def test_warmup_may_be_as_long_as_the_run():
  rate = optimizers.warmup_cosine(1.0, steps=4, warmup_steps=4)
  np.testing.assert_allclose(rate(4), 1.0, rtol=1e-5)


class TestDepth:
  def test_blocks_above_the_deepest_exit_are_dropped(self, tiny_params):
    config = tiny.tiny_config('1:norm,2:mlp')
    cut = freeze.cut_to_depth(tiny_params, config=config, full_depth=False)
    assert num_blocks(cut['backbone']['blocks']) == 2
    assert num_blocks(tiny_params['backbone']['blocks']) == 4

  def test_the_whole_backbone_is_needed_for_the_final_head(self, tiny_params):
    config = tiny.tiny_config('1:norm,2:mlp')
    whole = freeze.cut_to_depth(tiny_params, config=config, full_depth=True)
    assert whole is tiny_params
    cut = freeze.cut_to_depth(tiny_params, config=config, full_depth=False)
    with pytest.raises(ArgumentError, match='needs all 4 blocks, and only 2'):
      freeze.cut_to_depth(cut, config=config, full_depth=True)

  @pytest.mark.parametrize(
    'exits, settings, needed',
    [
      ('1:norm', {'regime': Regime.TUNE}, False),
      ('1:norm', {'regime': Regime.STANDARD}, True),
      ('1:norm', {'regime': Regime.JOINT}, True),
      ('1:norm:gate', {'regime': Regime.TUNE}, True),
      ('1:norm:gate', {'regime': Regime.TUNE, 'gate_weight': 0.0}, False),
      ('1:norm', {'regime': Regime.TUNE, 'distillation_weight': 0.1}, True),
    ],
  )
  def test_who_needs_the_final_head(self, exits, settings, needed):
    config = tiny.tiny_config(exits)
    assert freeze.needs_full_depth(config, **settings) is needed
