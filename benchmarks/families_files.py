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
"""Measure that models come in from files as they are, and in little memory.

`gguf_exact` is 1 where every kind of GGUF file gives, bit for bit, what the
package gguf makes of it, and the logits of an F32 file are those of the Hugging
Face folder of the same model within 1e-4. `import_peak` is the memory that an
import into a checkpoint takes beside the program, over the largest file that it
reads; the largest one of sharded Hugging Face folders, one of them of experts,
and of GGUF files. Memory is what nobody else could use: pages of mapped files
are not counted, for the system takes them back when it needs them.

The module measures one import when it is run itself; `families.py` runs it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from typing import Any

import jax
import numpy as np
from figures import Figure

from eejax.checkpoint import folder, gguf_import, huggingface, tree
from eejax.checkpoint.gguf_export import OutType, export_file
from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.config.experts import ExpertsConfig
from eejax.models import decoder
from eejax.models.families.tensors import tensors
from eejax.testing.tiny_gguf import write_gguf

KINDS = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q4_K', 'Q6_K')
LENGTHS = (1, 7, 16, 40)

# Rows of 256, as blocks of the K kinds are.
SMALL = ModelConfig(
  vocab_size=64,
  num_layers=2,
  embed_dim=256,
  num_heads=4,
  num_kv_heads=2,
  head_dim=64,
  mlp_dim=256,
  max_length=64,
)
# 170 million parameters: 680 MB in float32, in files of about 230 MB.
LARGE = ModelConfig(
  vocab_size=16_000,
  num_layers=24,
  embed_dim=768,
  num_heads=12,
  num_kv_heads=12,
  head_dim=64,
  mlp_dim=2048,
  max_length=512,
  tied_head=True,
)
# 8 experts a block: 120 million parameters, 480 MB.
EXPERTS = dataclasses.replace(
  LARGE,
  num_layers=6,
  mlp_dim=1024,
  experts=ExpertsConfig(8, 2, 1024),
  family='mixtral',
  tied_head=False,
)
SHARD_BYTES = 230_000_000


def gguf_exact(args: argparse.Namespace) -> Figure:
  """Return 1 where GGUF files are read exactly, else 0."""
  with tempfile.TemporaryDirectory() as temporary:
    place = pathlib.Path(temporary)
    differences = {kind: _difference(place, kind) for kind in KINDS}
    error = _logit_error(place)
  is_exact = all(d == 0 for d in differences.values()) and error <= 1e-4
  detail = {'largest_difference': differences, 'logit_error_f32': error}
  return float(is_exact), detail


def _difference(place: pathlib.Path, kind: str) -> float:
  """Return the largest difference of any value from gguf's."""
  file = write_gguf(place / f'{kind}.gguf', SMALL, kind=kind)
  model = gguf_import.import_file(file.path)
  worst = 0.0
  for tensor in tensors(SMALL):
    name = _gguf_name(tensor.name)
    expected = file.arrays[name]
    if '.attn_q.' in name or '.attn_k.' in name:
      heads = SMALL.num_heads if '.attn_q.' in name else SMALL.num_kv_heads
      expected = _members_apart(expected, heads)
    leaf = np.asarray(tree.leaf(model.params, tensor.path))
    found = tensor.to_file(leaf).astype(np.float32)
    worst = max(worst, float(np.abs(found - expected).max()))
  return worst


def _members_apart(array: np.ndarray, heads: int) -> np.ndarray:
  """Return rows with the first members of all pairs before the second."""
  size = len(array) // heads
  order = [*range(0, size, 2), *range(1, size, 2)]
  return array[[head * size + i for head in range(heads) for i in order]]


def _gguf_name(name: str) -> str:
  """Return llama.cpp's name of a tensor, by gguf's own table."""
  import gguf

  table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SMALL.num_layers)
  found = table.get_name(name, try_suffixes=('.weight', '.bias'))
  assert found is not None, name
  return found


def _logit_error(place: pathlib.Path) -> float:
  """Return how far logits of an F32 file are from the folder's."""
  config = EarlyExitConfig(SMALL)
  params = decoder.init(config, jax.random.key(0))
  huggingface.export_folder(Model(config, params), place / 'folder')
  export_file(load(place / 'folder'), place / 'model.gguf')
  one, other = load(place / 'folder'), load(place / 'model.gguf')
  worst = 0.0
  for length in LENGTHS:
    tokens = jax.random.randint(
      jax.random.key(length), (2, length), 0, SMALL.vocab_size
    )
    found = [
      decoder.logits(m.params, tokens, config=m.config)['final']
      for m in (one, other)
    ]
    worst = max(worst, float(np.abs(found[0] - found[1]).max()))
  return worst


# MARK: Memory


def import_peak(args: argparse.Namespace) -> Figure:
  """Return the worst memory of an import over the largest file it reads."""
  detail: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as temporary:
    place = pathlib.Path(temporary)
    config = EarlyExitConfig(LARGE)
    model = Model(config, decoder.init(config, jax.random.key(0)))
    huggingface.export_folder(model, place / 'sharded', shard_bytes=SHARD_BYTES)
    export_file(model, place / 'f16.gguf', out_type=OutType.F16)
    export_file(model, place / 'q8_0.gguf', out_type=OutType.Q8_0)
    model = Model(
      EarlyExitConfig(EXPERTS),
      decoder.init(EarlyExitConfig(EXPERTS), jax.random.key(0)),
    )
    huggingface.export_folder(model, place / 'experts', shard_bytes=SHARD_BYTES)
    del model
    for name in ('sharded', 'experts', 'f16.gguf', 'q8_0.gguf'):
      detail[name] = _import_apart(place / name, place / f'{name}-new')
  return max(part['ratio'] for part in detail.values()), detail


def _import_apart(source: pathlib.Path, dest: pathlib.Path) -> dict[str, Any]:
  """Import in a process of its own, and return its memory."""
  command = [sys.executable, __file__, str(source), str(dest)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  files = [source] if source.is_file() else source.glob('*.safetensors')
  largest = max(file.stat().st_size for file in files)
  bytes_ = json.loads(done.stdout)['peak_bytes']
  return {
    'peak_bytes': bytes_,
    'largest_file': largest,
    'ratio': bytes_ / largest,
  }


class _Peak:
  """Watch the memory that this process has for itself."""

  def __init__(self) -> None:
    self.most = self.start = _anonymous_bytes()
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def _watch(self) -> None:
    while not self._ended.wait(0.002):
      self.most = max(self.most, _anonymous_bytes())

  def end(self) -> int:
    """Return how much it grew."""
    self._ended.set()
    self._thread.join()
    return self.most - self.start


def _anonymous_bytes() -> int:
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith('RssAnon:'):
      return int(line.split()[1]) * 1024
  raise OSError('the system does not tell RssAnon')


def _import_one(source: pathlib.Path, dest: pathlib.Path) -> None:
  """Import one model here, and print what it took."""
  # What is loaded and started once is no part of an import.
  folder.save(dest.with_name(f'{dest.name}-warm'), _map(_warm(dest.parent)))
  peak = _Peak()
  folder.save(dest, _map(source))
  print(json.dumps({'peak_bytes': peak.end()}))


def _warm(place: pathlib.Path) -> pathlib.Path:
  path = place / f'warm-{os.getpid()}.gguf'
  return write_gguf(path, SMALL, kind='Q8_0').path


def _map(source: pathlib.Path) -> Model:
  is_folder = source.is_dir()
  read = huggingface.map_folder if is_folder else gguf_import.map_file
  return read(source)


if __name__ == '__main__':
  _import_one(*map(pathlib.Path, sys.argv[1:]))
