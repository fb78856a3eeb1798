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
"""What `eejax quickstart` does, stage by stage."""

import contextlib
import datetime
import functools
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from eejax import config as config_lib
from eejax import environment, resources, serialization
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import manifest
from eejax.checkpoint.model import Model
from eejax.cli import (
  add_exits,
  gin_config,
  import_,
  main,
  measuring,
  output,
  quickstart_decoding,
  quickstart_words,
  tune,
)
from eejax.cli.quickstart_settings import (
  BACKBONE,
  TUNED,
  TUNING,
  WITH_EXITS,
  Models,
  Settings,
)
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.data.batch import Packing
from eejax.data.corpus import Split, TextUnit
from eejax.errors import ArgumentError
from eejax.evaluation import perplexity
from eejax.recipes.probe import probe
from eejax.recipes.stages import Stages, fingerprint
from eejax.recipes.text import Text
from eejax.training import metrics
from eejax.version import __version__

GIN_FILE = 'runs/quickstart_tune.gin'
# Shares of the depth at which exits stand by default.
PLACES = (1 / 4, 3 / 8, 1 / 2, 3 / 4)

# What is being done, and about how many seconds it takes on two cores.
TITLES = {
  'import': ('importing the backbone', 3),
  'probe': ('probing its natural exits', 45),
  'exits': ('adding exits', 3),
  'before': ('evaluating every exit before tuning', 15),
  'tune': ('tuning the exits', 90),
  'after': ('evaluating every exit after tuning', 15),
  'thresholds': ('calibrating thresholds', 90),
  'speed': ('timing decoding', 50),
  'samples': ('writing samples', 9),
}


def default_exits(config: ModelConfig) -> str:
  """Return the exits that a quickstart adds, as `add-exits` takes them.

  Raises:
    ArgumentError: the model has no depth between its ends.
  """
  last = config.num_layers - 1
  depths = {min(max(int(p * config.num_layers + 0.5), 1), last) for p in PLACES}
  if last < 1:
    raise ArgumentError(
      'a model of one block has no depth to exit at; take a deeper one.'
    )
  return ','.join(f'{depth}:mlp:mlp_gate' for depth in sorted(depths))


def run_all(settings: Settings, folder: pathlib.Path) -> dict[str, Any]:
  """Run every stage that is not done, and return the summary of all."""
  backbone = pathlib.Path(settings.backbone or resources.default_backbone())
  stages, models = (
    Stages(folder, titles=TITLES, progress=output.reporter()),
    Models(folder),
  )
  stages.run(
    'import',
    functools.partial(_import, backbone, folder),
    inputs=[__version__, str(backbone), fingerprint(backbone)],
    products=[BACKBONE],
  )
  model = checkpoint_folder.read_config(folder / BACKBONE).model
  exits = settings.exits or default_exits(model)
  # Refuses exits beyond the model before anything long is done.
  EarlyExitConfig(model, config_lib.parse_exits(exits))
  probed = stages.run(
    'probe',
    functools.partial(_probe, settings, models),
    inputs=[
      settings.data_stamp,
      settings.eval_tokens,
      settings.target,
      settings.window,
    ],
  )
  stages.run(
    'exits',
    functools.partial(_add_exits, folder, exits, settings.seed),
    inputs=[exits, settings.seed],
    products=[WITH_EXITS],
  )
  evaluate = functools.partial(_evaluate, settings, models)
  before = stages.run('before', functools.partial(evaluate, 'untuned'))
  tuning_argv = tune_arguments(settings, folder, model)
  tuning = stages.run(
    'tune',
    functools.partial(_tune, tuning_argv, folder),
    inputs=tuning_argv,
    products=[TUNING],
  )
  after = stages.run('after', functools.partial(evaluate, 'tuned'))
  decoding = quickstart_decoding.run(settings, models, stages)
  summary = {
    'version': __version__,
    'created': datetime.datetime.now().isoformat(' ', 'minutes'),
    'settings': settings,
    'model': _describe_model(backbone, folder),
    'data': {'name': _data_name(settings.data), 'unit': settings.unit},
    'exit_kinds': exit_kinds(models.tuned),
    'probe': probed,
    'before': before,
    'tuning': tuning,
    'after': after,
    **decoding,
    'commands': quickstart_words.commands(backbone, exits, tuning_argv, folder),
    'environment': environment.describe(),
    'stages': [
      {'name': TITLES[name][0], 'seconds': seconds}
      for name, seconds in stages.seconds.items()
    ],
  }
  return quickstart_words.with_words(serialization.plain(summary))


# MARK: Stages


def _import(source: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
  dest = folder / BACKBONE
  if (source / manifest.NAME).is_file():
    model = checkpoint_folder.read_manifest(source)
    bare = model.config.with_exits(())
    checkpoint_folder.replace_exits(
      dest,
      source=source,
      config=bare,
      exits={},
      existing=checkpoint_folder.Existing.OVERWRITE,
    )
  else:
    run_verb(import_, [str(source), str(dest), '--overwrite'])
  return {'source': str(source)}


def _probe(settings: Settings, models: Models) -> dict[str, Any]:
  text = settings.text('test')
  result = probe(
    models.backbone,
    Text(text.data, Split(text.part), TextUnit(text.unit)),
    loss=1 - settings.target,
    window=settings.window,
    max_tokens=text.max_tokens,
    progress=output.reporter(),
  )
  output.say(result.summary())
  return {**result.to_json(), 'sentences': result.sentences()}


def _add_exits(folder: pathlib.Path, exits: str, seed: int) -> dict[str, Any]:
  argv = [str(folder / BACKBONE), str(folder / WITH_EXITS), '--exits', exits]
  run_verb(add_exits, [*argv, '--seed', str(seed), '--overwrite'])
  return {'exits': exits}


def _evaluate(settings: Settings, models: Models, which: str) -> Any:
  model: Model = getattr(models, which)
  batches = measuring.read_text(
    model, settings.text('test'), packing=Packing.PACKED
  )
  return perplexity.evaluate(
    model.params,
    output.track(batches, 'evaluating', unit='step'),
    config=model.config,
  )


def tune_arguments(
  settings: Settings, folder: pathlib.Path, model: ModelConfig
) -> list[str]:
  """Return the arguments of the `eejax tune` that a quickstart runs."""
  unit = f'%TextUnit.{settings.unit.upper()}'
  argv = ['--gin_file', GIN_FILE]
  argv += ['--checkpoint', str(folder / WITH_EXITS)]
  argv += ['--run', str(folder / TUNING), '--steps', str(settings.steps)]
  argv += ['--data', settings.data, '--seed', str(settings.seed)]
  argv += ['--sequence-length', str(min(128, model.max_length))]
  argv.append(f'--gin.LoopConfig.eval_every={max(settings.steps // 5, 1)}')
  if settings.unit != 'file':
    argv.append(f'--gin.DataConfig.unit={unit}')
  return argv


def _tune(argv: Sequence[str], folder: pathlib.Path) -> dict[str, Any]:
  result = run_verb(tune, argv)
  records = metrics.read_records(folder / TUNING)
  tokens = [r['tokens'] for r in records if r['kind'] == metrics.TRAIN]
  return {
    'steps': result['steps'],
    'tokens_per_step': round(sum(tokens) / max(len(tokens), 1)),
    'curve': [
      {k: v for k, v in r.items() if k != 'kind'}
      for r in records
      if r['kind'] == metrics.HELD_OUT
    ],
  }


def run_verb(verb: ModuleType, argv: Sequence[str]) -> Any:
  """Run another verb as the command line would; its words go to stderr."""
  name = verb.__name__.rpartition('.')[2].strip('_').replace('_', '-')
  parser = main.build_parser(verb, f'eejax {name}')
  args = parser.parse_args(gin_config.rewrite_bindings(argv))
  with contextlib.redirect_stdout(sys.stderr):
    return verb.run(args)


# MARK: Descriptions


def exit_kinds(model: Model) -> dict[str, str]:
  """Return in words what each exit is, by its name."""
  kinds = {}
  for e in model.config.exits:
    parts = [e.head.value, f'{e.output.value} output']
    if e.gate.value != 'none':
      parts.append(f'{e.gate.value} gate')
    kinds[e.name] = ', '.join(parts)
  return kinds


def _describe_model(
  source: pathlib.Path, folder: pathlib.Path
) -> dict[str, Any]:
  from eejax.cli import checkpoint_report

  timer = checkpoint_report.Timer()
  backbone = checkpoint_report.describe(folder / BACKBONE, timer=timer)
  tuned = checkpoint_report.describe(folder / TUNED, timer=timer)
  model = backbone['config']['model']
  return {
    'name': source.resolve().name,
    'source': str(source),
    **{
      name: model[name]
      for name in ('family', 'num_layers', 'embed_dim', 'vocab_size')
    },
    'parameters': backbone['parameters']['backbone'],
    'exit_parameters': tuned['parameters']['exits'],
    'backbone_hash': backbone['backbone_hash'],
    'backbone_unchanged': backbone['backbone_hash'] == tuned['backbone_hash'],
  }


def _data_name(data: str) -> str:
  if data == measuring.STANDARD_LIBRARY:
    return "this Python's standard library"
  return pathlib.Path(data).name
