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
"""Find the data that is shipped beside the code: configs, gin files, assets.

In a checkout they are folders of the repository; an installed package keeps
them under `share/eejax` of the environment.
"""

import pathlib
import sysconfig

from eejax.errors import EejaxError

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_INSTALLED = pathlib.Path(sysconfig.get_path('data')) / 'share' / 'eejax'


def folder(name: str) -> pathlib.Path:
  """Return the folder `name` (`'gin'`, `'configs'`, `'assets'`).

  Raises:
    EejaxError: neither a checkout nor an installation has it.
  """
  in_checkout = (_REPOSITORY / 'setup.cfg').is_file()
  root = _REPOSITORY if in_checkout else _INSTALLED
  if not (root / name).is_dir():
    raise EejaxError(
      f'the folder {name!r} of eejax is missing at {root}; install eejax '
      'again, or work from a checkout of its repository.'
    )
  return root / name


def default_backbone() -> pathlib.Path:
  """Return the Hugging Face folder of the model that is shipped with eejax.

  Raises:
    EejaxError: there is none.
  """
  folders = sorted(folder('assets').glob('*/config.json'))
  if not folders:
    raise EejaxError(
      'the embedded backbone is missing from assets; get the whole '
      'repository, or name a model of your own.'
    )
  return folders[0].parent
