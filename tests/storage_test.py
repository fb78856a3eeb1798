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
"""An address in a bucket is never taken for a local folder."""

import ast
import pathlib
import subprocess
import sys

import pytest

import eejax
from eejax import storage
from eejax.cli import main as main_module
from eejax.errors import ArgumentError, StoreError

PACKAGE = pathlib.Path(eejax.__file__).parent


class TestLocalPath:
  @pytest.mark.parametrize(
    'where', ['gs://b/run', 's3://b/run', pathlib.Path('gs://b/run')]
  )
  def test_an_address_is_refused_by_its_whole_name(self, where):
    with pytest.raises(ArgumentError, match=r's3?://b/run is an address'):
      storage.local_path(where)

  @pytest.mark.parametrize(
    'where', ['runs/a', '/a:/b', 'a:b', 'C:/a', 'tokens:/a', 'seqio:gs', '']
  )
  def test_other_names_are_paths(self, where):
    assert storage.local_path(where) == pathlib.Path(where)


LOCAL_ALONE = [
  'export default gs://b/m.gguf',
  'analyse default --out gs://b/p',
]
IN_STORES_TOO = [
  'import default gs://b/m',
  'export default gs://b/m',
  'add-exits default gs://b/m --exits 6:norm',
  'generate gs://b/m --prompt a',
  'generate default --prompts gs://b/p',
  'generate default --prompt a --policy gs://b/p',
  'eval default --data gs://b/t',
  'calibrate default --out gs://b/p',
  'probe default --out gs://b/p',
  'bench default --out gs://b/p',
  'serve gs://b/m',
  'tune --checkpoint gs://b/m --run out',
  'pretrain --run gs://b/m',
]


def refusal(arguments, folder, monkeypatch, capsys):
  """Return the sentence that a verb ends with; it may write nothing."""
  monkeypatch.chdir(folder)
  assert main_module.main(arguments.split()) == 2
  assert list(folder.iterdir()) == []
  return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize('arguments', LOCAL_ALONE)
def test_what_needs_this_machine_refuses_a_bucket(
  arguments, tmp_path, monkeypatch, capsys
):
  said = refusal(arguments, tmp_path, monkeypatch, capsys)
  assert 'gs://b/' in said
  assert 'on this machine' in said


@pytest.mark.parametrize('arguments', IN_STORES_TOO)
def test_without_its_package_a_bucket_is_no_folder(
  arguments, tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(storage.STORES, 'gs', ('no_such_package', 'gcs'))
  said = refusal(arguments, tmp_path, monkeypatch, capsys)
  assert "pip install 'eejax[gcs]'" in said


def test_an_unknown_store_is_named():
  with pytest.raises(ArgumentError, match=r'ftp://a is in a store .* gs://'):
    storage.as_path('ftp://a')


@pytest.mark.store
class TestReported:
  def test_a_bucket_that_is_not_there(self, store):
    path = storage.as_path('gs://no-such-bucket/a')
    with pytest.raises(StoreError, match='there is no such bucket'):
      with storage.reported(path, what='written'):
        path.write_text('a')

  def test_a_bucket_that_refuses(self, bucket, store):
    path = storage.as_path(f'{bucket}/a')
    with store.refusing(lambda method, path: True):
      with pytest.raises(StoreError, match='written: the store refuses'):
        with storage.reported(path, what='written'):
          path.write_text('a')

  def test_other_errors_stay(self, bucket):
    with pytest.raises(KeyError):
      with storage.reported(storage.as_path(bucket), what='read'):
        raise KeyError


@pytest.mark.store
def test_tensorflow_is_not_imported_for_a_bucket(store, bucket):
  code = (
    'import sys; from eejax import storage;'
    f"assert not storage.as_path('{bucket}/a').exists();"
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=PACKAGE.parent)


def test_no_module_makes_a_path_of_what_was_written_by_itself():
  """Paths of packages, of the system and of temporary files are known."""
  known = {
    'cache_folders.py': 1,
    'capture/file.py': 1,
    'checkpoint/atomic.py': 3,
    'checkpoint/gguf_export.py': 1,
    'checkpoint/hub.py': 1,
    'checkpoint/packaged.py': 1,
    'checkpoint/tokenizer_files.py': 1,
    'cli/gin/config.py': 1,
    'cli/program_cache.py': 1,
    'data/corpus.py': 2,
    'data/token_files.py': 1,
    'environment.py': 1,
    'parallel/memory.py': 1,
    'parallel/same_run.py': 1,
    'recipes/analyse.py': 1,
    'resources.py': 2,
    'storage.py': 2,
    'training/metrics.py': 1,
    'training/trace.py': 1,
  }
  found = {}
  for file in sorted(PACKAGE.rglob('*.py')):
    name = file.relative_to(PACKAGE).as_posix()
    if name.startswith('testing/'):
      continue
    calls = [
      node
      for node in ast.walk(ast.parse(file.read_text()))
      if isinstance(node, ast.Call) and ast.unparse(node.func) == 'pathlib.Path'
    ]
    if calls:
      found[name] = len(calls)
  assert found == known
