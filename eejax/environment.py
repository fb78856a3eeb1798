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
"""Describe the machine and the programs that figures were made with."""

import os
import pathlib
import platform
from typing import Any

from eejax.version import __version__


def describe() -> dict[str, Any]:
  """Return what a figure depends on besides the code, as plain values."""
  import jax
  import jaxlib
  import numpy as np

  devices = jax.devices()
  return {
    'eejax': __version__,
    'python': platform.python_version(),
    'jax': jax.__version__,
    'jaxlib': jaxlib.__version__,
    'numpy': np.__version__,
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'platform': devices[0].platform,
    'processor': _processor(),
    'cores': usable_cores(),
    'system': f'{platform.system()} {platform.release()}',
  }


def usable_cores() -> int:
  """Return how many processor cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  for line in lines:
    if line.startswith('model name'):
      return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()
