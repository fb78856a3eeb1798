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
"""Tests of a model as lm-eval takes it."""

import json

import jax
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.decoding.generate import generate
from eejax.decoding.policy.bindings import policy_hash
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation.passages import Passage, PassageScorer
from eejax.evaluation.tasks import EejaxLM, exit_policy
from eejax.recipes.evaluate_tasks import task_model
from eejax.testing import tiny

WORDS = 'alpha beta gamma delta epsilon'
EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None), window=3)
TEMPLATE = (
  '{% for m in messages %}{{ m.role + ": " + m.content + "\\n" }}{% endfor %}'
  '{% if add_generation_prompt %}assistant:{% endif %}'
)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Return a tiny model with exits, a tokenizer and a chat template."""
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer = train_bpe([WORDS], vocab_size=280)
  tokenizer.save(folder)
  (folder / 'chat_template.jinja').write_text(TEMPLATE)
  config = tiny.tiny_config(
    '1:norm,3:norm',
    vocab_size=tokenizer.vocab_size,
    bos_id=tokenizer.bos_id,
    eos_ids=(),
  )
  params = jax.tree.map(lambda x: 8 * x, tiny.tiny_params(config))
  return Model(config, params, folder)


@pytest.fixture(scope='module')
def lm(model):
  """Return a model for lm-eval under a policy."""
  return task_model(model, policy=EARLY, batch_size=2)


def ask(kind, *arguments):
  return [
    Instance(request_type=kind, doc={}, arguments=a, idx=i)
    for i, a in enumerate(arguments)
  ]


def test_log_likelihoods_are_those_of_the_scorer(model, lm):
  pairs = [('alpha beta', ' gamma'), ('delta ', 'alpha'), ('', 'beta')]
  found = lm.loglikelihood(ask('loglikelihood', *pairs), disable_tqdm=True)
  encode = model.tokenizer.encode
  bos = model.tokenizer.bos_id
  contexts = [encode(t, add_bos=True) for t in ('alpha beta', 'delta', '')]
  wholes = ('alpha beta gamma', 'delta alpha', 'beta')
  passages = [
    Passage(c, encode(w, add_bos=True)[len(c) :])
    for c, w in zip(contexts, wholes, strict=True)
  ]
  assert contexts[2] == [bos]
  scorer = PassageScorer(
    model.params, config=model.config, policy=EARLY, batch_size=2
  )
  for ours, score in zip(found, scorer.score(passages), strict=True):
    assert ours == (score.log_prob, bool(score.is_likeliest.all()))


def test_a_long_text_is_read_in_windows_of_the_context(model, lm):
  text = ' '.join(np.random.default_rng(0).choice(WORDS.split(), 40))
  (found,) = lm.loglikelihood_rolling(ask('loglikelihood_rolling', (text,)))
  ids = model.tokenizer.encode(text, add_bos=True)
  limit = model.config.model.max_length
  assert limit + 10 < len(ids) < 2 * limit
  first = Passage(ids[:1], ids[1 : limit + 1])
  rest = ids[limit + 1 :]
  last = Passage(ids[: -len(rest)][-limit - 1 + len(rest) :], rest)
  scorer = PassageScorer(
    model.params, config=model.config, policy=EARLY, batch_size=2
  )
  assert found == pytest.approx(
    sum(s.log_prob for s in scorer.score([first, last])), rel=1e-5
  )


def test_texts_are_generated_under_the_policy_up_to_a_stop(model, lm):
  contexts = ['alpha', 'beta gamma', 'delta alpha beta']
  arguments = [
    (c, {'until': [], 'max_gen_toks': 5 + i}) for i, c in enumerate(contexts)
  ]
  texts = lm.generate_until(ask('generate_until', *arguments))
  encode = model.tokenizer.encode
  for i, (context, text) in enumerate(zip(contexts, texts, strict=True)):
    (row,) = generate(
      model.params,
      config=model.config,
      prompts=[encode(context, add_bos=True)],
      policy=EARLY,
      max_new_tokens=5 + i,
    ).rows
    assert text == ''.join(
      model.tokenizer.pieces(row.tokens, context=row.prompt_tokens)
    )
  stop = texts[2][2:4]
  (cut,) = lm.generate_until(
    ask('generate_until', (contexts[2], {'until': stop, 'max_gen_toks': 7}))
  )
  assert cut == texts[2].partition(stop)[0]


def test_a_stop_string_may_be_a_control_token(model):
  lm = EejaxLM(model)
  eos = model.tokenizer.special_tokens['eos_token']
  asked = [lm._read('alpha', {'until': [eos, '\n']})]
  assert lm._ends(asked) == model.tokenizer.eos_ids
  assert lm._ends([lm._read('alpha', {'until': ['\n']})]) is None


def test_a_context_that_leaves_no_room_loses_its_beginning(model, lm):
  long = ' '.join(['alpha'] * 100)
  arguments = {'until': [], 'max_gen_toks': 40}
  (text,) = lm.generate_until(ask('generate_until', (long, arguments)))
  assert text


def test_results_tell_the_policy_and_its_depths(model):
  lm = task_model(model, policy=EARLY, batch_size=2)
  lm.loglikelihood(
    ask('loglikelihood', ('alpha', ' beta gamma delta')), disable_tqdm=True
  )
  lm.generate_until(ask('generate_until', ('alpha', {'max_gen_toks': 6})))
  info = lm.get_model_info()['eejax']
  assert info['policy_hash'] == policy_hash(EARLY)
  assert info['policy'] == EARLY.to_json() and info['mode'] == 'early_exit'
  for facts in (info['scored'], info['generated']):
    depths = facts['exit_depths']
    assert sum(depths.values()) == facts['tokens'] and set(depths) <= {'1', '4'}
    mean = sum(int(d) * n for d, n in depths.items()) / facts['tokens']
    assert facts['mean_exit_depth'] == pytest.approx(mean)
    assert facts['forecast_speedup'] > 0
    assert facts['block_reads_saved'] < 1
  assert info['generated']['blocks_full'] == 6 * 4
  json.dumps(info)


def test_an_exit_is_a_policy_that_ends_there(model):
  assert exit_policy(model, 3).thresholds == (None, 0.0)
  assert exit_policy(model, 4).mode is Mode.FULL
  lm = EejaxLM(model, exit=1)
  lm.loglikelihood(ask('loglikelihood', ('alpha', ' beta')), disable_tqdm=True)
  assert lm.get_model_info()['eejax']['scored']['mean_exit_depth'] == 1
  with pytest.raises(ArgumentError, match='no exit at depth 2'):
    EejaxLM(model, exit=2)


def test_conversations_go_through_the_chat_template(model):
  lm = EejaxLM(model)
  turns = [{'role': 'system', 'content': 'a'}, {'role': 'user', 'content': 'b'}]
  text = lm.apply_chat_template(turns)
  assert text == 'system: a\nuser: b\nassistant:'
  turns.append({'role': 'assistant', 'content': 'so'})
  opened = lm.apply_chat_template(turns, add_generation_prompt=False)
  assert opened.endswith('assistant: so')
  assert lm.chat_template(True) == TEMPLATE and lm.chat_template() is None
  assert lm.tokenizer_name.startswith('eejax_')
  # Answers end at the tokenizer's end token, too.
  assert lm._ends([]) == model.tokenizer.eos_ids
  with pytest.raises(ArgumentError, match="no chat template 'tools'"):
    lm.chat_template('tools')


def test_start_tokens_are_not_doubled(model):
  lm, bos = EejaxLM(model), model.tokenizer.bos_id
  name = model.tokenizer.special_tokens['bos_token']
  assert lm.tok_encode('alpha')[0] == bos
  assert lm.tok_encode(f'{name}alpha') == lm.tok_encode('alpha')
  assert bos not in lm.tok_encode('alpha', add_special_tokens=False)


def test_lm_eval_knows_it_by_name(model, tmp_path):
  EARLY.save(tmp_path / 'policy.json')
  lm = get_model('eejax').create_from_arg_obj(
    {'pretrained': model, 'policy': str(tmp_path / 'policy.json')},
    {'batch_size': 'auto', 'device': None},
  )
  assert isinstance(lm, EejaxLM) and lm.policy == EARLY


@pytest.mark.parametrize(
  'options, words',
  [
    ({'policy': EARLY, 'exit': 1}, 'leave out exit'),
    ({'batch_size': 'many'}, 'batch_size must be a positive whole number'),
    ({'tensor_parallel': 2}, "no argument 'tensor_parallel'"),
    ({'policy': Policy(backbone_hash='0' * 64)}, 'another model'),
  ],
  ids=str,
)
def test_wrong_arguments_are_one_sentence(model, options, words):
  with pytest.raises(ArgumentError, match=words):
    EejaxLM(model, **options)


def test_generation_of_another_kind_is_refused(lm):
  asked = ask('generate_until', ('alpha', {'num_beams': 4}))
  with pytest.raises(ArgumentError, match="generates with 'num_beams'"):
    lm.generate_until(asked)
