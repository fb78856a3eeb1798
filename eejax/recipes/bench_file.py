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
"""The file in which a benchmark keeps what it has measured."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eejax import environment, serialization
from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.config import config_json
from eejax.errors import ArgumentError
from eejax.evaluation.bench import BenchmarkRow
from eejax.storage import AnyPath

FORMAT = 1

# What lines of one file have in common: part -> what it is called.
_PARTS = {
  'model': 'of another model or other exits',
  'run': 'with other prompts, tokens, repeats or another dtype',
  'machine': 'on another machine or with other versions',
}
_MACHINE = ('eejax', 'jax', 'device', 'processor', 'cores')


class BenchFile:
  """Rows of a benchmark; the file is written, whole, with every new row.

  Attributes:
    path: of the file, or None where rows are kept in memory alone.
    values: everything, as plain values for JSON.
  """

  def __init__(self, path: AnyPath | None, identity: Mapping[str, Any]):
    """Open the file, which need not be there yet.

    Args:
      path: where it is, or None for no file.
      identity: what the rows have in common, see `identify`.

    Raises:
      ArgumentError: the file holds something else.
    """
    self.path = path
    self.values: dict[str, Any] = {
      'format': FORMAT,
      **serialization.plain(identity),
      'environment': {},
      'lines': [],
      'peers': [],
    }
    if path is not None and path.exists():
      held = serialization.read_object(path, what='measurements')
      self._check(held)
      self.values = {**self.values, **held}
    self.values['environment'] = _environment()

  def _check(self, held: Mapping[str, Any]) -> None:
    if held.get('format') != FORMAT or not isinstance(held.get('lines'), list):
      raise ArgumentError(
        f'{self.path} is no file of eejax bench; name another one (out).'
      )
    for part, words in _PARTS.items():
      if held.get(part) != self.values[part]:
        raise ArgumentError(
          f'{self.path} holds measurements {words}; name another file (out), '
          'or remove it.'
        )

  def has(self, setting: Mapping[str, Any]) -> bool:
    """Return whether a strategy, as plain values, was measured before."""
    wanted = serialization.plain(setting)
    return any(line['setting'] == wanted for line in self.values['lines'])

  def add(self, row: BenchmarkRow) -> None:
    """Keep a row and write the file."""
    self.values['lines'].append(serialization.plain(row))
    self.write()

  def rows_of(
    self, settings: Sequence[Mapping[str, Any]]
  ) -> tuple[BenchmarkRow, ...]:
    """Return the rows of strategies, as plain values, in their order."""
    wanted = [json.dumps(serialization.plain(s)) for s in settings]
    lines = {json.dumps(x['setting']): x for x in self.values['lines']}
    return tuple(
      BenchmarkRow.from_json(lines[name]) for name in wanted if name in lines
    )

  def write(self) -> None:
    """Write the file, if there is one: as it was before, or whole."""
    if self.path is not None:
      serialization.write_json(self.path, self.values)


def identify(
  model: Model,
  *,
  prompts: Sequence[Sequence[int]],
  **run: Any,
) -> dict[str, Any]:
  """Return what measurements that may be compared have in common.

  Args:
    model: with its exits.
    prompts: token ids.
    **run: what else says how is measured.
  """
  described = environment.describe()
  digest = hashlib.sha256(json.dumps([list(p) for p in prompts]).encode())
  return {
    'model': {
      'backbone_hash': model.backbone_hash or tree.backbone_hash(model.params),
      'exits_hash': _exits_hash(model),
      'num_layers': model.config.model.num_layers,
      'exit_depths': list(model.config.exit_depths),
    },
    'run': {
      **run,
      'prompts': len(prompts),
      'prompts_hash': digest.hexdigest(),
    },
    'machine': {name: described[name] for name in _MACHINE},
  }


def _exits_hash(model: Model) -> str:
  text = json.dumps(config_json.to_json(model.config), sort_keys=True)
  digest = hashlib.sha256(text.encode())
  leaves = jax.tree_util.tree_leaves_with_path(model.params['exits'])
  for path, leaf in leaves:
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


def _environment() -> dict[str, Any]:
  return {**environment.describe(), 'load': list(os.getloadavg())}


def read_peers(
  path: str | os.PathLike | None, *, backbone_hash: str
) -> list[dict[str, Any]]:
  """Return what other decoders did on the same weights.

  Args:
    path: a file that `benchmarks/peers.py` wrote, or None for no peers.
    backbone_hash: of the weights.

  Raises:
    ArgumentError: the file cannot be read, or is about other weights.
  """
  if path is None:
    return []
  values = serialization.read_object(path, what='peers')
  lines = values.get('lines')
  known = {'decoder', 'batch_size', 'tokens_per_s_with_prefill'}
  is_line = lambda line: isinstance(line, dict) and known <= set(line)
  if not isinstance(lines, list) or not all(map(is_line, lines)):
    raise ArgumentError(
      f'{path} is not what benchmarks/peers.py writes; run it on the model as '
      'a Hugging Face folder.'
    )
  if backbone_hash not in (values.get('backbone_hashes') or ()):
    raise ArgumentError(
      f'{path} was measured on other weights; run benchmarks/peers.py on this '
      'model.'
    )
  return lines
