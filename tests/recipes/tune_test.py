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
"""Test tuning from Python: its results, its folder, and whose run it is."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import eejax
from eejax.checkpoint import folder as checkpoint_folder
from eejax.data.corpus import Split
from eejax.training.optimizers import configured

SHORT = {'steps': 3, 'batch_size': 2, 'sequence_length': 16}


@pytest.fixture(scope='module')
def run(untrained, training_text, tmp_path_factory):
  return eejax.tune(
    untrained,
    training_text,
    folder=tmp_path_factory.mktemp('runs') / 'run',
    **SHORT,
  )


def files(folder):
  return {
    path.relative_to(folder): path.stat().st_mtime_ns
    for path in folder.rglob('*')
  }


def assert_equal_trees(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_model_is_ready(untrained, run):
  backbone = untrained.params['backbone']
  assert_equal_trees(run.model.params['backbone'], backbone)
  before, after = (
    m.params['exits']['exit_3']['mlp']['up']['kernel']
    for m in (untrained, run.model)
  )
  assert np.abs(before - after).max() > 0
  assert run.model.tokenizer.vocab_size <= 300
  saved = checkpoint_folder.load(run.folder / 'model')
  assert_equal_trees(saved.params, run.model.params)
  assert saved.provenance['tune']['steps'] == run.steps == 3


def test_losses_are_held_out_before_and_after(run):
  assert list(run.losses) == ['exit_1', 'exit_3']
  for before, after in run.losses.values():
    assert after < before
  assert [point['step'] for point in run.curve] == [0, 3]
  assert {row['head'] for row in run.table()} == {'exit 1', 'exit 3'}
  values = run.to_json()
  assert values['held_out']['exit_3/loss'] == run.losses['exit_3'][1]
  assert 'exit 3' in run._repr_html_() and 'exit 3' in str(run)
  figure = run.plot()
  assert len(figure.axes[0].lines) == 2


def test_the_same_call_takes_up_the_run(untrained, training_text, run):
  again = eejax.tune(untrained, training_text, folder=run.folder, **SHORT)
  assert again.curve == run.curve


def test_a_checkpoint_is_the_same_model(
  untrained, training_text, run, tmp_path
):
  checkpoint_folder.save(tmp_path / 'model', untrained)
  again = eejax.tune(
    tmp_path / 'model', training_text, folder=run.folder, **SHORT
  )
  assert_equal_trees(again.model.params, run.model.params)


@pytest.mark.parametrize(
  'more, words',
  [
    ({'learning_rate': 0.5}, 'learning_rate.peak was 0.001 and is now 0.5'),
    ({'weight_decay': 0.5}, 'optimizer.weight_decay was 0.01 and is now 0.5'),
    ({'warmup_steps': 1}, 'learning_rate.warmup_steps was 20 and is now 1'),
    ({'batch_size': 4}, 'data.batch_size was 2 and is now 4'),
    ({'seed': 7}, 'step.seed was 0 and is now 7'),
    ({'exit_weights': 2.0}, 'exit_weights.weights was 1.0 and is now 2.0'),
    (
      {'optimizer': configured(optax.lion)},
      "was 'eejax.training.optimizers.clipped_adamw' and is now 'optax.lion'",
    ),
  ],
)
def test_other_settings_are_refused_the_folder(
  untrained, training_text, run, more, words
):
  before = files(run.folder)
  with pytest.raises(eejax.ArgumentError) as caught:
    eejax.tune(untrained, training_text, folder=run.folder, **{**SHORT, **more})
  assert words in str(caught.value)
  before.pop(next(p for p in before if p.name == '.lock'))
  now = files(run.folder)
  assert {path: now[path] for path in before} == before


def test_other_weights_and_other_text_are_refused(
  untrained, training_text, run, tmp_path
):
  params = jax.tree.map(lambda x: x + 1, untrained.params)
  for part in ('backbone', 'exits'):
    other = dataclasses.replace(
      untrained, params={**untrained.params, part: params[part]}
    )
    with pytest.raises(eejax.ArgumentError, match=f'model.{part}.* was '):
      eejax.tune(other, training_text, folder=run.folder, **SHORT)
  file = tmp_path / 'other.txt'
  file.write_text('zeta eta theta\n\n' * 50)
  text = eejax.read_text(file, unit='paragraph')
  with pytest.raises(eejax.ArgumentError, match='data.* was '):
    eejax.tune(untrained, text, folder=run.folder, **SHORT)


def test_bad_input_leaves_nothing(untrained, training_text, tmp_path):
  plain = dataclasses.replace(
    untrained,
    config=untrained.config.with_exits(()),
    params={**untrained.params, 'exits': {}},
  )
  speechless = dataclasses.replace(untrained, tokenizer_folder=None)
  bad = [
    (plain, training_text, {}, 'has no exits to tune'),
    (speechless, training_text, {}, 'has no tokenizer'),
    (
      untrained,
      dataclasses.replace(training_text, split=Split.TEST),
      {},
      'give the whole text',
    ),
    (untrained, training_text, {'sequence_length': 65}, 'longer than'),
    (untrained, training_text, {'steps': 0}, 'steps must be at least 1'),
    (
      untrained,
      training_text,
      {'optimizer': configured(lambda learning_rate: optax.sgd(1.0))},
      'optimizer is a function without values',
    ),
  ]
  for model, text, more, words in bad:
    with pytest.raises(eejax.EejaxError, match=words):
      eejax.tune(model, text, folder=tmp_path / 'run', **{**SHORT, **more})
    assert not (tmp_path / 'run').exists(), words
