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
"""Test the model of t5x: scores, predictions, features, what it holds."""

import functools

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.models import decoder
from eejax.testing import tiny

pytestmark = pytest.mark.t5x

POLICY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.05,), window=3)


@pytest.fixture(scope='module')
def params(tiny_params):
  from eejax.t5x_adapter.optimizers import frozen_tree

  return frozen_tree(tiny_params)


@pytest.fixture(scope='module')
def on_device(t5x_batch):
  return {name: jnp.asarray(value) for name, value in t5x_batch.items()}


def test_variables_have_names_and_no_empty_nodes(make_model):
  from flax.linen import partitioning
  from t5x import train_state

  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)
  variables = jax.eval_shape(
    lambda: make_model(config=config).get_initial_variables(
      jax.random.key(0), {}
    )
  )
  # An exit that shares its output matrix has no parameters.
  assert 'exit_0' not in variables['params']['exits']
  state = train_state.InferenceState.create(variables)
  names = partitioning.get_axis_names(state.params_axes)
  table = names['backbone']['embedding']['table']
  assert tuple(table) == ('vocab', 'embed')


def test_a_score_is_the_log_likelihood_of_the_targets(
  make_model, params, tiny_params, tiny_config, on_device
):
  model = make_model()
  found, parts = jax.jit(
    functools.partial(model.score_batch, return_intermediates=True)
  )(params, on_device)
  logits = decoder.logits(
    tiny_params,
    on_device['decoder_input_tokens'],
    config=tiny_config,
    positions=on_device['decoder_positions'],
    segment_ids=on_device['decoder_segment_ids'],
  )
  targets = on_device['decoder_target_tokens'][..., None]
  for name, z in logits.items():
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(z), targets, axis=-1)
    expected = log_probs[..., 0] * on_device['decoder_loss_weights']
    (scores,) = parts[name]['token_scores']
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    if name == 'final':
      np.testing.assert_allclose(found, expected.sum(-1), atol=1e-4)


def test_a_prediction_is_what_eejax_generates(
  make_model, params, tiny_params, tiny_config
):
  rows = np.zeros((2, 12), np.int32)
  is_prompt = np.zeros_like(rows)
  prompts = [[1, 5, 9, 3], [1, 8]]
  for row, prompt in enumerate(prompts):
    rows[row, : len(prompt)] = prompt
    is_prompt[row, : len(prompt)] = 1
  batch = {
    'decoder_input_tokens': jnp.asarray(rows),
    'decoder_causal_attention': jnp.asarray(is_prompt),
  }
  model = make_model(policy=POLICY)
  tokens, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
  for row, prompt in enumerate(prompts):
    own = generate(
      tiny_params,
      config=tiny_config,
      prompts=[prompt],
      policy=POLICY,
      max_new_tokens=12 - len(prompt) + 1,
      eos_ids=(2,),
    ).rows[0]
    count = len(own.tokens)
    assert tuple(tokens[row, :count].tolist()) == own.tokens
    # The vocabulary's text ends at its end token, not at zeros.
    if count < 12:
      assert tokens[row, count] == 2
    assert not tokens[row, count + 1 :].any()
    depths = aux['exit_depths'][row]
    assert tuple(depths[:count].tolist()) == own.exit_depths
    assert aux['scores'][row] == pytest.approx(sum(own.logprobs), abs=1e-4)


def test_held_out_losses_are_those_of_every_head_whatever_is_trained(
  make_model, params, on_device
):
  for regime in ('standard', 'tune'):
    _, found = make_model(regime).eval_fn(params, on_device)
    for name in ('final/loss', 'exit_1/loss', 'exit_3/gate_accuracy'):
      assert np.isfinite(found[name].compute()), name


def test_rows_begin_with_the_models_own_start_token(make_model):
  from eejax.data.seqio_runtime import tf

  converter = make_model().FEATURE_CONVERTER_CLS(pack=False)
  examples = tf.data.Dataset.from_tensors(
    {'targets': tf.constant([7, 8, 2], tf.int32)}
  )
  row = next(iter(converter(examples, {'targets': 5}).as_numpy_iterator()))
  assert row['decoder_input_tokens'].tolist() == [1, 7, 8, 2, 0]


def test_parameters_go_there_and_back(tiny_params):
  from eejax.t5x_adapter.optimizers import frozen_tree, plain_tree

  held = frozen_tree(tiny_params)
  assert isinstance(held, flax.core.FrozenDict)
  assert jax.tree.structure(plain_tree(held)) == jax.tree.structure(tiny_params)
