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
"""Tests of the safetensors reader and writer, against the library's own."""

import functools
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from eejax.checkpoint.safetensors_file import (
  Entry,
  SafetensorsFile,
  write_safetensors,
)
from eejax.errors import CheckpointError

ARRAYS = {
  'float32': np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
  'float16': np.arange(5, dtype=np.float16),
  'bfloat16': np.arange(7).astype(ml_dtypes.bfloat16).reshape(7, 1),
  'empty': np.zeros((0, 3), np.float32),
}


def write(path, arrays):
  write_safetensors(
    path,
    [
      Entry(name, array.shape, array.dtype, functools.partial(np.array, array))
      for name, array in arrays.items()
    ],
  )


def test_what_is_written_reads_the_same(tmp_path):
  write(tmp_path / 'a', ARRAYS)
  file = SafetensorsFile(tmp_path / 'a')
  assert list(file) == list(ARRAYS)
  for name, array in ARRAYS.items():
    found = file.tensor(name)
    assert found.dtype == array.dtype
    assert file.shape(name) == array.shape
    np.testing.assert_array_equal(found, array)


def test_the_library_reads_what_is_written(tmp_path):
  arrays = {k: v for k, v in ARRAYS.items() if k != 'bfloat16'}
  write(tmp_path / 'a', arrays)
  found = safetensors.numpy.load_file(tmp_path / 'a')
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)
  with safetensors.safe_open(tmp_path / 'a', framework='np') as file:
    assert file.metadata() == {'format': 'pt'}


def test_what_the_library_writes_is_read(tmp_path):
  arrays = {k: v for k, v in ARRAYS.items() if k != 'bfloat16'}
  safetensors.numpy.save_file(arrays, tmp_path / 'a', {'format': 'pt'})
  file = SafetensorsFile(tmp_path / 'a')
  assert sorted(file) == sorted(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(file.tensor(name), array)


def test_a_tensor_is_mapped_and_cannot_be_changed(tmp_path):
  write(tmp_path / 'a', ARRAYS)
  tensor = SafetensorsFile(tmp_path / 'a').tensor('float32')
  assert not tensor.flags.owndata
  assert not tensor.flags.writeable


def test_tensors_are_read_one_at_a_time(tmp_path):
  held = []

  def read(number):
    held.append(number)
    return np.full((2,), number, np.float32)

  entries = [
    Entry(str(i), (2,), np.dtype(np.float32), functools.partial(read, i))
    for i in range(3)
  ]
  assert held == []
  write_safetensors(tmp_path / 'a', entries)
  assert held == [0, 1, 2]


def change_header(path, change):
  data = path.read_bytes()
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + length])
  change(header)
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + data[8 + length :])


@pytest.mark.parametrize(
  'damage',
  [
    lambda data: b'',
    lambda data: data[:6],
    lambda data: data[:40],
    lambda data: data[:-1],
    lambda data: (2**60).to_bytes(8, 'little') + data[8:],
    lambda data: data[:8] + b'x' + data[9:],
    lambda data: (2).to_bytes(8, 'little') + b'[]' + data[10:],
  ],
)
def test_a_damaged_file_is_named(tmp_path, damage):
  write(tmp_path / 'a', ARRAYS)
  (tmp_path / 'a').write_bytes(damage((tmp_path / 'a').read_bytes()))
  with pytest.raises(CheckpointError, match='not a whole safetensors'):
    SafetensorsFile(tmp_path / 'a')


def test_a_place_outside_the_file(tmp_path):
  write(tmp_path / 'a', ARRAYS)
  change_header(
    tmp_path / 'a', lambda h: h['float16'].update(data_offsets=[-4, 6])
  )
  with pytest.raises(CheckpointError, match='float16'):
    SafetensorsFile(tmp_path / 'a')


def test_a_shape_that_does_not_fit_its_data(tmp_path):
  write(tmp_path / 'a', ARRAYS)
  change_header(tmp_path / 'a', lambda h: h['float16'].update(shape=[6]))
  with pytest.raises(CheckpointError, match=r'float16 of shape \(6,\)'):
    SafetensorsFile(tmp_path / 'a').tensor('float16')


def test_dtypes_that_are_not_supported(tmp_path):
  write(tmp_path / 'a', ARRAYS)
  change_header(tmp_path / 'a', lambda h: h['float16'].update(dtype='F8_E4M3'))
  with pytest.raises(CheckpointError, match='F8_E4M3.*F32, F16, BF16'):
    SafetensorsFile(tmp_path / 'a').tensor('float16')
  with pytest.raises(CheckpointError, match='float64'):
    write(tmp_path / 'b', {'x': np.zeros(3)})
