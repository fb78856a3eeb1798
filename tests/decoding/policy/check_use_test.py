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
"""Tests that a policy is used for nothing but what it was certified for."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import eejax
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import backbone_hash
from eejax.data.tokenizer import train_bpe
from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.generate import generate as decode
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.certificate import LEARN_THEN_TEST, Certificate
from eejax.decoding.policy.check_use import Use, certify, check_use
from eejax.decoding.policy.criteria import Criterion, Reads, register, registry
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.models.stacking import truncate
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig
from eejax.testing import tiny
from eejax.testing.edits import single_edits

CONFIG = tiny.tiny_config()
MODEL = Model(CONFIG, tiny.tiny_params(CONFIG))
POLICY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None, 0.9))
CERTIFICATE = Certificate(
  method=LEARN_THEN_TEST,
  risk=0.05,
  delta=0.1,
  bound='hoeffding_bentkus',
  measure='rouge_l',
  sequences=200,
  mean_loss=0.01,
  p_value=0.03,
  prompt_tokens=8,
  max_new_tokens=16,
  dtype='float32',
  data={'name': 'text.txt', 'hashes': ['a', 'b']},
  versions={'eejax': '0'},
)
CERTIFIED = certify(POLICY, MODEL, CERTIFICATE)


def generate(policy, model=MODEL, **fields):
  fields = {'max_new_tokens': 4, **fields}
  return eejax.generate(model, [[3, 4]], policy=policy, **fields)


def engine(policy, model=MODEL, **fields):
  return Engine(model, policy=policy, limits=EngineLimits(slots=1), **fields)


# Without a certificate nothing is promised, and the policy may be used.
EDITS = {
  name: values
  for name, values in single_edits(CERTIFIED.to_json())
  if name != 'certificate deleted'
}


def test_every_field_of_a_policy_is_edited():
  for prefix, kind in (('', Policy), ('certificate.', Certificate)):
    for field in dataclasses.fields(kind):
      name = f'{prefix}{field.name} changed'
      assert name in EDITS or field.name == 'certificate'


@pytest.mark.parametrize('name', EDITS)
def test_every_edit_of_its_file_is_refused(name):
  for use in (generate, engine):
    with pytest.raises(ArgumentError) as error:
      use(Policy.from_json(EDITS[name]))
    assert str(error.value).endswith('.')


@pytest.mark.parametrize(
  'change',
  [
    {'thresholds': (0.5, None, 0.89)},
    {'criterion': 'margin'},
    {'kv_strategy': KVStrategy.COPY},
    {'minimum_depth': 2},
    {'batching': Batching.REFERENCE},
    {'mode': Mode.SPECULATIVE},
    {'mode': Mode.FULL},
    {'prompt_lookup': 2},
    {'threshold_rule': 'decaying(4)'},
    {'scored_vocabulary': 'frequent(9)'},
    {'backbone_hash': None},
  ],
  ids=str,
)
def test_a_setting_may_not_change_afterwards(change):
  policy = dataclasses.replace(CERTIFIED, **change)
  for use in (generate, engine):
    with pytest.raises(ArgumentError, match='was changed after it was'):
      use(policy)


def test_what_was_certified_may_be_used():
  result = generate(CERTIFIED)
  assert result.policy == CERTIFIED
  assert 'certified at 0.9' in result.summary()
  assert generate(POLICY).rows[0].tokens == result.rows[0].tokens
  check_use(Policy.from_json(CERTIFIED.to_json()), MODEL, Use('float32'))
  engine(CERTIFIED).submit([3, 4], max_new_tokens=16)


def test_another_mode_promises_nothing_and_goes():
  assert generate(CERTIFIED, mode='full').policy.certificate is None


# MARK: The model


def with_leaf(tree, path, change=lambda x: x + 1e-6):
  """Return a tree in which one leaf is another."""
  if not path:
    return change(tree)
  key, *rest = path
  return {**tree, key: with_leaf(tree[key], rest, change)}


BACKBONE = [
  ('embedding', 'table'),
  ('final_norm', 'scale'),
  ('blocks', 'mlp', 'down', 'kernel'),
]


@pytest.mark.parametrize('path', BACKBONE, ids=lambda path: path[0])
def test_other_weights_are_refused(path):
  changed = with_leaf(MODEL.params, ('backbone', *path))
  # The hash that the model carries is that of the weights it had.
  model = dataclasses.replace(
    MODEL, params=changed, backbone_hash=CERTIFIED.backbone_hash
  )
  for use in (generate, engine):
    with pytest.raises(ArgumentError, match='other weights of the backbone'):
      use(CERTIFIED, model)


def test_weights_that_are_changed_in_place_are_seen():
  backbone = dict(MODEL.params['backbone'])
  model = dataclasses.replace(
    MODEL, params={**MODEL.params, 'backbone': backbone}
  )
  check_use(CERTIFIED, model)
  backbone['final_norm'] = with_leaf(backbone['final_norm'], ['scale'])
  with pytest.raises(ArgumentError, match='other weights'):
    check_use(CERTIFIED, model)


def test_other_exits_are_refused():
  exits = with_leaf(
    MODEL.params['exits'],
    ['exit_2'],
    lambda e: jax.tree.map(lambda x: 2 * x, e),
  )
  model = dataclasses.replace(MODEL, params={**MODEL.params, 'exits': exits})
  for use in (generate, engine):
    with pytest.raises(ArgumentError, match='another exit_2'):
      use(CERTIFIED, model)


@pytest.mark.parametrize('exits', ['1:norm,2:mlp,3:norm', '1:norm,2:mlp'])
def test_exits_of_another_kind_or_number_are_refused(exits):
  config = tiny.tiny_config(exits)
  names = {e.name for e in config.exits}
  kept = {k: v for k, v in MODEL.params['exits'].items() if k in names}
  model = Model(config, {**MODEL.params, 'exits': kept})
  with pytest.raises(ArgumentError, match='another exit_3'):
    check_use(CERTIFIED, model)


def test_an_exit_more_is_refused():
  model = eejax.add_exits(MODEL, '4:norm')
  with pytest.raises(ArgumentError, match='another exit_4'):
    check_use(CERTIFIED, model)


def test_another_configuration_is_refused():
  inner = CONFIG.model
  rotary = dataclasses.replace(inner.rotary, theta=2 * inner.rotary.theta)
  for change in ({'rotary': rotary}, {'norm_epsilon': 1e-3}, {'eos_ids': ()}):
    config = dataclasses.replace(
      CONFIG, model=dataclasses.replace(inner, **change)
    )
    model = dataclasses.replace(MODEL, config=config)
    for use in (generate, engine):
      with pytest.raises(ArgumentError, match='another configuration'):
        use(CERTIFIED, model)


def test_a_model_that_is_not_there_as_a_whole_is_refused():
  model = dataclasses.replace(MODEL, params=truncate(MODEL.params, depth=3))
  for use in (generate, engine):
    with pytest.raises(ArgumentError, match='3 of 4 blocks are loaded'):
      use(CERTIFIED, model)


def test_another_tokenizer_is_refused(tmp_path):
  texts = ['alpha beta gamma', 'delta epsilon']
  for name, text in zip('ab', texts, strict=True):
    train_bpe([text], vocab_size=270).save(tmp_path / name)
  config = tiny.tiny_config(vocab_size=300)
  model = Model(config, tiny.tiny_params(config), tmp_path / 'a')
  policy = certify(POLICY, model, CERTIFICATE)
  check_use(policy, model)
  for folder in (tmp_path / 'b', None):
    changed = dataclasses.replace(model, tokenizer_folder=folder)
    for use in (generate, engine):
      with pytest.raises(ArgumentError, match='another tokenizer'):
        use(policy, changed)


@pytest.fixture
def chat_model(tmp_path):
  """Return a model with a chat template."""
  train_bpe(['alpha beta gamma'], vocab_size=270).save(tmp_path)
  (tmp_path / 'chat_template.jinja').write_text(
    '{% for m in messages %}{{ m.content }} {% endfor %}'
  )
  config = tiny.tiny_config(vocab_size=300)
  return Model(config, tiny.tiny_params(config), tmp_path)


MESSAGES = [{'role': 'user', 'content': 'alpha'}]
OF_CONVERSATIONS = dataclasses.replace(
  CERTIFICATE, data={**CERTIFICATE.data, 'unit': 'conversation'}
)


@pytest.mark.parametrize(
  'certificate, right, wrong, words',
  [
    (CERTIFICATE, ['alpha'], MESSAGES, 'on texts, and this is a conversation'),
    (OF_CONVERSATIONS, MESSAGES, ['alpha'], 'on conversations, and this'),
    (OF_CONVERSATIONS, MESSAGES, [[3, 4]], 'on conversations, and this'),
  ],
  ids=['texts', 'conversations', 'ids'],
)
def test_a_prompt_of_another_kind_is_refused(
  chat_model, certificate, right, wrong, words
):
  policy = certify(POLICY, chat_model, certificate)
  ask = lambda prompts, policy: eejax.generate(
    chat_model, prompts, policy=policy, max_new_tokens=1
  )
  assert ask(right, policy).policy == policy
  with pytest.raises(ArgumentError, match=words):
    ask(wrong, policy)
  ask(wrong, policy.without_certificate())


def test_another_chat_template_is_refused(chat_model):
  policies = [
    certify(POLICY, chat_model, c) for c in (CERTIFICATE, OF_CONVERSATIONS)
  ]
  file = chat_model.tokenizer_folder / 'chat_template.jinja'
  for template in (f'{file.read_text()}!', None):
    file.unlink() if template is None else file.write_text(template)
    changed = Model(
      chat_model.config, chat_model.params, chat_model.tokenizer_folder
    )
    check_use(policies[0], changed)
    with pytest.raises(ArgumentError, match='another chat template'):
      check_use(policies[1], changed)


def test_how_weights_are_stored_does_not_matter():
  half = lambda model, kind: dataclasses.replace(
    model, params=jax.tree.map(lambda x: x.astype(kind), model.params)
  )
  stored = half(MODEL, jnp.bfloat16)
  policy = certify(POLICY, stored, CERTIFICATE)
  check_use(policy, half(stored, jnp.float32))
  with pytest.raises(ArgumentError, match='was certified with another exit_1'):
    check_use(policy, MODEL)


class Wishful(Criterion):
  """A criterion of a user."""

  name, reads = 'wishful', Reads.LOGITS

  def score(self, evidence):
    return jax.nn.sigmoid(evidence.logits.max(axis=-1))


def test_another_criterion_of_the_same_name_is_refused(monkeypatch):
  monkeypatch.setattr(registry, '_CRITERIA', dict(registry._CRITERIA))
  register(Wishful())
  policy = dataclasses.replace(POLICY, criterion='wishful')
  certified = certify(policy, MODEL, CERTIFICATE)
  check_use(certified, MODEL)
  source = 'eejax.decoding.policy.bindings.inspect.getsource'
  monkeypatch.setattr(source, lambda kind: 'return 1.0')
  with pytest.raises(ArgumentError, match='another criterion'):
    check_use(certified, MODEL)


# MARK: The use


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'dtype': 'bfloat16'}, 'in float32, and this decodes in bfloat16;'),
    ({'weights': 'int8'}, 'in float32 with weights in int8;'),
    ({'kv': 'int8'}, 'in float32 with keys and values in int8;'),
    ({'temperature': 1.0}, 'for greedy text, and this is sampled'),
    ({'max_new_tokens': 17}, 'up to 16 tokens, and this may have 17'),
    ({'logit_bias': {3: 1.0}}, 'does not cover logit_bias'),
  ],
  ids=str,
)
def test_a_use_that_is_not_covered_is_refused(fields, message):
  with pytest.raises(ArgumentError, match=message) as error:
    generate(CERTIFIED, **fields)
  assert 'policy.without_certificate()' in str(error.value)


def test_without_the_certificate_every_use_goes():
  policy = CERTIFIED.without_certificate()
  use = Use('bfloat16', Quantization.INT8, Quantization.INT8, 1.0, 99)
  check_use(policy, MODEL, use)
  result = generate(policy, max_new_tokens=17)
  assert 'certified' not in result.summary()


def test_a_certificate_of_rounded_weights_covers_these_alone():
  certificate = dataclasses.replace(CERTIFICATE, weights='int8')
  policy = certify(POLICY, MODEL, certificate)
  check_use(policy, MODEL, Use(weights=Quantization.INT8))
  with pytest.raises(ArgumentError, match='certified in float32 with weights'):
    check_use(policy, MODEL)


def test_an_engine_holds_every_request_against_the_certificate():
  made = engine(CERTIFIED)
  for fields, message in (
    ({'sampling': SamplingConfig(temperature=0.5)}, 'sampled'),
    ({'max_new_tokens': 17}, 'may have 17'),
    ({'thresholds': (0.5, 0.9)}, 'thresholds of a request'),
    ({'sampling': SamplingConfig(logit_bias={3: 1.0})}, 'logit_bias'),
    ({'sampling': SamplingConfig(min_tokens=1)}, 'min_tokens'),
    ({'sampling': SamplingConfig(ignore_eos=True)}, 'ignore_eos'),
  ):
    with pytest.raises(ArgumentError, match=message):
      made.submit([3, 4], **{'max_new_tokens': 4, **fields})
  # What only ends a text sooner takes nothing from the promise.
  made.submit(
    [3, 4], max_new_tokens=4, sampling=SamplingConfig(stop_token_ids=(5,))
  )
  for fields in ({'frequent_ids': [1, 2]}, {'eos_ids': [5]}):
    with pytest.raises(ArgumentError, match='of your own'):
      engine(CERTIFIED, **fields)
  with pytest.raises(ArgumentError, match='decodes in bfloat16'):
    engine(CERTIFIED, dtype=jnp.bfloat16)


def test_parameters_alone_carry_no_certificate():
  with pytest.raises(ArgumentError, match='parameters without their model'):
    decode(MODEL.params, config=CONFIG, prompts=[[3]], policy=CERTIFIED)
  with pytest.raises(ArgumentError, match='parameters without their model'):
    Engine(MODEL.params, config=CONFIG, policy=CERTIFIED)


# MARK: Without a certificate


def test_a_policy_of_another_model_is_refused_without_a_certificate():
  changed = with_leaf(MODEL.params, ('backbone', *BACKBONE[0]))
  another = dataclasses.replace(MODEL, params=changed)
  fitted = CERTIFIED.without_certificate()
  for use in (generate, engine):
    use(fitted)
    with pytest.raises(ArgumentError, match='fitted for another model'):
      use(fitted, another)
  named = dataclasses.replace(another, backbone_hash=fitted.backbone_hash)
  check_use(fitted, named)
  check_use(POLICY, another)


def test_a_policy_fitted_to_a_model_as_it_was_stored_fits():
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), MODEL.params)
  fitted = dataclasses.replace(POLICY, backbone_hash=backbone_hash(params))
  check_use(fitted, Model(CONFIG, params))
