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
"""Test that `benchmarks/peers.py` writes what `eejax bench` reads."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

from eejax.checkpoint.huggingface_export import export_folder
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import backbone_hash
from eejax.errors import ArgumentError
from eejax.recipes.bench_file import read_peers
from eejax.testing import tiny

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Return the folder of a tiny model for transformers, and its hash."""
  config = tiny.tiny_config('', bos_id=None, eos_ids=())
  params = tiny.tiny_params(config)
  folder = tmp_path_factory.mktemp('peers') / 'hf'
  export_folder(Model(config, params), folder)
  return folder, backbone_hash(params)


def test_bench_reads_what_it_writes(model, tmp_path, monkeypatch, capsys):
  folder, digest = model
  monkeypatch.syspath_prepend(BENCHMARKS)
  peers = importlib.import_module('peers')
  out = tmp_path / 'peers.json'
  argv = ['peers.py', str(folder), '--out', str(out), '--exits', '2']
  short = ['--max-new-tokens', '4', '--repeats', '1', '--batch-sizes', '1,2']
  monkeypatch.setattr(sys, 'argv', [*argv, *short])
  # Its prompts would not fit into the context of so small a model.
  monkeypatch.setattr(peers, '_prompt_ids', lambda *_, **__: [[3, 4, 5]] * 3)
  peers.main()
  lines = read_peers(out, backbone_hash=digest)
  assert [(x['decoder'], x['batch_size']) for x in lines] == [
    ('transformers generate', 1),
    ('transformers assistant_early_exit=2', 1),
    ('transformers prompt_lookup_num_tokens=7', 1),
    ('transformers generate', 2),
  ]
  for line in lines:
    # Two batches of two for three prompts.
    rows = 3 if line['batch_size'] == 1 else 4
    speed = rows * 4 / np.median(line['seconds'])
    assert line['tokens_per_s_with_prefill'] == pytest.approx(speed)
  assert {'torch', 'transformers'} == set(
    json.loads(out.read_text())['versions']
  )
  with pytest.raises(ArgumentError, match='other weights'):
    read_peers(out, backbone_hash='x')
