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
"""Settings and fixtures of every test."""

import os
import pathlib

# Before jax is imported: tests never take an accelerator, so that they say
# the same on every machine.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax  # noqa: E402
import pytest  # noqa: E402

from eejax.testing import tiny  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

jax.config.update('jax_num_cpu_devices', 8)
# A missing axis is a mistake more often than a wish.
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Most of a test's time is compilation of programs that did not change.
jax.config.update('jax_compilation_cache_dir', str(REPOSITORY / '.cache/jax'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@pytest.fixture
def key():
  """Return a random key that is the same in every run."""
  return jax.random.key(0)


@pytest.fixture(scope='session')
def tiny_config():
  """Return a tiny model with three exits; see `eejax.testing.tiny`."""
  return tiny.tiny_config()


@pytest.fixture(scope='session')
def tiny_params(tiny_config):
  """Return parameters of `tiny_config`; jax arrays cannot be changed."""
  return tiny.tiny_params(tiny_config)


@pytest.fixture(scope='session')
def tiny_tokens(tiny_config):
  """Return tokens [2, 7] for `tiny_config`."""
  return tiny.tiny_tokens(tiny_config)
