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
"""Tell what a checkpoint holds, for the verbs that make one."""

import math
import os
import time
from collections.abc import Mapping
from typing import Any

from eejax import formatting
from eejax.checkpoint import folder
from eejax.config import config_json


class Timer:
  """Count the seconds since it was made."""

  def __init__(self) -> None:
    self._start = time.monotonic()

  @property
  def seconds(self) -> float:
    """Return how many seconds have passed."""
    return time.monotonic() - self._start


def describe(path: str | os.PathLike, *, timer: Timer) -> dict[str, Any]:
  """Return the facts of the checkpoint at `path`, for JSON."""
  manifest = folder.read_manifest(path)
  counts = {'backbone': 0, 'exits': 0}
  dtypes: set[str] = set()
  for name, array in manifest.arrays.items():
    counts[name.split('/')[0]] += math.prod(array.shape)
    dtypes.add(array.dtype)
  return {
    'path': os.fspath(path),
    'config': config_json.to_json(manifest.config),
    'exit_depths': list(manifest.config.exit_depths),
    'parameters': counts,
    'dtypes': sorted(dtypes),
    'bytes': sum(manifest.files.values()),
    'backbone_hash': manifest.backbone_hash,
    'seconds': timer.seconds,
  }


def summary(title: str, report: Mapping[str, Any]) -> str:
  """Return a few lines for people about what `describe` returned."""
  model = report['config']['model']
  counts = report['parameters']
  lines = [
    f'{title} in {formatting.duration(report["seconds"])}: {report["path"]}',
    f'  {model["family"]}, {model["num_layers"]} blocks, '
    f'{model["embed_dim"]} wide, {model["vocab_size"]} tokens, '
    f'{formatting.number(float(counts["backbone"]))} parameters, '
    f'{" and ".join(report["dtypes"])}',
  ]
  exits = [_exit(e) for e in report['config']['exits']]
  if exits:
    lines.append(
      f'  exits at depth {", ".join(exits)}: '
      f'{formatting.number(float(counts["exits"]))} parameters'
    )
  else:
    lines.append('  no exits yet; eejax add-exits adds some')
  return '\n'.join(lines)


def _exit(exit: Mapping[str, Any]) -> str:
  gate = '' if exit['gate'] == 'none' else ', gate'
  return f'{exit["depth"]} ({exit["head"]}{gate})'
