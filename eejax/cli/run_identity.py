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
"""What makes two runs the same: the gin values that decide the losses."""

import pathlib
from typing import Any

from eejax.cli import gin_config

# Values that change what is told and kept, but no loss.
_BOOKKEEPING = (
  'LoopConfig.log_every',
  'LoopConfig.eval_every',
  'LoopConfig.save_every',
  'LoopConfig.keep',
  'pretrain.run_folder',
  'tune.run_folder',
  'tune.checkpoint',  # its hash counts
  # A run may go on with other devices; its state is laid out anew.
  'pretrain.mesh',
  'tune.mesh',
  'tune.activation_cache',
  'MeshConfig.data',
  'MeshConfig.fsdp',
  'MeshConfig.stage',
  'MeshConfig.model',
  'MeshConfig.simulated_devices',
)
# Macros of the shipped runs that set nothing else.
_BOOKKEEPING_MACROS = (
  'RUN',
  'CHECKPOINT',
  'EVAL_EVERY',
  'SAVE_EVERY',
  'MESH',
)


def operative_values() -> dict[str, Any]:
  """Return the values gin has used so far, by the names users type.

  Call it when the run's configurables have been called.
  """
  from gin import config

  values = {}
  for (scope, selector), bindings in config._OPERATIVE_CONFIG.items():
    if selector == 'gin.macro':
      if scope not in _BOOKKEEPING_MACROS:
        values[scope] = _plain(bindings.get('value'))
      continue
    if selector == 'gin.constant':
      continue
    name = selector.rpartition('.')[2]
    for parameter, value in bindings.items():
      full = f'{name}.{parameter}'
      if full not in _BOOKKEEPING:
        values[f'{scope}/{full}' if scope else full] = _plain(value)
  return dict(sorted(values.items()))


def write_operative_config(folder: pathlib.Path) -> None:
  """Write the same values as a gin file that can be run again."""
  gin_config.write_operative_config(folder)


def _plain(value: Any) -> Any:
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  return repr(value)
