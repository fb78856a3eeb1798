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
"""Test the gin files: every one is read, and what it describes is made."""

import argparse
import pathlib

import gin
import pytest

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint.manifest import Manifest
from eejax.cli import (
  analyse_configurables,  # noqa: F401  (registers what gin files may name)
  configurables,  # noqa: F401
  gin_config,
  run_hosts,
  run_identity,
)
from eejax.config import ModelConfig
from eejax.errors import ArgumentError
from eejax.recipes import stages
from eejax.training.freeze import Regime
from eejax.training.loop import LoopConfig
from eejax.training.objective import Objective

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GIN = REPOSITORY / 'gin'
MODELS = sorted(p.relative_to(GIN).as_posix() for p in GIN.glob('models/*.gin'))
RUNS = sorted(p.relative_to(GIN).as_posix() for p in GIN.glob('runs/*.gin'))

REQUIRED = ("RUN='runs/a'", "CHECKPOINT='models/a'")


@pytest.fixture(autouse=True)
def forget():
  yield
  gin.clear_config()


def parse(files, bindings=()):
  args = argparse.Namespace(
    gin_file=list(files), gin_bindings=list(bindings), gin_search_paths=[]
  )
  gin_config.parse(args)


class Stopped(Exception):
  pass


def _stop(*args, **kwargs):
  raise Stopped


def test_there_are_files():
  assert 'models/default.gin' in MODELS
  assert {'runs/pretrain.gin', 'runs/tune.gin'} <= set(RUNS)


@pytest.mark.parametrize('file', MODELS)
def test_models(file):
  parse([file])
  model = gin.get_configurable(ModelConfig)()
  assert isinstance(model, ModelConfig)


def needed(file):
  """Return bindings of what a run's header calls required."""
  head = (GIN / file).read_text().partition('Commonly overridden')[0]
  return [b for b in REQUIRED if f'#   {b.partition("=")[0]} ' in head]


@pytest.mark.parametrize('file', RUNS)
def test_runs(file, monkeypatch):
  """Call the run up to the point where it takes its folder."""
  verbs = (v for v in ('analyse', 'tune') if v in file)
  verb = next(verbs, 'pretrain')
  monkeypatch.setattr(run_hosts, 'open_run', _stop)
  monkeypatch.setattr(stages, 'claimed', _stop)
  monkeypatch.setattr(checkpoint_folder, 'read_manifest', _some_manifest)
  monkeypatch.setattr(
    checkpoint_folder, 'read_config', lambda path: _some_manifest(path).config
  )
  parse([file], needed(file))
  with pytest.raises(Stopped):
    gin.get_configurable(verb)()


def _some_manifest(path):
  from eejax.testing import tiny

  config = tiny.tiny_config('1:norm,3:norm', num_layers=8, max_length=2048)
  return Manifest(config, backbone_hash='', arrays={}, files={}, provenance={})


@pytest.mark.parametrize('file', RUNS)
def test_headers_name_what_is_required(file):
  assert needed(file)
  for binding in needed(file):
    others = [b for b in needed(file) if b != binding]
    name = binding.partition('=')[0]
    with pytest.raises(ArgumentError, match=f'{name} must be given'):
      parse([file], others)


def test_members_of_enums_and_optax_are_known():
  parse(
    ['runs/pretrain.gin'],
    [
      *needed('runs/pretrain.gin'),
      'Objective.regime = %Regime.STANDARD',
      'pretrain.learning_rate = @optax.warmup_cosine_decay_schedule()',
      'pretrain.optimizer = @optax.lion',
      'optax.warmup_cosine_decay_schedule.init_value = 0.0',
      'optax.warmup_cosine_decay_schedule.peak_value = 1.0',
      'optax.warmup_cosine_decay_schedule.warmup_steps = 2',
      'optax.warmup_cosine_decay_schedule.decay_steps = 9',
    ],
  )
  objective = gin.get_configurable(Objective)()
  assert objective.regime is Regime.STANDARD
  rate = gin.get_configurable('optax.warmup_cosine_decay_schedule')()
  assert float(rate(2)) == 1.0


def test_weights_may_be_a_list():
  parse(['runs/tune.gin'], [*REQUIRED, 'EXIT_WEIGHTS = [0.1, 0.2]'])
  objective = gin.get_configurable(Objective)()
  assert objective.exit_weights.weights == (0.1, 0.2)


class TestIdentity:
  def values(self, *bindings):
    parse(['runs/tune.gin'], [*REQUIRED, *bindings])
    gin.get_configurable(Objective)()
    gin.get_configurable(LoopConfig)()
    return run_identity.operative_values()

  def test_what_decides_the_losses_counts(self):
    one = self.values('STEPS = 10')
    assert one['STEPS'] == 10
    assert one['Objective.temperature'] == '%TEMPERATURE'
    assert one['TEMPERATURE'] == 1.0
    assert one != self.values('STEPS = 11')
    assert self.values('STEPS = 11') == self.values('STEPS = 11')

  def test_bookkeeping_does_not(self):
    one = self.values('STEPS = 10', 'LoopConfig.save_every = 3')
    other = self.values('STEPS = 10', 'LoopConfig.save_every = 7')
    assert one == other
