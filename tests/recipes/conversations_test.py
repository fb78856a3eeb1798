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
"""Test recipes on conversations: training, probing, calibrating, analysing."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
import tokenizers

import eejax
from eejax.checkpoint import surgery
from eejax.checkpoint.model import Model
from eejax.config import parse_exits
from eejax.data.tokenizer import train_bpe
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError
from eejax.evaluation.part_times import PartTimes
from eejax.progress import Progress
from eejax.recipes import probe as probe_lib
from eejax.recipes import training_runs
from eejax.recipes.analysis import captures
from eejax.recipes.calibration.request import CalibrationRequest, read_prompts
from eejax.recipes.text import read_text
from eejax.testing import tiny
from eejax.testing.planted import idle_from
from eejax.training.freeze import Regime
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Objective

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']
TEMPLATE = (
  "{% for m in messages %}{{ '<|start|>' + m.role[0] + '\\n' + m.content + "
  "'<|end|>' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|start|>a\\n' }}{% endif %}"
)
TIMES = PartTimes(blocks=4.0, head=0.5)
SHORT = {'steps': 2, 'batch_size': 2, 'sequence_length': 40}


class Notes(Progress):
  """Keep every note."""

  def __init__(self):
    self.notes = []

  def say(self, text):
    self.notes.append(text)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Return a folder with conversations and a tokenizer with a template."""
  root = tmp_path_factory.mktemp('conversations')
  random = np.random.default_rng(0)
  say = lambda n: ' '.join(random.choice(WORDS, n))
  lines = []
  for number in range(80):
    turns = [{'role': 'user', 'content': say(3)}]
    for _ in range(1 + number % 2):
      turns += [
        {'role': 'assistant', 'content': say(4)},
        {'role': 'user', 'content': say(2)},
      ]
    lines.append(json.dumps({'messages': turns[:-1]}))
  (root / 'talk.jsonl').write_text('\n'.join(lines) + '\n')
  trained = train_bpe([' '.join(WORDS)], vocab_size=280)
  trained.save(root / 'tokenizer')
  inner = tokenizers.Tokenizer.from_str(trained.to_json())
  inner.add_special_tokens(['<|start|>', '<|end|>'])
  inner.save(str(root / 'tokenizer/tokenizer.json'))
  (root / 'tokenizer/chat_template.jinja').write_text(TEMPLATE)
  return root


@pytest.fixture(scope='module')
def text(folder):
  return read_text(folder / 'talk.jsonl', unit='conversation')


@pytest.fixture(scope='module')
def model(folder):
  """Return a model with exits whose blocks after the first change nothing."""
  config = tiny.tiny_config(
    '', vocab_size=300, max_length=64, num_layers=2, eos_ids=()
  )
  params, configured = surgery.add_exits(
    idle_from(tiny.tiny_params(config), 1),
    config,
    parse_exits('1:norm'),
    key=jax.random.key(0),
  )
  return Model(configured, params, tokenizer_folder=folder / 'tokenizer')


# MARK: Training


def test_only_the_assistant_s_turns_are_learned(text, model, folder):
  settings = training_runs.make_settings(
    model.config,
    text,
    objective=Objective(regime=Regime.TUNE),
    learning_rate=1e-3,
    warmup_steps=1,
    optimizer=None,
    weight_decay=0.0,
    loop=LoopConfig(steps=1),
    step=None,
    dtype='float32',
    microbatches=1,
    batch_size=4,
    sequence_length=60,
    seed=0,
    held_out_batches=1,
    mesh=None,
  )
  data = training_runs.read_data(settings, model.tokenizer, mesh=None)
  batch = next(data.batches)
  said = model.tokenizer.decode(batch.targets[batch.weights > 0])
  assert re.fullmatch(f'({"|".join(WORDS)}| )+', said)
  learned = batch.targets[batch.weights > 0]
  assert (learned == model.chat_template.end_ids[-1]).sum() > 3
  assert (
    0 < data.held_out[0].weights.sum() < (data.held_out[0].tokens > 0).sum()
  )


def test_exits_are_tuned_on_conversations(text, model, folder, tmp_path):
  notes = Notes()
  run = eejax.tune(
    model,
    text,
    folder=tmp_path / 'run',
    progress=notes,
    held_out_batches=1,
    **{**SHORT, 'sequence_length': 24},
  )
  assert run.steps == 2
  assert any('were cut there' in note for note in notes.notes)
  assert run.model.provenance['tune']['text']['unit'] == 'conversation'
  unseen = text.unseen_by(run.model)
  assert unseen != text
  # Another template writes other tokens.
  other = folder.parent / 'other'
  shutil.copytree(folder / 'tokenizer', other)
  (other / 'chat_template.jinja').write_text(TEMPLATE + ' ')
  with pytest.raises(ArgumentError, match='data.chat_template was'):
    eejax.tune(
      dataclasses.replace(model, tokenizer_folder=other),
      text,
      folder=tmp_path / 'run',
      held_out_batches=1,
      **{**SHORT, 'sequence_length': 24},
    )


def test_a_decoder_is_trained_on_conversations(text, model, folder, tmp_path):
  start = model.config.model
  with pytest.raises(ArgumentError, match='which a new tokenizer has not'):
    eejax.pretrain(start, text, folder=tmp_path / 'none', **SHORT)
  assert not (tmp_path / 'none').exists()
  run = eejax.pretrain(
    start,
    text,
    folder=tmp_path / 'run',
    tokenizer=folder / 'tokenizer',
    held_out_batches=0,
    **SHORT,
  )
  assert run.steps == 2
  assert run.model.chat_template.source == TEMPLATE


# MARK: Prompts


def test_prompts_end_where_an_answer_begins(text, model):
  parts = text.parts(2, 1)
  answers = [part.answers(model, longest=50) for part in parts]
  assert not answers[0].keys() & answers[1].keys()
  assert sum(map(len, answers)) == len(text.answers(model, longest=50)) > 100
  prompt, answer = next(iter(answers[0].items()))
  begin = model.tokenizer.encode('<|start|>a\n', add_bos=False)
  assert list(prompt[-len(begin) :]) == begin
  assert answer[-1] == model.chat_template.end_ids[-1]
  assert (
    all(len(p) <= 20 for p in text.answers(model, longest=20))
    and 0 < len(text.answers(model, longest=20)) < 100
  )
  with pytest.raises(ArgumentError, match='has no conversations'):
    read_text().answers(model, longest=20)


def test_calibration_reads_prompts_of_any_length(text, model):
  request = CalibrationRequest(
    sequences=24,
    search_sequences=8,
    report_sequences=4,
    risk=0.2,
    max_new_tokens=6,
  )
  prompts = read_prompts(model, text, request)
  prompts.check_disjoint()
  assert len({len(p) for p in prompts.certify}) > 1
  assert prompts.eos_ids == model.answer_ends
  assert request.with_prompt_tokens(model, text).prompt_tokens == 58
  assert request.with_prompt_tokens(model, read_text()).prompt_tokens == 32
  short = dataclasses.replace(request, prompt_tokens=70)
  with pytest.raises(ArgumentError, match='more than the context'):
    short.with_prompt_tokens(model, text)


def test_a_policy_is_certified_on_conversations(text, model):
  policy = eejax.calibrate(
    model,
    text,
    risk=0.2,
    criterion='max_prob',
    prompt_tokens=33,
    sequences=16,
    search_sequences=4,
    report_sequences=2,
    max_new_tokens=6,
    batch_size=16,
    window=2,
    times=TIMES,
    clock=lambda r: Timing(
      decode_s=1.0 if r.policy.mode is eejax.Mode.FULL else 0.5
    ),
    required=True,
  )
  assert policy.certificate.mean_loss == 0
  assert policy.certificate.data['unit'] == 'conversation'
  messages = [{'role': 'user', 'content': 'alpha beta'}]
  out = eejax.generate(model, messages, policy=policy, max_new_tokens=6)
  assert min(out.rows[0].exit_depths) == 1
  with pytest.raises(ArgumentError, match='certified on conversations'):
    eejax.generate(model, ['alpha'], policy=policy, max_new_tokens=6)


def test_probing_reads_answers_and_measures_on_prompts(
  text, model, monkeypatch
):
  bare = dataclasses.replace(
    model,
    config=model.config.with_exits(()),
    params={**model.params, 'exits': {}},
  )
  asked = []

  def measure(model, candidates, prompts, **_):
    asked.extend(prompts)
    return tuple(candidates), None

  monkeypatch.setattr(probe_lib, 'measure', measure)
  result = probe_lib.probe(
    bare,
    text,
    max_exits=1,
    window=2,
    max_tokens=600,
    sequence_length=60,
    num_prompts=3,
    new_tokens=6,
    times=PartTimes(blocks=4.0, head=0.1, widths=(1, 2, 4), factors=(1.0,) * 3),
  )
  report = text.parts(2, 2, 1)[2].answers(model, longest=58)
  assert set(asked) <= report.keys() and len(set(asked)) == 3
  # Positions that were read are those that answers were predicted at.
  batches = text.rows(model, max_tokens=10**6, sequence_length=60)
  counted = sum((b.weights > 0).sum() for b in batches)
  assert 0 < result.search.natural.tokens < counted


# MARK: Analysis


def test_the_model_s_own_answers_are_analysed(
  text, model, monkeypatch, tmp_path
):
  kept = []
  own = captures.capture

  def capture(*args, **kwargs):
    kept.append(own(*args, **kwargs))
    return kept[-1]

  monkeypatch.setattr(captures, 'capture', capture)
  result = eejax.analyse(
    model,
    text,
    sections=['free_running'],
    folder=tmp_path / 'analysis',
    max_tokens=400,
    sequence_length=60,
  )
  assert not result.failures
  forced, free = kept
  batches = captures.RowSettings(400, 60).batches(model, text)
  counted = int(sum((b.weights > 0).sum() for b in batches))
  assert forced.num_positions == counted
  prompts = captures.answer_prompts(batches, longest=32)
  turns = text.answers(model, longest=32)
  assert {tuple(p) for p in prompts.values()} <= turns.keys()
  ends = {len(p) - 1 for p in prompts.values()}
  first = {row: free.position[free.row == row].min() for row in set(free.row)}
  assert set(first.values()) <= ends
  assert (free.top1[-1] == free.target).all()
