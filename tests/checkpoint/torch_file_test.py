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
"""Test the reader of torch.save's files, and that it runs nothing in them."""

import argparse
import builtins
import collections
import os
import pickle
import subprocess
import zipfile

import ml_dtypes
import numpy as np
import pytest

from eejax.checkpoint import torch_pickle
from eejax.checkpoint.torch_file import read_torch_file
from eejax.checkpoint.torch_pickle import NotRead
from eejax.checkpoint.torch_tensor import Storage, StoredTensor
from eejax.errors import CheckpointError

try:
  import torch
except ImportError:
  torch = None
needs_torch = pytest.mark.parity


def write_archive(path, values, *, protocol=2, program=None):
  """Write what torch.save would, with a pickle of anything."""
  program = program or pickle.dumps(values, protocol=protocol)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', program)
    archive.writestr('archive/byteorder', 'little')
  return path


# MARK: What is read


@needs_torch
@pytest.mark.parametrize('protocol', [2, 4])
def test_everything_that_torch_saves_comes_back(tmp_path, protocol):
  whole = torch.arange(12.0).reshape(3, 4)
  values = {
    'f32': whole,
    'turned': whole.T,
    'part': whole[1:, 1:3],
    'bf16': torch.tensor([1.5, -2.0]).bfloat16(),
    'f16': torch.tensor(3.0).half(),
    'i64': torch.tensor([2**40]),
    'bool': torch.tensor([True, False]),
    'empty': torch.zeros(0, 3),
    'parameter': torch.nn.Parameter(torch.ones(2)),
    'state': torch.nn.Linear(2, 2, bias=False).state_dict(),
    'args': argparse.Namespace(a=1, dtype=torch.bfloat16, names=['x', None]),
    'plain': [1, -(2**70), 2.5, True, ('ö', ()), collections.OrderedDict(b=3)],
    'random': np.random.get_state(),
  }
  torch.save(values, tmp_path / 'a.pt', pickle_protocol=protocol)
  found = read_torch_file(tmp_path / 'a.pt')
  assert found.keys() == values.keys()
  for name in ('f32', 'turned', 'part', 'f16', 'i64', 'bool', 'empty'):
    np.testing.assert_array_equal(found[name], values[name].numpy())
    assert found[name].dtype == values[name].numpy().dtype
  assert found['bf16'].dtype == ml_dtypes.bfloat16
  assert found['bf16'].tolist() == [1.5, -2.0]
  assert found['parameter'].tolist() == [1.0, 1.0]
  assert found['state'].keys() == {'weight'}
  assert found['plain'] == values['plain']
  assert found['args']['names'] == ['x', None]
  assert isinstance(found['random'][1], NotRead)
  assert not found['f32'].flags.writeable


# MARK: What is refused


class Calls:
  """Makes a pickle call a function."""

  def __init__(self, function, *arguments):
    self._call = function, arguments

  def __reduce__(self):
    return self._call


class Planted(dict):
  pass


def _marker(tmp_path):
  return tmp_path / 'it ran'


MALICIOUS = {
  'system': (lambda m: Calls(os.system, f'touch "{m}"'), 'posix.system'),
  'eval': (lambda m: Calls(eval, f'open({str(m)!r}, "w")'), r'builtin.*\.eval'),
  'exec': (
    lambda m: [Calls(exec, f'open({str(m)!r}, "w")')],
    r'builtin.*\.exec',
  ),
  'popen': (
    lambda m: {'a': (1, [Calls(subprocess.Popen, ['touch', str(m)])])},
    r'(subprocess|commands)\.Popen',
  ),
  'nested': (
    lambda m: argparse.Namespace(
      model=collections.OrderedDict(
        a=Calls(getattr, Calls(__import__, 'os'), 'system')
      )
    ),
    r'builtin.*\.(getattr|__import__)',
  ),
  'open': (lambda m: Calls(builtins.open, str(m), 'w'), 'open'),
  'class': (lambda m: Planted(a=1), 'Planted'),
}


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('name', MALICIOUS)
def test_a_pickle_that_calls_something_is_refused(name, protocol, tmp_path):
  make, named = MALICIOUS[name]
  path = write_archive(
    tmp_path / 'a.pt', make(_marker(tmp_path)), protocol=protocol
  )
  with pytest.raises(CheckpointError, match=named) as caught:
    read_torch_file(path)
  assert '\n' not in str(caught.value)
  assert not _marker(tmp_path).exists()


def test_a_known_name_cannot_be_called_through_another_instruction(tmp_path):
  # Python would set this state on its own class.
  program = b'ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.'
  path = write_archive(tmp_path / 'a.pt', None, program=program)
  assert isinstance(read_torch_file(path), NotRead)
  assert not hasattr(collections.OrderedDict, 'a')
  for program in (
    b'cargparse\nNamespace\n(i os\nsystem\n.',
    b'\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.',
    b'\x80\x02\x82\x01.',
    b'\x80\x02K\x01K\x02R.',
  ):
    path = write_archive(tmp_path / 'a.pt', None, program=program)
    with pytest.raises(CheckpointError):
      read_torch_file(path)


def test_values_in_many_places_are_copied_once(tmp_path):
  values = [0]
  for _ in range(50):
    values = [values, values]
  found = read_torch_file(write_archive(tmp_path / 'a.pt', values))
  assert found[0] is found[1]
  values = []
  values.append(values)
  with pytest.raises(CheckpointError, match='nested too deeply'):
    read_torch_file(write_archive(tmp_path / 'b.pt', values))


# MARK: What is damaged


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / 'saved.pt'
  torch.save({'a': torch.arange(4.0), 'args': argparse.Namespace(b=1)}, path)
  return path


def rewritten(saved, path, *, compress=zipfile.ZIP_STORED, **changes):
  """Write an archive again; a member that is changed to None is left out."""
  with (
    zipfile.ZipFile(saved) as old,
    zipfile.ZipFile(path, 'w', compress) as new,
  ):
    for name in old.namelist():
      last = name.rpartition('/')[2]
      content = changes.get(f'_{last}', old.read(name))
      if content is not None:
        new.writestr(name, content)
  return path


@needs_torch
def test_a_damaged_archive_is_a_sentence(saved, tmp_path):
  whole = saved.read_bytes()
  cut = tmp_path / 'cut.pt'
  for size in (0, 10, len(whole) // 2, len(whole) - 1):
    cut.write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match='whole file of torch.save'):
      read_torch_file(cut)
  again = lambda **changes: rewritten(saved, tmp_path / 'b.pt', **changes)
  assert read_torch_file(again())['args'] == {'b': 1}
  for changes, words in (
    ({'_0': b'1234'}, 'too few'),
    ({'_0': None}, 'data/0 is missing'),
    ({'_data.pkl': None}, 'no data.pkl'),
    ({'_byteorder': b'big'}, 'big-endian'),
    ({'compress': zipfile.ZIP_DEFLATED}, 'is compressed'),
    ({'_data.pkl': b'\x80\x02}q\x00'}, 'damaged|cut short'),
  ):
    with pytest.raises(CheckpointError, match=words) as caught:
      read_torch_file(again(**changes))
    assert '\n' not in str(caught.value)
  with pytest.raises(CheckpointError, match='whole file of torch.save'):
    read_torch_file(tmp_path / 'none.pt')


def test_a_tensor_stays_within_its_numbers():
  storage = Storage('0', np.dtype(np.float32), 12)
  StoredTensor(storage, 2, (2, 5), (5, 1))
  for offset, shape, strides in (
    (3, (2, 5), (5, 1)),
    (-1, (1,), (1,)),
    (0, (2,), (-1,)),
    (0, (2, 2), (1,)),
  ):
    with pytest.raises(ValueError, match='a tensor'):
      StoredTensor(storage, offset, shape, strides)


@needs_torch
def test_a_fuzzed_pickle_is_a_sentence_or_values(saved):
  with zipfile.ZipFile(saved) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith('data.pkl')]
    whole = archive.read(name)
  generator = np.random.default_rng(0)
  refused = 0
  for _ in range(1000):
    data = bytearray(whole)
    for place in generator.integers(0, len(data), generator.integers(1, 4)):
      data[place] = generator.integers(256)
    try:
      torch_pickle.loads(bytes(data), name='a.pt')
    except CheckpointError as error:
      refused += 1
      assert '\n' not in str(error)
  assert refused > 500
