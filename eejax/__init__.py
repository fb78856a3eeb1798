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
"""Early-exit language models in JAX.

The names below are the public interface. Each is imported when it is first
used, so that `import eejax` and the command line's help cost nothing.

Example:
  >>> import eejax
  >>> [e.depth for e in eejax.parse_exits('3:norm,6:mlp')]
  [3, 6]
"""

import importlib
from typing import TYPE_CHECKING, Any

from eejax.version import __version__

if TYPE_CHECKING:
  from eejax.checkpoint.draft import draft_model
  from eejax.checkpoint.exits_alone import pull_exits, push_exits
  from eejax.checkpoint.formats import (
    CheckpointFormat,
    export_folder,
    import_folder,
  )
  from eejax.checkpoint.load import load
  from eejax.checkpoint.model import Model
  from eejax.config.exits import (
    EarlyExitConfig,
    ExitConfig,
    ExitHeadKind,
    GateKind,
    Initialization,
    OutputMatrix,
    parse_exits,
  )
  from eejax.config.model import ModelConfig
  from eejax.config.rotary import RotaryConfig
  from eejax.data.tokenizer import Tokenizer
  from eejax.decoding.policy.modes import Mode
  from eejax.decoding.policy.policy import Policy
  from eejax.errors import ArgumentError, CheckpointError, EejaxError
  from eejax.models.decoder import logits
  from eejax.ops.sampling import SamplingConfig
  from eejax.progress import Progress, TerminalProgress
  from eejax.recipes.add_exits import add_exits, drop_exits
  from eejax.recipes.analyse import analyse
  from eejax.recipes.bench import bench
  from eejax.recipes.calibrate import calibrate
  from eejax.recipes.evaluate import evaluate
  from eejax.recipes.generate import generate
  from eejax.recipes.plan import plan
  from eejax.recipes.pretrain import pretrain
  from eejax.recipes.probe import probe
  from eejax.recipes.save import save
  from eejax.recipes.text import Text, read_text
  from eejax.recipes.tune import tune
  from eejax.recipes.verify import verify

_HOMES = {
  'checkpoint.load': ('load',),
  'checkpoint.model': ('Model',),
  'checkpoint.draft': ('draft_model',),
  'checkpoint.exits_alone': ('pull_exits', 'push_exits'),
  'checkpoint.formats': ('CheckpointFormat', 'export_folder', 'import_folder'),
  'config.exits': (
    'EarlyExitConfig',
    'ExitConfig',
    'ExitHeadKind',
    'GateKind',
    'Initialization',
    'OutputMatrix',
    'parse_exits',
  ),
  'config.model': ('ModelConfig',),
  'config.rotary': ('RotaryConfig',),
  'data.tokenizer': ('Tokenizer',),
  'decoding.policy.modes': ('Mode',),
  'decoding.policy.policy': ('Policy',),
  'errors': ('ArgumentError', 'CheckpointError', 'EejaxError'),
  'models.decoder': ('logits',),
  'ops.sampling': ('SamplingConfig',),
  'progress': ('Progress', 'TerminalProgress'),
  'recipes.add_exits': ('add_exits', 'drop_exits'),
  'recipes.analyse': ('analyse',),
  'recipes.bench': ('bench',),
  'recipes.calibrate': ('calibrate',),
  'recipes.evaluate': ('evaluate',),
  'recipes.generate': ('generate',),
  'recipes.plan': ('plan',),
  'recipes.pretrain': ('pretrain',),
  'recipes.save': ('save',),
  'recipes.probe': ('probe',),
  'recipes.text': ('Text', 'read_text'),
  'recipes.tune': ('tune',),
  'recipes.verify': ('verify',),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
  'ArgumentError',
  'Model',
  'CheckpointError',
  'EarlyExitConfig',
  'EejaxError',
  'ExitConfig',
  'ExitHeadKind',
  'CheckpointFormat',
  'GateKind',
  'Initialization',
  'Mode',
  'ModelConfig',
  'OutputMatrix',
  'Policy',
  'Progress',
  'RotaryConfig',
  'SamplingConfig',
  'TerminalProgress',
  'Text',
  'Tokenizer',
  '__version__',
  'add_exits',
  'analyse',
  'bench',
  'calibrate',
  'draft_model',
  'drop_exits',
  'evaluate',
  'export_folder',
  'generate',
  'import_folder',
  'load',
  'logits',
  'parse_exits',
  'plan',
  'pretrain',
  'probe',
  'pull_exits',
  'push_exits',
  'read_text',
  'save',
  'tune',
  'verify',
]


def __getattr__(name: str) -> Any:
  if name not in _HOME_OF:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'eejax.{_HOME_OF[name]}'), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
