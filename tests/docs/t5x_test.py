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
"""Test that the commands of docs/t5x.md do what the page says.

They run as they are written, one after the other, with the page's own task, in
a folder that has eejax's gin files and its embedded model.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / 'docs' / 't5x.md').read_text(encoding='utf-8')
ENVIRONMENT = ('launch/', 'source ')

pytestmark = [pytest.mark.t5x, pytest.mark.slow]


def fenced(language):
  return re.findall(rf'^```{language}\n(.*?)^```', PAGE, re.M | re.S)


def commands():
  """Return the page's commands in order, but those for the environment."""
  lines = '\n'.join(fenced('sh')).replace('\\\n', ' ').splitlines()
  return [s for s in lines if s and not s.startswith(ENVIRONMENT)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Return the folder in which every command of the page has run."""
  path = tmp_path_factory.mktemp('page')
  for name in ('gin', 'assets'):
    (path / name).symlink_to(REPOSITORY / name)
  (path / 'my_tasks.py').write_text(fenced('python')[0])
  # The page's commands are found as in an environment that is active.
  python, own = shlex.quote(sys.executable), path / 'bin'
  own.mkdir()
  for name, call in (('python', python), ('eejax', f'{python} -m eejax')):
    (own / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
    (own / name).chmod(0o755)
  environment = {
    **os.environ,
    'PATH': os.pathsep.join([str(own), os.environ['PATH']]),
    'PYTHONPATH': os.pathsep.join([str(REPOSITORY), str(path)]),
    'JAX_PLATFORMS': 'cpu',
  }
  for command in commands():
    done = subprocess.run(
      ['bash', '-c', command],
      cwd=path,
      env=environment,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, f'{command}: {done.stderr[-4000:]}'
  return path


def scalars(folder):
  """Return what TensorBoard has of a folder: a list of values by name."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  found = event_accumulator.EventAccumulator(
    str(folder), size_guidance={'tensors': 0}
  )
  found.Reload()
  values = {}
  for name in found.Tags()['tensors']:
    tensors = [
      tensor_util.make_ndarray(e.tensor_proto) for e in found.Tensors(name)
    ]
    if all(t.dtype.kind == 'f' and t.ndim == 0 for t in tensors):
      values[name] = [float(t) for t in tensors]
  return values


def test_tuning_writes_a_loss_for_every_exit(folder):
  found = scalars(folder / 'runs' / 'tuned' / 'train')
  assert {'loss', 'exit_4/loss', 'exit_8/loss'} <= found.keys()
  # The other one is a norm alone, which learns less in 20 steps than one batch
  # differs from another.
  assert found['exit_8/loss'][-1] < 0.7 * found['exit_8/loss'][0]


def test_tuning_leaves_the_backbone_and_what_is_imported_is_what_was_saved(
  folder,
):
  import eejax

  start = eejax.load(folder / 'checkpoints' / 'exits', dtype='float32')
  tuned = eejax.load(folder / 'checkpoints' / 'tuned')
  same = lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes()
  backbones = (m.params['backbone'] for m in (start, tuned))
  assert all(jax.tree.leaves(jax.tree.map(same, *backbones)))
  exits = (m.params['exits'] for m in (start, tuned))
  assert not any(jax.tree.leaves(jax.tree.map(same, *exits)))
  assert tuned.config == start.config


def test_held_out_losses_are_measured_while_training(folder):
  found = scalars(
    folder / 'runs' / 'pretrained' / 'training_eval' / 'additions'
  )
  assert {'final/loss', 'exit_4/loss', 'exit_8/agreement'} <= found.keys()


def test_eval_has_the_tasks_metrics_and_the_exits(folder):
  evaluated = folder / 'runs' / 'evaluated'
  metrics = json.loads(
    next(evaluated.rglob('additions-metrics.jsonl')).read_text()
  )
  assert 0 <= metrics['exact'] <= 1
  found = scalars(evaluated / 'training_eval' / 'additions')
  assert {'exit_4/loss', 'exit_8/loss', 'final/loss'} <= found.keys()


def test_infer_writes_the_depths_that_eejax_would_take(folder):
  import eejax

  file = next((folder / 'runs' / 'inferred').glob('*.jsonl-00000-of-00001'))
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  assert len(rows) == 8
  model = eejax.load(folder / 'runs' / 'tuned')
  prompts = [row['inputs']['inputs_pretokenized'] for row in rows]
  tokens = [model.tokenizer.encode(p, add_bos=True) for p in prompts]
  depths = [row['aux']['exit_depths'] for row in rows]
  assert {4, 8, 12} >= {d for row in depths for d in row if d}
  assert any(0 < d < 12 for row in depths for d in row)
  for row, ids in zip(rows, tokens, strict=True):
    own = eejax.generate(
      model,
      [ids],
      mode='early_exit',
      thresholds='0.5',
      max_new_tokens=32 - len(ids) + 1,
    ).rows[0]
    count = len(own.tokens)
    assert tuple(row['aux']['exit_depths'][:count]) == own.exit_depths
    assert not any(row['aux']['exit_depths'][count:])
    text = model.tokenizer.decode(own.tokens)
    assert text.startswith(row['prediction'])
    log_prob = sum(own.logprobs)
    assert row['aux']['scores'] == pytest.approx(log_prob, abs=1e-3)
