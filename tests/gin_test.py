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
import json
import pathlib

import gin
import pytest

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint.manifest import Manifest
from eejax.checkpoint.model import Model
from eejax.cli.gin import (
  analyse_configurables,  # noqa: F401  (registers what gin files may name)
  configurables,  # noqa: F401
)
from eejax.cli.gin import (
  config as gin_config,
)
from eejax.config import ModelConfig
from eejax.errors import ArgumentError
from eejax.recipes import run_identity, stages, tuning_source
from eejax.training import open_run
from eejax.training.freeze import Regime
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
  _pretend(monkeypatch)
  parse([file], needed(file))
  with pytest.raises(Stopped):
    gin.get_configurable(verb)()


def _pretend(monkeypatch):
  monkeypatch.setattr(open_run, 'open_run', _stop)
  monkeypatch.setattr(stages, 'claimed', _stop)
  monkeypatch.setattr(checkpoint_folder, 'read_manifest', _some_manifest)
  monkeypatch.setattr(
    checkpoint_folder, 'read_config', lambda path: _some_manifest(path).config
  )
  for kind in (Model, tuning_source.CheckpointSource):
    monkeypatch.setattr(kind, 'tokenizer', 'some tokenizer')
  monkeypatch.setattr(
    run_identity, 'of_checkpoint', lambda path: {'backbone': 'some hash'}
  )


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
  rate = gin.get_configurable('optax.warmup_cosine_decay_schedule')().make()
  assert float(rate(2)) == 1.0


def test_weights_may_be_a_list():
  parse(['runs/tune.gin'], [*REQUIRED, 'EXIT_WEIGHTS = [0.1, 0.2]'])
  objective = gin.get_configurable(Objective)()
  assert objective.exit_weights.weights == (0.1, 0.2)


class TestIdentity:
  @pytest.fixture
  def values(self, monkeypatch):
    _pretend(monkeypatch)
    runs = []

    def opened(*args, identity, **kwargs):
      runs.append(identity)
      raise Stopped

    monkeypatch.setattr(open_run, 'open_run', opened)

    def of(*bindings):
      parse(['runs/tune.gin'], [*REQUIRED, *bindings])
      with pytest.raises(Stopped):
        gin.get_configurable('tune')()
      return runs[-1]

    return of

  @pytest.mark.parametrize(
    'binding, name, value',
    [
      ('STEPS = 11', 'steps', 11),
      ('TEMPERATURE = 2.0', 'objective.temperature', 2.0),
      ('LEARNING_RATE = 0.5', 'learning_rate.peak', 0.5),
      ('warmup_cosine.end_fraction = 0.0', 'learning_rate.end_fraction', 0.0),
      ('WEIGHT_DECAY = 0.5', 'optimizer.weight_decay', 0.5),
      ('clipped_adamw.clip_norm = 3.0', 'optimizer.clip_norm', 3.0),
      ('tune.optimizer = @optax.lion', 'optimizer.function', 'optax.lion'),
      ('tune.learning_rate = 0.1', 'optimizer.learning_rate', 0.1),
      ('BATCH_SIZE = 4', 'data.batch_size', 4),
      ("DTYPE = 'bfloat16'", 'step.forward.dtype', 'bfloat16'),
      ('SEED = 3', 'data.seed', 3),
      ('tune.backbone = %FrozenBackbone.INT8', 'backbone', 'int8'),
      ('tune.held_out_batches = 3', 'held_out_batches', 3),
    ],
  )
  def test_what_decides_the_losses_counts(self, values, binding, name, value):
    before, after = values(), values(binding)
    assert after[name] == value != before.get(name)
    assert values(binding) == after
    json.dumps(after)

  @pytest.mark.parametrize(
    'binding',
    [
      'LoopConfig.save_every = 3',
      'LoopConfig.log_every = 3',
      "MESH = 'data=1'",
      "RUN = 'runs/b'",
      "tune.activation_cache = 'cache'",
    ],
  )
  def test_bookkeeping_does_not(self, values, binding):
    assert values() == values(binding)
