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
"""Data of the local tasks: JSON lines beside this file, by their split."""

import collections
import json
import pathlib

import datasets


def load(*, data_file: str, **_) -> dict[str, datasets.Dataset]:
  """Return the rows of a file, a dataset for each `split`."""
  splits = collections.defaultdict(list)
  path = pathlib.Path(__file__).with_name(data_file)
  for line in path.read_text(encoding='utf-8').splitlines():
    row = json.loads(line)
    splits[row.pop('split')].append(row)
  return {s: datasets.Dataset.from_list(rows) for s, rows in splits.items()}
