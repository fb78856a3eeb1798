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
"""Test objectives against dense formulas over whole logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.config import GateKind
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.exits import gate_logit
from eejax.testing import tiny
from eejax.training import freeze, losses
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward, Objective, TokenWeights
from eejax.training.weight_schedules import Curriculum, ExitWeights

B, T = 2, 7
EVERY = tiny.EVERY_KIND_OF_EXIT
WEIGHTS = (0.5, 0.25, 1.0, 0.75, 0.1)
FORWARD = Forward()


@pytest.fixture(scope='module')
def config():
  return tiny.tiny_config(EVERY)


@pytest.fixture(scope='module')
def params(config):
  params = tiny.tiny_params(config)
  for exit_params in params['exits'].values():
    # A fresh gate reads nothing: its last matrix is zero.
    if 'gate' in exit_params:
      output = exit_params['gate']['output']
      noise = jax.random.normal(jax.random.key(9), output['kernel'].shape)
      output['kernel'] = output['kernel'] + noise
  return params


@pytest.fixture(scope='module')
def batch(config):
  tokens = tiny.tiny_tokens(config, batch_size=B, length=T)
  # Two texts in the first row, three tokens of padding in the second.
  segments = jnp.array([[1] * 4 + [2] * 3, [1] * 4 + [0] * 3])
  positions = jnp.array([[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 0, 0, 0]])
  return TokenBatch(
    tokens=tokens,
    targets=jnp.roll(tokens, -1, axis=1),
    weights=(segments > 0).astype(jnp.float32),
    positions=positions,
    segment_ids=segments,
  )


@functools.partial(jax.jit, static_argnums=1)
def all_logits(params, config, batch):
  return decoder.logits(
    params,
    batch.tokens,
    config=config,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
  )


@functools.partial(jax.jit, static_argnums=1)
def exit_inputs(params, config, batch):
  return decoder.run_blocks(
    params['backbone'],
    decoder.embed(
      params['backbone'],
      batch.tokens,
      positions=batch.positions,
      config=config.model,
      dtype=jnp.float32,
    ),
    config=config,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
  ).exit_inputs


def dense_loss(logits, batch):
  log_probs = jax.nn.log_softmax(logits)
  hit = batch.targets[..., None]
  return -jnp.take_along_axis(log_probs, hit, -1)[..., 0]


def masked_sum(values, batch):
  return jnp.sum(values * batch.weights)


def value_and_gradient(params, config, batch, objective, step=0):
  trainable, frozen = freeze.split(params, regime=objective.regime)
  function = functools.partial(
    losses.objective_sum,
    config=config,
    objective=objective,
    forward=FORWARD,
    step=step,
  )
  (value, sums), grads = jax.jit(jax.value_and_grad(function, has_aux=True))(
    trainable, frozen, batch
  )
  return value, sums, grads


def without_gates(grads):
  """Return a gradient tree without the gates' leaves."""
  exits = {
    name: {k: v for k, v in exit.items() if k != 'gate'}
    for name, exit in grads['exits'].items()
  }
  return {**grads, 'exits': exits}


def assert_trees_close(got, want, atol=2e-4):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=atol), got, want
  )


def test_standard_is_the_final_loss_alone(params, config, batch):
  objective = Objective(regime=Regime.STANDARD, chunk_size=6)
  value, sums, grads = value_and_gradient(params, config, batch, objective)

  def dense(backbone):
    whole = {**params, 'backbone': backbone}
    logits = all_logits(whole, config, batch)['final']
    return masked_sum(dense_loss(logits, batch), batch)

  want, want_grads = jax.jit(jax.value_and_grad(dense))(params['backbone'])
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert not jax.tree.leaves(grads['exits'])
  assert_trees_close(grads['backbone'], want_grads)
  assert sums.tokens == 11
  assert not np.any(sums.exits.tokens)


def test_joint_is_final_plus_weighted_exits(params, config, batch):
  objective = Objective(
    regime=Regime.JOINT,
    exit_weights=ExitWeights(weights=WEIGHTS),
    gate_weight=0.0,
    chunk_size=6,
  )
  value, sums, grads = value_and_gradient(params, config, batch, objective)

  def dense(params):
    logits = all_logits(params, config, batch)
    total = masked_sum(dense_loss(logits['final'], batch), batch)
    for e, weight in zip(config.exits, WEIGHTS, strict=True):
      one = dense_loss(logits[e.name], batch)
      total += weight * masked_sum(one, batch)
    return total

  want, want_grads = jax.jit(jax.value_and_grad(dense))(params)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert_trees_close(without_gates(grads), without_gates(want_grads))
  logits = all_logits(params, config, batch)
  for i, e in enumerate(config.exits):
    one = jax.tree.map(lambda x, i=i: x[i], sums.exits)
    want = masked_sum(dense_loss(logits[e.name], batch), batch)
    np.testing.assert_allclose(one.loss, want, rtol=1e-5)
    top1 = jnp.argmax(logits[e.name], -1)
    assert one.correct == masked_sum(top1 == batch.targets, batch)
    agree = top1 == jnp.argmax(logits['final'], -1)
    assert one.agree == masked_sum(agree, batch)
    confidence = jnp.max(jax.nn.softmax(logits[e.name]), -1)
    np.testing.assert_allclose(
      one.confidence, masked_sum(confidence, batch), rtol=1e-5
    )
    assert one.tokens == 11


def test_tune_leaves_the_final_head_alone(params, config, batch):
  objective = Objective(
    regime=Regime.TUNE,
    exit_weights=ExitWeights(weights=WEIGHTS),
    gate_weight=0.0,
    chunk_size=6,
  )
  assert not objective.full_depth(config)
  value, sums, grads = value_and_gradient(params, config, batch, objective)

  def dense(exits):
    logits = all_logits({**params, 'exits': exits}, config, batch)
    return sum(
      weight * masked_sum(dense_loss(logits[e.name], batch), batch)
      for e, weight in zip(config.exits, WEIGHTS, strict=True)
    )

  want, want_grads = jax.jit(jax.value_and_grad(dense))(params['exits'])
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert not jax.tree.leaves(grads['backbone'])
  want_grads = {**grads, 'exits': want_grads}
  assert_trees_close(without_gates(grads), without_gates(want_grads))
  assert sums.final.tokens == 0


def test_tune_runs_no_block_above_the_deepest_exit(params, batch):
  whole = tiny.tiny_config('1:norm,2:mlp')
  objective = Objective(regime=Regime.TUNE)
  exits = {e.name: params['exits'][e.name] for e in whole.exits}
  params = {**params, 'exits': exits}
  cut = freeze.cut_to_depth(params, config=whole, full_depth=False)
  got = value_and_gradient(cut, whole, batch, objective)
  want = value_and_gradient(params, whole, batch, objective)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
  assert_trees_close(got[2], want[2], atol=1e-5)


def test_confidence_weights_are_detached(params, config, batch):
  objective = Objective(
    regime=Regime.TUNE,
    token_weights=TokenWeights.CONFIDENCE,
    gate_weight=0.0,
  )
  value, sums, grads = value_and_gradient(params, config, batch, objective)

  def dense(exits):
    logits = all_logits({**params, 'exits': exits}, config, batch)
    total = 0.0
    for e in config.exits:
      probs = jax.nn.softmax(logits[e.name])
      sure = jax.lax.stop_gradient(jnp.max(probs, -1))
      total += masked_sum(sure * dense_loss(logits[e.name], batch), batch)
    return total

  want, want_grads = jax.jit(jax.value_and_grad(dense))(params['exits'])
  np.testing.assert_allclose(value, want, rtol=1e-5)
  want_grads = {**grads, 'exits': want_grads}
  assert_trees_close(without_gates(grads), without_gates(want_grads))
  # The mean is over all tokens that count, not over the weights.
  assert sums.tokens == 11


@pytest.mark.parametrize('regime', (Regime.JOINT, Regime.TUNE))
def test_distillation_imitates_the_detached_final_head(
  params, config, batch, regime
):
  share, temperature = 0.4, 2.0
  objective = Objective(
    regime=regime,
    exit_weights=ExitWeights(weights=WEIGHTS),
    distillation_weight=share,
    temperature=temperature,
    gate_weight=0.0,
    chunk_size=6,
  )
  assert objective.full_depth(config)
  value, sums, grads = value_and_gradient(params, config, batch, objective)

  def divergence(student, teacher):
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)

  def dense(trainable):
    logits = all_logits(freeze.merge(trainable, params), config, batch)
    total = 0.0
    if regime is Regime.JOINT:
      total += masked_sum(dense_loss(logits['final'], batch), batch)
    for e, weight in zip(config.exits, WEIGHTS, strict=True):
      hard = dense_loss(logits[e.name], batch)
      soft = divergence(logits[e.name], logits['final'])
      mixed = (1 - share) * hard + share * temperature**2 * soft
      total += weight * masked_sum(mixed, batch)
    return total

  trainable, _ = freeze.split(params, regime=regime)
  want, want_grads = jax.jit(jax.value_and_grad(dense))(trainable)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert_trees_close(without_gates(grads), without_gates(want_grads))
  logits = all_logits(params, config, batch)
  soft = divergence(logits['exit_1'], logits['final'])
  np.testing.assert_allclose(
    sums.exits.divergence[1], masked_sum(soft, batch), rtol=1e-4
  )


def test_gates_learn_agreement_from_detached_streams(params, config, batch):
  objective = Objective(
    regime=Regime.JOINT, exit_weights=ExitWeights(weights=0.0), gate_weight=3.0
  )
  value, sums, grads = value_and_gradient(params, config, batch, objective)
  logits = all_logits(params, config, batch)
  final_top1 = jnp.argmax(logits['final'], -1)
  gated = [e for e in config.exits if e.gate is not GateKind.NONE]
  assert len(gated) == 2

  streams = exit_inputs(params, config, batch)

  def dense(exits):
    total = 0.0
    for e in gated:
      label = jnp.argmax(logits[e.name], -1) == final_top1
      logit = gate_logit(
        exits[e.name], streams[e.name].hidden, exit=e, config=config.model
      )
      loss = optax.sigmoid_binary_cross_entropy(
        logit, label.astype(jnp.float32)
      )
      total += masked_sum(loss, batch)
    return total

  want_sum, want_grads = jax.jit(jax.value_and_grad(dense))(params['exits'])
  final = masked_sum(dense_loss(logits['final'], batch), batch)
  np.testing.assert_allclose(value, final + 3 * want_sum, rtol=1e-5)
  np.testing.assert_allclose(jnp.sum(sums.exits.gate_loss), want_sum, rtol=1e-5)
  for e in gated:
    want = jax.tree.map(lambda g: 3 * g, want_grads[e.name]['gate'])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(want))
    assert_trees_close(grads['exits'][e.name]['gate'], want)
  # Nothing but the gates and the final loss is moved.
  alone = Objective(regime=Regime.STANDARD)
  _, _, standard = value_and_gradient(params, config, batch, alone)
  assert_trees_close(grads['backbone'], standard['backbone'], atol=1e-5)


def test_gates_make_tuning_run_to_the_end(config):
  objective = Objective(regime=Regime.TUNE)
  assert objective.full_depth(config)
  assert not dataclasses.replace(objective, gate_weight=0.0).full_depth(config)


def test_gate_accuracy(params, config, batch):
  objective = Objective(regime=Regime.TUNE)
  _, sums, _ = value_and_gradient(params, config, batch, objective)
  # A fresh gate says 0, which is "do not trust": right where they disagree.
  # These gates have been moved, so compute from their logits.
  logits = all_logits(params, config, batch)
  streams = exit_inputs(params, config, batch)
  e = config.exits[1]
  logit = gate_logit(
    params['exits'][e.name],
    streams[e.name].hidden,
    exit=e,
    config=config.model,
  )
  agree = jnp.argmax(logits[e.name], -1) == jnp.argmax(logits['final'], -1)
  right = (logit > 0) == agree
  assert sums.exits.gate_correct[1] == masked_sum(right, batch)


class TestRotation:
  objective = Objective(
    regime=Regime.JOINT,
    exit_weights=ExitWeights(weights=WEIGHTS, curriculum=Curriculum.ROTATIONAL),
    gate_weight=0.0,
  )

  @pytest.mark.parametrize('step', range(6))
  def test_one_exit_learns_a_step(self, params, config, batch, step):
    value, sums, grads = value_and_gradient(
      params, config, batch, self.objective, step=step
    )
    turn = step % 5
    taken = np.flatnonzero(sums.exits.tokens)
    assert taken.tolist() == [turn]
    logits = all_logits(params, config, batch)
    name = config.exits[turn].name
    want = masked_sum(dense_loss(logits['final'], batch), batch) + WEIGHTS[
      turn
    ] * masked_sum(dense_loss(logits[name], batch), batch)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for i, e in enumerate(config.exits):
      moved = [np.any(g) for g in jax.tree.leaves(grads['exits'].get(e.name))]
      assert any(moved) == (i == turn and bool(moved))

  def test_the_others_are_not_computed(self, params, config, batch):
    def loss(params, step):
      return losses.objective_sum(
        params,
        {},
        batch,
        config=config,
        objective=self.objective,
        forward=FORWARD,
        step=step,
      )[0]

    program = jax.make_jaxpr(loss)(params, jnp.zeros((), jnp.int32))
    outside, branches = head_products(program.jaxpr, config.model.vocab_size)
    assert outside == 1  # the final head
    assert branches == [1] * 5


def head_products(jaxpr, vocab_size):
  """Count products as wide as the vocabulary, outside and in each branch."""
  outside, branches = 0, []
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      outside += equation.outvars[0].aval.shape[-1] == vocab_size
    if equation.primitive.name == 'cond':
      for branch in equation.params['branches']:
        branches.append(head_products(branch.jaxpr, vocab_size)[0])
      continue
    for parameter in equation.params.values():
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        more, nested = head_products(inner, vocab_size)
        outside += more
        branches += nested
  return outside, branches


def test_gradual_curriculum_adds_exits_from_the_deepest(batch):
  config = tiny.tiny_config('1:norm,2:norm,3:norm')
  params = tiny.tiny_params(config)
  objective = Objective(
    regime=Regime.TUNE,
    exit_weights=ExitWeights(curriculum=Curriculum.GRADUAL, gradual_steps=8),
  )
  taken = []
  for step in (0, 3, 4, 8, 100):
    _, sums, _ = value_and_gradient(params, config, batch, objective, step=step)
    taken.append(np.flatnonzero(sums.exits.tokens).tolist())
  assert taken == [[2], [2], [1, 2], [0, 1, 2], [0, 1, 2]]


def test_exits_do_not_influence_one_another(params, config, batch):
  objective = Objective(regime=Regime.TUNE)
  _, _, together = value_and_gradient(params, config, batch, objective)
  for e in config.exits:
    if not params['exits'].get(e.name):
      continue
    alone = config.with_exits((e,))
    one = {**params, 'exits': {e.name: params['exits'][e.name]}}
    _, _, grads = value_and_gradient(one, alone, batch, objective)
    assert_trees_close(
      grads['exits'][e.name], together['exits'][e.name], atol=1e-5
    )


def test_padding_changes_nothing(params, config, batch):
  objective = Objective(regime=Regime.JOINT, gate_weight=0.0)
  noise = jnp.where(batch.weights > 0, batch.tokens, 5)
  other = batch.replace(
    tokens=noise, targets=jnp.where(batch.weights > 0, batch.targets, 3)
  )
  got = value_and_gradient(params, config, other, objective)
  want = value_and_gradient(params, config, batch, objective)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)


def test_evaluation_measures_every_head(params, config, batch):
  evaluate = jax.jit(
    functools.partial(losses.evaluation_sums, forward=FORWARD),
    static_argnames=('config', 'full_depth'),
  )
  sums = evaluate(params, batch, config=config, full_depth=True)
  assert sums.final.tokens == 11
  np.testing.assert_array_equal(sums.exits.tokens, [11] * 5)
  cut = freeze.cut_to_depth(
    params, config=config.with_exits(config.exits[:3]), full_depth=False
  )
  shallow = evaluate(
    cut,
    batch,
    config=config.with_exits(config.exits[:3]),
    full_depth=False,
  )
  assert shallow.final.tokens == 0
  np.testing.assert_allclose(shallow.exits.loss, sums.exits.loss[:3], rtol=1e-5)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'distillation_weight': 1.5}, 'a share between 0 and 1'),
    ({'temperature': 0.0}, 'temperature must be above 0'),
    ({'gate_weight': -1.0}, 'gate_weight must be >= 0'),
    ({'chunk_size': 0}, 'chunk_size must be at least 1'),
  ],
)
def test_bad_objectives(fields, words):
  with pytest.raises(ArgumentError, match=words):
    Objective(**fields)
