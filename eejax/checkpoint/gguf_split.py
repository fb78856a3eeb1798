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
"""Find the parts of a GGUF model that is split into several files.

Parts are called `NAME-00001-of-00003.gguf`, and each says how many there are.
The first has the metadata of the model.
"""

import pathlib
import re

from eejax.checkpoint.gguf_header import Header, read_header
from eejax.errors import CheckpointError

_NAME = re.compile(r'(.*)-(\d{5})-of-(\d{5})\.gguf')
_COUNT, _NUMBER = 'split.count', 'split.no'


def read_parts(path: pathlib.Path) -> dict[pathlib.Path, Header]:
  """Return the headers of a file, or of all parts that it belongs to.

  Raises:
    CheckpointError: one is broken or missing, or they do not belong together.
  """
  header = read_header(path)
  count = header.metadata.get(_COUNT, 1)
  if type(count) is int and count <= 1:
    return {path: header}
  name = _NAME.fullmatch(path.name)
  if name is None or int(name[3]) != count:
    raise CheckpointError(
      f'{path} says that it is one of {count!r:.20} parts, and its name does '
      'not; call the parts NAME-00001-of-00003.gguf as they were.'
    )
  parts = {}
  for number in range(1, int(name[3]) + 1):
    part = path.with_name(f'{name[1]}-{number:05}-of-{name[3]}.gguf')
    if not part.is_file():
      raise CheckpointError(
        f'{part} is missing: the model is split into {count} files, and all '
        'must lie in one folder.'
      )
    parts[part] = read_header(part)
    held = parts[part].metadata
    if held.get(_COUNT) != count or held.get(_NUMBER) != number - 1:
      raise CheckpointError(
        f'{part} is not part {number} of {count} of this model; download it '
        'again.'
      )
  _check_total(path, parts)
  return parts


def _check_total(path: pathlib.Path, parts: dict[pathlib.Path, Header]) -> None:
  stated = next(iter(parts.values())).metadata.get('split.tensors.count')
  found = sum(len(header.tensors) for header in parts.values())
  if stated is not None and stated != found:
    raise CheckpointError(
      f'{path}: its parts have {found} tensors, but should have {stated}; '
      'they do not belong together.'
    )
