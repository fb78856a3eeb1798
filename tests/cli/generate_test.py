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
"""Tests of `eejax generate`."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import folder
from eejax.cli import exit_colours, main, policy_flags
from eejax.data.tokenizer import Tokenizer, train_bpe
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.certificate import LEARN_THEN_TEST, Certificate
from eejax.decoding.policy.check_use import certify
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.ops.quant import Quantization
from eejax.testing.edits import single_edits

EARLY = ('--criterion', 'max_prob', '--threshold', '1e-9,never')
DRAFTS = ('--mode', 'speculative', '--criterion', 'max_prob')
TWO = ('--prompt', 'alpha beta', '--prompt', 'gamma')


@pytest.fixture(scope='module')
def place(tmp_path_factory, save_tiny):
  """Return a folder with a checkpoint, policies and prompts."""
  root = tmp_path_factory.mktemp('generate')
  saved = save_tiny(root, exits='1:norm,3:mlp:gate', scale=8)
  fitted = Policy(
    Mode.EARLY_EXIT,
    'margin',
    (0.5, None),
    window=4,
    backbone_hash=saved.backbone_hash,
  )
  fitted.save(root / 'policy.json')
  Policy(backbone_hash='0' * 64).save(root / 'other.json')
  (root / 'prompts.txt').write_text('alpha beta\n\ngamma\n')
  (root / 'prompts.jsonl').write_text(
    '{"prompt": "alpha beta"}\n{"prompt": "gamma", "more": 1}\n'
  )
  return root


def run(capsys, place, *argv, expect=0):
  words = ['generate', place / 'model', '--max-new-tokens', 9, *argv]
  code = main.main([str(w) for w in words])
  out, err = capsys.readouterr()
  assert code == expect, err
  return out, err


def run_json(capsys, place, *argv):
  return json.loads(run(capsys, place, '--json', *argv)[0])


# MARK: What is printed


def test_json_holds_what_the_design_promises(place, capsys):
  found = run_json(
    capsys, place, '--prompt', 'alpha', '--prompt', 'beta eta', *EARLY
  )
  assert set(found) == {'results', 'timing', 'accounting', 'mode', 'policy'}
  assert len(found['results']) == 2
  for row in found['results']:
    per_token = ('tokens', 'exit_depths', 'scores', 'logprobs')
    assert {len(row[name]) for name in per_token} == {9}
    assert row['exit_depths'] == [1] * 7 + [4, 1]
    assert [s is None for s in row['scores']] == [False] * 7 + [True, False]
    assert row['finish_reason'] == 'length'
    tokenizer = Tokenizer.load(place / 'tokenizer')
    assert tokenizer.decode(row['prompt_tokens']) in ('alpha', 'beta eta')
    assert row['prompt_tokens'][0] == tokenizer.bos_id
    whole = tokenizer.decode(row['prompt_tokens'] + row['tokens'])
    assert whole.endswith(row['text'])
  timing, work = found['timing'], found['accounting']
  assert {'prefill_s', 'decode_s', 'tokens_per_s', 'compile_s'} <= set(timing)
  # Eight tokens of each row went through all four blocks, one through one.
  assert work['blocks_run'] == 2 * (8 * 4 + 1)
  assert work['blocks_full'] == 2 * 9 * 4
  assert work['head_calls'] == 2 * 9
  assert work['catch_up_blocks'] == 2 * 7 * 3
  assert found['mode'] == 'early_exit'
  assert found['policy']['thresholds'] == [1e-9, 'never']


def test_people_get_prompt_and_text(place, capsys):
  out, err = run(capsys, place, '--prompt', 'alpha beta')
  text = run_json(capsys, place, '--prompt', 'alpha beta')['results'][0]['text']
  assert out == f'alpha beta{text}\n'
  assert 'tokens/s' in err and '100% of the block-passes' in err


def test_a_stream_shows_the_same_text(place, capsys):
  streamed, _ = run(capsys, place, '--prompt', 'alpha beta', '--stream')
  assert streamed == run(capsys, place, '--prompt', 'alpha beta')[0]


def test_exits_are_listed_where_there_are_no_colours(place, capsys):
  out, _ = run(capsys, place, '--prompt', 'alpha', '--show-exits', *EARLY)
  assert 'exit depths: 1 1 1 1 1 1 1 4 1\n' in out
  assert 'depth 1 89%' in out and 'full depth 11%' in out
  assert '\x1b' not in out


@pytest.mark.parametrize('stream', [(), ('--stream',)])
def test_exits_are_coloured_on_a_terminal(place, capsys, monkeypatch, stream):
  monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
  monkeypatch.delenv('NO_COLOR', raising=False)
  plain, _ = run(capsys, place, '--prompt', 'alpha', *EARLY)
  out, _ = run(
    capsys, place, '--prompt', 'alpha', '--show-exits', *stream, *EARLY
  )
  text, legend, _ = out.rsplit('\n', 2)
  assert '\x1b[38;5;46m' in text and '\x1b[38;5;46m' in legend
  assert re.sub(r'\x1b\[[0-9;]*m', '', text) == plain.rstrip('\n')


def test_a_painter_tells_depths_apart():
  painter = exit_colours.Painter(depths=(2, 4, 6, 8), has_colours=True)
  painted = [painter.paint(['x'], [d]) for d in painter.depths]
  assert len(set(painted)) == 4 and painted[-1] == 'x'
  assert painter.paint(['', ''], [2, 4]) == ''


def test_a_mesh_gives_the_same_text_and_counts_steps(place, capsys):
  whole, _ = run(capsys, place, '--prompt', 'alpha')
  out, err = run(capsys, place, '--prompt', 'alpha', '--mesh', 'stage=4')
  assert out == whole
  assert '36 pipeline steps on 4 stages, 0 fewer than without exits' in err
  mesh = ('--prompt', 'alpha', '--mesh', 'stage=4')
  streamed, _ = run(capsys, place, *mesh, '--stream')
  assert streamed == whole
  _, err = run(capsys, place, *mesh, '--kv', 'int8', expect=2)
  assert 'kv does not go with mesh' in err


def test_a_mesh_without_stages_streams(place, capsys):
  whole, _ = run(capsys, place, '--prompt', 'alpha')
  mesh = ('--mesh', 'fsdp=2,model=2', '--stream')
  out, _ = run(capsys, place, '--prompt', 'alpha', *mesh)
  assert out == whole


# MARK: What is decoded


@pytest.mark.parametrize('name', ['prompts.txt', 'prompts.jsonl'])
@pytest.mark.parametrize('batch_size', [1, 8])
def test_prompts_of_a_file(place, capsys, name, batch_size):
  found = run_json(
    capsys, place, '--prompts', place / name, '--batch-size', batch_size
  )
  typed = run_json(capsys, place, '--prompt', 'alpha beta', '--prompt', 'gamma')
  tokens = lambda result: [r['tokens'] for r in result['results']]
  assert tokens(found) == tokens(typed)


def test_never_equals_full(place, capsys):
  full = run_json(capsys, place, '--prompt', 'alpha', '--mode', 'full')
  never = run_json(capsys, place, '--prompt', 'alpha', '--threshold', 'never')
  assert full['mode'] == 'full' and never['mode'] == 'early_exit'
  assert full['results'][0]['tokens'] == never['results'][0]['tokens']


def test_a_policy_file_is_followed(place, capsys):
  policy = ('--policy', place / 'policy.json')
  found = run_json(capsys, place, '--prompt', 'alpha', *policy)
  flags = ('--criterion', 'margin', '--threshold', '0.5,never', '--window', 4)
  typed = run_json(capsys, place, '--prompt', 'alpha', *flags)
  assert found['results'] == typed['results']
  full = run_json(capsys, place, '--prompt', 'alpha', *policy, '--mode', 'full')
  assert full['mode'] == 'full'
  assert set(full['results'][0]['exit_depths']) == {4}


def test_seeds_and_sampling_flags(place, capsys):
  flags = ('--prompt', 'alpha', '--temperature', 1.3)
  tokens = lambda *more: run_json(capsys, place, *flags, *more)['results'][0][
    'tokens'
  ]
  assert tokens('--seed', 3) == tokens('--seed', 3)
  assert tokens('--seed', 3) != tokens('--seed', 4)
  greedy = run_json(capsys, place, '--prompt', 'alpha')['results'][0]['tokens']
  assert tokens('--top-k', 1) == tokens('--min-p', 1) == greedy


def test_a_stop_text_ends_a_row_and_leaks_nothing(place, capsys):
  row = run_json(capsys, place, '--prompt', 'alpha')['results'][0]
  # Over the border of two tokens, wherever it lies.
  stop = row['text'][len(row['text']) // 2 :][:3]
  found = run_json(capsys, place, '--prompt', 'alpha', '--stop', stop)
  cut = found['results'][0]
  assert cut['finish_reason'] == 'stop'
  assert cut['text'] == row['text'][: row['text'].index(stop)]
  assert cut['tokens'] == row['tokens'][: len(cut['tokens'])]
  assert len(cut['tokens']) == len(cut['exit_depths']) <= 9
  decoded = Tokenizer.load(place / 'tokenizer').decode(cut['tokens'][:-1])
  assert stop not in decoded


def test_an_empty_prompt_starts_from_the_start_token(place, capsys):
  found = run_json(capsys, place, '--prompt', '')
  assert len(found['results'][0]['prompt_tokens']) == 1


@pytest.mark.parametrize('has_blocks', [True, False], ids=['cut', 'absent'])
def test_blocks_beyond_an_exit_always_taken_are_not_read(
  place, capsys, tmp_path, has_blocks
):
  model = tmp_path / 'model'
  shutil.copytree(place / 'model', model)
  for deeper in ('001', '002', '003'):
    block = model / 'backbone' / 'blocks' / deeper
    if not has_blocks:
      shutil.rmtree(block)
      continue
    for file in block.rglob('*'):
      if file.is_file():
        file.write_bytes(b'')
  argv = ('generate', '--json', '--prompt', 'alpha', '--max-new-tokens', '9')
  always = ('--criterion', 'max_prob', '--threshold', '0')
  assert main.main([*argv, str(model), *always]) == 0
  row = json.loads(capsys.readouterr().out)['results'][0]
  whole = run_json(capsys, place, '--prompt', 'alpha', *always)['results'][0]
  assert row == whole
  assert set(row['exit_depths']) == {1}
  # Every other policy may need them.
  assert main.main([*argv, str(model), *EARLY]) == 2
  assert 'backbone/blocks/001' in capsys.readouterr().err


# MARK: Speculation


@pytest.mark.parametrize(
  'flags',
  [
    (),
    ('--draft-depth', 3, '--draft-length', 2),
    ('--batching', 'depth_queue', '--threshold', '0.01,0.5'),
    ('--scored-vocabulary', 'frequent(40)', '--temperature', 0.8),
  ],
  ids=['default', 'fixed', 'queue', 'sampled'],
)
def test_speculation_gives_the_text_of_the_whole_model(place, capsys, flags):
  found = run_json(capsys, place, *TWO, *DRAFTS, *flags)
  heat = ('--temperature', 0.8) if '--temperature' in flags else ()
  full = run_json(capsys, place, *TWO, *heat)
  tokens = lambda result: [r['tokens'] for r in result['results']]
  assert tokens(found) == tokens(full)
  assert found['mode'] == 'speculative' and full['mode'] == 'full'


def test_accounting_tells_how_many_drafts_were_kept(place, capsys):
  # Every token is drafted, and this exit is random: few are kept.
  flags = (*DRAFTS, '--threshold', 0, '--draft-depth', 1, '--draft-length', 3)
  work = run_json(capsys, place, *TWO, *flags)['accounting']
  assert work['drafted'] >= 12
  assert work['acceptance'] == work['accepted'] / work['drafted'] < 1
  _, err = run(capsys, place, *TWO, *flags)
  assert f'{work["accepted"]} of {work["drafted"]} drafts were kept' in err


def test_accounting_tells_which_drafts_the_text_foretold(place, capsys):
  prompt = ('--prompt', 'alpha beta alpha beta alpha beta')
  flags = (*DRAFTS, '--threshold', 'never', '--prompt-lookup', 1)
  work = run_json(capsys, place, *prompt, *flags)['accounting']
  assert work['drafted'] == work['looked_up'] > 0
  assert work['accepted'] == work['looked_up_accepted']
  _, err = run(capsys, place, *prompt, *flags)
  kept = f'{work["accepted"]} of {work["drafted"]}'
  assert f'{kept} that the text itself foretold' in err


def test_a_model_that_may_not_draft_says_so(place, capsys):
  flags = (*DRAFTS, '--threshold', 'never', '--prompt-lookup', 0)
  work = run_json(capsys, place, *TWO, *flags)['accounting']
  assert (work['drafted'], work['acceptance']) == (0, None)
  assert 'try one at a time' in run(capsys, place, *TWO, *flags)[1]
  one = run(capsys, place, '--prompt', 'alpha', *flags)[1]
  assert 'no token was drafted' in one and 'on this model' in one


def test_drafting_asks_for_less_than_early_exit(place, capsys):
  policy = lambda *flags: run_json(capsys, place, '--prompt', 'alpha', *flags)[
    'policy'
  ]
  speculative = policy('--mode', 'speculative')
  assert speculative['thresholds'] == [0.4]
  assert speculative['draft_depth'] is speculative['draft_length'] is None
  assert speculative['prompt_lookup'] == 2
  unaided = policy('--mode', 'speculative', '--prompt-lookup', 0)
  assert unaided['prompt_lookup'] is None
  assert policy('--mode', 'early_exit')['thresholds'] == [0.9]
  assert policy()['mode'] == 'full'


def test_strategies_and_batchings_reach_the_policy(place, capsys):
  flags = ('--kv-strategy', 'propagate', '--batching', 'depth_queue')
  rule = ('--threshold-rule', 'decaying(2)')
  found = run_json(capsys, place, *TWO, *EARLY, *flags, *rule)['policy']
  assert found['kv_strategy'] == 'propagate'
  assert found['batching'] == 'depth_queue'
  assert found['threshold_rule'] == 'decaying(2)'


def test_a_row_without_finite_logits_ends_and_the_other_goes_on(
  place, capsys, tmp_path
):
  held = folder.load(place / 'model')
  (token, *_) = Tokenizer.load(place / 'tokenizer').encode(
    'gamma', add_bos=False
  )
  embedding = held.params['backbone']['embedding']
  embedding['table'] = embedding['table'].at[token].set(jnp.nan)
  folder.save(tmp_path / 'broken', held)
  words = ['generate', str(tmp_path / 'broken'), *TWO, '--max-new-tokens', '3']
  assert main.main([*words, '--json']) == 0
  out, err = capsys.readouterr()
  rows = json.loads(out)['results']
  assert [r['finish_reason'] for r in rows] == ['length', 'non_finite']
  assert [len(r['tokens']) for r in rows] == [3, 0]
  assert 'prompt 2 ended after 0 tokens because the logits' in err


# MARK: Conversations


@pytest.fixture(scope='module')
def chat_place(place, tmp_path_factory):
  """Return a folder whose model has a chat template, and conversations."""
  root = tmp_path_factory.mktemp('chat')
  shutil.copytree(place / 'model', root / 'model')
  (root / 'model/chat_template.jinja').write_text(
    "{% for m in messages %}{{ m.role[0] + ':' + m.content + ';' }}{% endfor %}"
  )
  turns = [
    {'role': 'user', 'content': 'alpha'},
    {'role': 'assistant', 'content': 'beta'},
    {'role': 'user', 'content': 'gamma'},
  ]
  (root / 'turns.json').write_text(json.dumps(turns))
  lines = [json.dumps({'messages': turns[:1]}), json.dumps(turns)]
  (root / 'turns.jsonl').write_text('\n'.join(lines) + '\n')
  return root


def test_a_prompt_becomes_a_message_of_a_user(chat_place, capsys):
  flags = ('--chat', '--system', 'delta', *TWO)
  rows = run_json(capsys, chat_place, *flags)['results']
  assert [r['prompt'] for r in rows] == [
    's:delta;u:alpha beta;',
    's:delta;u:gamma;',
  ]
  out, _ = run(capsys, chat_place, *flags)
  assert 's:delta;' not in out and rows[0]['text'] in out
  one = ('--chat', '--prompt', 'alpha', '--stream')
  out, _ = run(capsys, chat_place, *one)
  assert 'u:alpha' not in out


def test_conversations_come_from_a_file(chat_place, capsys):
  for name, count in (('turns.json', 1), ('turns.jsonl', 2)):
    flags = ('--messages', chat_place / name)
    rows = run_json(capsys, chat_place, *flags)['results']
    assert len(rows) == count
    assert rows[-1]['prompt'] == 'u:alpha;a:beta;u:gamma;'


@pytest.mark.parametrize(
  'flags, words',
  [
    (('--chat',), 'there is no prompt'),
    (('--prompt', 'a', '--system', 'b'), 'give --chat, too'),
    (('--messages', '{}/turns.json', '--prompt', 'a'), 'the whole conversat'),
    (('--messages', '{}/none.json'), 'none.json cannot be read'),
    (('--messages', '{}/bad.json'), 'is no valid JSON'),
    (('--messages', '{}/empty.jsonl'), 'has no conversation'),
    (('--messages', '{}/role.jsonl'), 'line 1 of .* role of message 1'),
    (('--messages', '{}/number.json'), 'must be a list of'),
    (('--messages', '{}/system.json', '--system', 'b'), 'leave out --system'),
  ],
  ids=str,
)
def test_what_is_no_conversation_is_one_sentence(
  chat_place, capsys, flags, words
):
  system = [{'role': 'system', 'content': 'a'}]
  (chat_place / 'bad.json').write_text('[')
  (chat_place / 'empty.jsonl').write_text('\n')
  (chat_place / 'role.jsonl').write_text('[{"role": "x", "content": "y"}]')
  (chat_place / 'number.json').write_text('3')
  (chat_place / 'system.json').write_text(json.dumps(system))
  flags = [f.format(chat_place) for f in flags]
  _, err = run(capsys, chat_place, *flags, expect=2)
  assert err.count('\n') == 1 and re.search(words, err), err


def test_a_model_without_a_template_takes_no_messages(place, capsys):
  _, err = run(capsys, place, '--chat', '--prompt', 'a', expect=2)
  assert 'no chat template' in err


# MARK: Certificates


@pytest.fixture(scope='module')
def certified(place):
  """Return a policy that is certified for the model, in its file."""
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (1e-9, None))
  certificate = Certificate(
    method=LEARN_THEN_TEST,
    risk=0.05,
    delta=0.05,
    bound='hoeffding_bentkus',
    measure='local',
    sequences=200,
    mean_loss=0.01,
    p_value=0.03,
    prompt_tokens=8,
    max_new_tokens=9,
    dtype='float32',
    data={'name': 'text.txt'},
    versions={'eejax': '0'},
  )
  path = place / 'certified.json'
  certify(policy, folder.load(place / 'model'), certificate).save(path)
  return path


def test_what_is_certified_is_said(place, capsys, certified):
  flags = ('--prompt', 'alpha', '--policy', certified)
  _, err = run(capsys, place, *flags)
  assert 'certified at 0.95' in err
  for more in (('--uncertified',), ('--mode', 'full')):
    _, err = run(capsys, place, *flags, *more)
    assert 'certified' not in err


def test_every_edit_of_a_certified_policy_is_refused(
  place, capsys, certified, tmp_path
):
  path = tmp_path / 'edited.json'
  flags = ('--prompt', 'alpha', '--policy', path)
  for name, values in single_edits(json.loads(certified.read_text())):
    if name == 'certificate deleted':
      continue
    path.write_text(json.dumps(values))
    out, err = run(capsys, place, *flags, expect=2)
    assert out == '' and err.count('\n') == 1, name


def edit_json(path, *keys, value):
  values = json.loads(path.read_text())
  node = values
  for key in keys[:-1]:
    node = node[key]
  assert node.get(keys[-1]) != value
  node[keys[-1]] = value
  path.write_text(json.dumps(values))


@pytest.mark.parametrize(
  'part, message',
  [
    ('eejax.json', 'another configuration of the model'),
    ('backbone/blocks/003', 'other weights of the backbone'),
    ('backbone/outer', 'other weights of the backbone'),
    ('exits/exit_3', 'another exit_3'),
    ('tokenizer.json', 'another tokenizer'),
    ('tokenizer_config.json', 'another tokenizer'),
  ],
)
def test_every_edit_of_the_model_is_refused(
  place, capsys, certified, tmp_path, part, message
):
  model = tmp_path / 'model'
  shutil.copytree(place / 'model', model)
  if part == 'eejax.json':
    edit_json(model / part, 'config', 'model', 'rotary', 'theta', value=7.0)
  elif part == 'tokenizer.json':
    train_bpe(['delta'], vocab_size=270).save(model)
  elif part == 'tokenizer_config.json':
    edit_json(model / part, 'add_bos_token', value=False)
  else:
    held = folder.load(model)
    moved = jax.tree.map(lambda leaf: leaf + 1e-3, held.params)
    other = dataclasses.replace(held, params=moved)
    folder.save(tmp_path / 'other', other)
    shutil.rmtree(model / part)
    shutil.copytree(tmp_path / 'other' / part, model / part)
    ours, theirs = (
      json.loads((path / 'eejax.json').read_text())['files']
      for path in (model, tmp_path / 'other')
    )
    files = {k: v for k, v in ours.items() if not k.startswith(part)}
    files |= {k: v for k, v in theirs.items() if k.startswith(part)}
    edit_json(model / 'eejax.json', 'files', value=files)
  argv = ('generate', model, '--prompt', 'alpha', '--max-new-tokens', 9)
  argv = [str(a) for a in (*argv, '--policy', certified)]
  assert main.main(argv) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  'flags, message',
  [
    (('--temperature', 1), 'certified for greedy text'),
    (('--max-new-tokens', 10), 'up to 9 tokens, and this may have 10'),
    (('--dtype', 'bfloat16'), 'decodes in bfloat16'),
    (('--weights', 'int8'), 'weights in int8'),
    (('--kv', 'int8'), 'keys and values in int8'),
  ],
)
def test_a_use_that_is_not_certified_is_refused(
  place, capsys, certified, flags, message
):
  policy = ('--prompt', 'alpha', '--policy', certified)
  _, err = run(capsys, place, *policy, *flags, expect=2)
  assert message in err and '--uncertified' in err


def test_the_former_name_of_a_flag_is_heard(place, capsys):
  flags = ('--prompt', 'alpha', '--mode', 'speculative', '--draft-lookup', 3)
  assert run_json(capsys, place, *flags)['policy']['prompt_lookup'] == 3


# MARK: Bad input


@pytest.mark.parametrize(
  'argv, message',
  [
    ((), 'there is no prompt'),
    (('--prompts', 'absent.txt'), 'absent.txt cannot be read'),
    (('--prompt', 'x', '--threshold', '1.5'), 'must lie in'),
    (('--prompt', 'x', '--threshold', 'high'), 'is not a threshold'),
    (('--prompt', 'x', '--threshold', '0.1,0.2,0.3'), '3 thresholds for 2'),
    (('--prompt', 'x', '--criterion', 'luck'), "no criterion 'luck'"),
    (('--prompt', 'x', '--criterion', 'gate'), 'none at depth 1'),
    (('--prompt', 'x', '--mode', 'full', '--window', '4'), 'takes no --window'),
    (('--prompt', 'x', '--policy', 'p', '--window', '4'), 'give one of them'),
    (('--prompt', 'x', '--policy', 'absent.json'), 'cannot be read'),
    (('--prompt', 'x', '--mode', 'fast'), 'invalid choice'),
    (('--prompt', 'x', '--batching', 'all'), 'invalid choice'),
    (('--prompt', 'x', '--draft-depth', '1'), 'drafts are for --mode specul'),
    (('--prompt', 'x', *DRAFTS, '--draft-depth', '2'), 'no exit at depth 2'),
    (('--prompt', 'x', *DRAFTS, '--draft-length', '0'), 'draft length'),
    (('--prompt', 'x', *DRAFTS, '--draft-length', '64'), 'window of 65'),
    (('--prompt', 'x', *DRAFTS, '--prompt-lookup', '-1'), 'prompt lookup'),
    (('--prompt', 'x', '--prompt-lookup', '2'), 'drafts are for --mode specul'),
    (
      ('--prompt', 'x', *DRAFTS, '--draft-length', '2', '--window', '4'),
      'leave --window out',
    ),
    (('--prompt', 'x', *DRAFTS, '--minimum-depth', '4'), 'as deep as'),
    (('--prompt', 'x', *DRAFTS, '--kv-strategy', 'copy'), 'deferred, not copy'),
    (('--prompt', 'x', *DRAFTS, '--batching', 'reference'), 'ride_along'),
    (('--prompt', 'x', *DRAFTS, '--threshold-rule', 'decaying'), 'constant'),
    (('--prompt', 'x', '--threshold-rule', 'luck'), "no threshold rule 'luck'"),
    (('--prompt', 'x', '--scored-vocabulary', 'frequent(999)'), 'larger than'),
    (('--prompt', 'x', '--criterion', 'first_match'), 'is an oracle'),
    (
      ('--prompt', 'x', '--batching', 'depth_queue', '--kv-strategy')
      + ('recompute',),
      'cannot wait halfway',
    ),
    (('--prompt', 'x', '--prompt', 'y', '--stream'), '--stream shows one'),
    (('--prompt', 'x', '--temperature', '-1'), 'temperature'),
    (('--prompt', 'x', '--batch-size', '0'), '--batch-size'),
    (('--prompt', 'x', '--stop', ''), 'stop string'),
    (('--prompt', 'alpha ' * 99), 'context of the model is 64'),
  ],
)
def test_wrong_arguments_are_one_sentence(place, capsys, argv, message):
  out, err = run(capsys, place, *argv, expect=2)
  assert message in err and out == ''
  assert err.count('\n') == 1


def test_a_policy_of_another_model_is_refused(place, capsys):
  _, err = run(
    capsys,
    place,
    *('--prompt', 'x', '--policy', place / 'other.json'),
    expect=2,
  )
  assert 'fitted for another model' in err


@pytest.mark.parametrize('line', ['{', '[]', '{"text": "x"}', '{"prompt": 3}'])
def test_broken_prompt_files_name_the_line(place, capsys, tmp_path, line):
  path = tmp_path / 'broken.jsonl'
  path.write_text('{"prompt": "x"}\n' + line + '\n')
  _, err = run(capsys, place, '--prompts', path, expect=2)
  assert 'line 2' in err


@pytest.mark.parametrize(
  'flag, setting',
  [('--weights', 'quantization'), ('--kv', 'kv_quantization')],
)
def test_int8_flags_reach_the_decoder(place, capsys, flag, setting):
  rows = run_json(capsys, place, *TWO, flag, 'int8')['results']
  model = folder.load(place / 'model')
  wanted = generate(
    prepare(model.params, config=model.config, **{setting: Quantization.INT8}),
    config=model.config,
    prompts=[row['prompt_tokens'] for row in rows],
    max_new_tokens=9,
  )
  exact = run_json(capsys, place, *TWO)['results']
  for row, theirs, plain in zip(rows, wanted.rows, exact, strict=True):
    assert row['tokens'] == list(theirs.tokens)
    np.testing.assert_allclose(row['logprobs'], theirs.logprobs, atol=1e-5)
    assert row['logprobs'] != plain['logprobs']


def test_flags_offer_what_the_decoder_knows():
  assert set(policy_flags.MODES) == {m.value for m in Mode}
  assert set(policy_flags.KV_STRATEGIES) == {k.value for k in KVStrategy}
  assert set(policy_flags.BATCHINGS) == {b.value for b in Batching}
