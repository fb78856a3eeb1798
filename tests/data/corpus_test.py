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
"""The standard library and the user's files as corpora."""

import json
import pathlib
import sysconfig

import pytest

from eejax.data import corpus
from eejax.data.corpus import Split, TextUnit
from eejax.errors import ArgumentError, EejaxError

PARTS = (Split.TRAIN, Split.VALIDATION, Split.TEST)


@pytest.fixture
def library(tmp_path):
  """A small standard library with things that must be left out."""
  root = tmp_path / 'lib'
  good = {f'm{i}.py': f'x = {i}\n' for i in range(60)}
  good['email/mime/text.py'] = 'import email\n'
  bad = dict.fromkeys(
    (
      'site-packages/numpy.py',
      'test/test_os.py',
      'unittest/test/case.py',
      'lib2to3/tests/data/py2.py',
      'idlelib/idle_test/a.py',
      'encodings/cp1252.py',
      '_sysconfigdata__linux_x86.py',
      'config-3.11/python-config.py',
      'readme.txt',
      'empty.py',
    ),
    '',
  )
  for name, content in {**good, **bad}.items():
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
  (root / 'latin.py').write_bytes(b'# \xe9\n')
  return root, good


class TestStandardLibrary:
  def test_what_is_left_out(self, library):
    root, good = library
    assert sorted(corpus.standard_library_documents(root=root)) == sorted(
      good.values()
    )

  def test_parts_are_disjoint_and_complete(self, library):
    root, _ = library
    parts = [corpus.standard_library_files(s, root=root) for s in PARTS]
    assert all(parts)
    together = [f for p in parts for f in p]
    assert sorted(together) == corpus.standard_library_files(root=root)
    assert len(parts[0]) > 4 * len(parts[1] + parts[2])

  def test_the_split_does_not_depend_on_the_place(self, library, tmp_path):
    root, _ = library
    moved = root.rename(tmp_path / 'elsewhere')
    for split in PARTS:
      names = {f.name for f in corpus.standard_library_files(split, root=moved)}
      expected = {
        n for n in names if corpus.split_of(n) is split or n == 'text.py'
      }
      assert names == expected

  def test_the_split_is_the_same_on_every_machine(self):
    # A change here would move held-out modules into the training part.
    for part, names in {
      Split.TRAIN: ('os.py', 'json/decoder.py', 'abc.py'),
      Split.VALIDATION: ('pickle.py', 'threading.py', 'xml/dom/minidom.py'),
      Split.TEST: ('stat.py', 'urllib/parse.py', 'asyncio/tasks.py'),
    }.items():
      assert [corpus.split_of(n) for n in names] == [part] * 3

  def test_the_running_python_has_one(self):
    files = corpus.standard_library_files()
    root = pathlib.Path(sysconfig.get_paths()['stdlib'])
    names = {f.relative_to(root).as_posix() for f in files}
    assert {'os.py', 'json/decoder.py', 'argparse.py'} <= names
    assert len(names) > 400
    assert not any('site-packages' in n or '/test' in n for n in names)

  def test_none(self, tmp_path):
    with pytest.raises(EejaxError, match='no source files'):
      corpus.standard_library_files(root=tmp_path)


class TestFiles:
  def test_units(self, tmp_path):
    file = tmp_path / 'a.txt'
    file.write_bytes(b'\xef\xbb\xbfone\r\ntwo\n\n \nthree\n\n\n\nfour\n')

    def read(unit):
      return list(corpus.read_documents(file, unit=unit))

    assert read(TextUnit.FILE) == ['one\ntwo\n\n \nthree\n\n\n\nfour\n']
    assert read(TextUnit.PARAGRAPH) == ['one\ntwo', 'three', 'four']
    assert read(TextUnit.LINE) == ['one', 'two', 'three', 'four']

  def test_jsonl(self, tmp_path):
    file = tmp_path / 'a.jsonl'
    objects = [{'text': 'a', 'answer': 'b'}, {'text': 'c\nd', 'answer': 'e'}]
    file.write_text('\n\n'.join(map(json.dumps, objects)) + '\n')
    assert list(corpus.read_documents(file)) == ['a', 'c\nd']
    assert list(corpus.read_documents(file, field='answer')) == ['b', 'e']

  def test_folders_and_globs(self, tmp_path):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'b.txt').write_text('b')
    (tmp_path / 'a.jsonl').write_text('{"text": "a"}')
    (tmp_path / 'sub/c.txt').write_text('c')
    (tmp_path / 'd.md').write_text('d')
    assert list(corpus.read_documents(tmp_path)) == ['a', 'b', 'c']
    assert list(corpus.read_documents(f'{tmp_path}/*.txt')) == ['b']
    assert list(corpus.read_documents(f'{tmp_path}/**/*.[tm]*')) == [
      'b',
      'd',
      'c',
    ]
    assert list(corpus.read_documents(tmp_path / 'd.md')) == ['d']

  def test_splits(self, tmp_path):
    file = tmp_path / 'a.txt'
    lines = [f'line {i % 150}' for i in range(300)]
    file.write_text('\n'.join(lines))
    parts = [
      list(corpus.read_documents(file, unit=TextUnit.LINE, split=s))
      for s in PARTS
    ]
    assert all(parts)
    assert sorted(sum(parts, [])) == sorted(lines)
    assert not set(parts[0]) & set(parts[1] + parts[2])


class TestBadInput:
  def test_no_such_file(self, tmp_path):
    for path in (tmp_path / 'a.txt', f'{tmp_path}/*.txt', tmp_path):
      with pytest.raises(ArgumentError, match=r'no file|no \.txt'):
        list(corpus.read_documents(path))

  @pytest.mark.parametrize(
    'line, error, message',
    [
      ('{"text": ', EejaxError, 'line 3, is not JSON'),
      ('["text"]', EejaxError, 'line 3, is not a JSON object'),
      ('{"body": "x", "id": 1}', ArgumentError, "line 3, .*'text'.*body, id"),
      ('{"text": 7}', ArgumentError, 'line 3, has no text'),
    ],
  )
  def test_jsonl(self, tmp_path, line, error, message):
    file = tmp_path / 'a.jsonl'
    file.write_text(f'{{"text": "x"}}\n\n{line}\n')
    with pytest.raises(error, match=message):
      list(corpus.read_documents(file))

  def test_empty(self, tmp_path):
    file = tmp_path / 'a.txt'
    file.write_text('\n \n')
    with pytest.raises(ArgumentError, match='holds no text'):
      list(corpus.read_documents(file))

  def test_not_utf8(self, tmp_path):
    file = tmp_path / 'a.txt'
    file.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(EejaxError, match='not UTF-8'):
      list(corpus.read_documents(file))
