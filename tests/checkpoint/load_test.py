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
"""Test what a model can be loaded from."""

import numpy as np
import pytest

from eejax.checkpoint import folder
from eejax.checkpoint.load import load
from eejax.errors import ArgumentError, CheckpointError


def test_folders_of_both_kinds_give_the_same_model(tmp_path):
  model = load('default')
  folder.save(tmp_path / 'model', model)
  again = load(tmp_path / 'model')
  assert again.config == model.config
  np.testing.assert_array_equal(
    again.params['backbone']['embedding']['table'],
    model.params['backbone']['embedding']['table'],
  )
  assert again.tokenizer.encode('def', add_bos=False)


def test_what_is_no_model_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ArgumentError, match='is a file'):
    load(tmp_path / 'file')
  with pytest.raises(ArgumentError, match='is neither an eejax checkpoint'):
    load(tmp_path / 'empty')
  with pytest.raises(ArgumentError, match='there is no folder'):
    load(tmp_path / 'gone')


def test_a_hub_that_cannot_be_reached_is_said(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  with pytest.raises((ArgumentError, CheckpointError), match='hub'):
    load('nobody/nothing-of-that-name')
