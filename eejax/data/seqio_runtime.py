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
"""TensorFlow, seqio and tensorflow-datasets, imported once and kept quiet.

TensorFlow only reads data here, so it must not take the memory of the GPUs
that JAX computes on.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from eejax.errors import EejaxError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keep back what is written to stderr, and show it only on failure.

  TensorFlow's libraries write there while they load, before any of their
  settings for logging is read.
  """
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as noise:
    os.dup2(noise.fileno(), 2)
    try:
      yield
    except BaseException:
      noise.seek(0)
      os.write(kept, noise.read())
      raise
    finally:
      os.dup2(kept, 2)
      os.close(kept)


os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
try:
  with _quiet():
    import seqio
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], 'GPU')
except ImportError as _error:
  raise EejaxError(
    f'reading data through seqio needs packages that are missing ({_error}); '
    "run: pip install 'eejax[train]'"
  ) from _error

__all__ = ['seqio', 'tf', 'tfds']
