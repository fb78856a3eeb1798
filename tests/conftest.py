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

import gc
import importlib.metadata
import importlib.util
import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# Before jax is imported: tests never take an accelerator, so that they say
# the same on every machine.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Tests compile far more than they compute: without LLVM's optimisations they
# take half the processor time, and without the newer emitters of fusions half
# of that. One thread a compilation, for the workers of pytest-xdist already
# share the cores.
_XLA_FLAGS = [
  '--xla_backend_optimization_level=0',
  '--xla_cpu_parallel_codegen_split_count=1',
]
# jaxlib 0.11 ends a process that sets a flag that is gone.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(_XLA_FLAGS))

# Most of a test's time is compilation of programs that did not change; those
# that tests start as processes of their own keep what they compiled, too.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(REPOSITORY / '.cache/jax')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# Where an operation was traced is looked up for each of them otherwise.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')

import jax  # noqa: E402
import pytest  # noqa: E402

from eejax.checkpoint import arrays  # noqa: E402
from eejax.decoding.policy.batching import platform_costs  # noqa: E402
from eejax.testing import local_store, tiny  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
# A missing axis is a mistake more often than a wish.
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Tracing makes many objects that live long. Looking through all of them as
# often as by default takes an eighth of the time; never doing so, much memory.
gc.set_threshold(50_000, 10, 10)


# What --no-skips lets pass: data that lies beside the checkout, and t5x and a
# browser, which no package index has, so that a machine may be unable to
# install them.
MAY_BE_SKIPPED = ('data_beside', 't5x', 'browser')


def pytest_addoption(parser):
  parser.addoption(
    '--no-skips',
    action='store_true',
    help='fail where a test is skipped: nothing may be left out in CI',
  )


def pytest_collection_modifyitems(config, items):
  """Skip what needs a package that an extra brings and that is not here."""
  needs = {
    'parity': ('torch', 'transformers'),
    'seqio': ('seqio',),
    't5x': ('t5x', 'airio', 'jestimator'),
    'ahead': ('libtpu',),
    'store': ('gcsfs', local_store.PACKAGE),
  }
  reasons = {
    'parity': 'the parity extra is not installed',
    'seqio': 'the train extra is not installed',
    't5x': 't5x is not installed; see launch/t5x_environment.sh',
    'ahead': 'the ahead extra is not installed',
    'store': 'gcsfs or the emulator of the test extra is not installed',
  }
  for marker, packages in needs.items():
    if all(importlib.util.find_spec(package) for package in packages):
      continue
    skip = pytest.mark.skip(reason=reasons[marker])
    for item in items:
      if item.get_closest_marker(marker):
        item.add_marker(skip)


def pytest_sessionstart():
  """Filter what Orbax's threads report, before pytest's own hook hears it.

  A conftest that was named on the command line may have imported eejax earlier
  than pytest put that hook in place.
  """
  arrays.keep_quiet()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
  report = yield
  return _refuse_skip(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
  report = yield
  return _refuse_skip(report, collector.config)


def _refuse_skip(report, config):
  expected_to_fail = hasattr(report, 'wasxfail')
  # The report of a whole module that is skipped has no keywords.
  marks = getattr(report, 'keywords', ())
  allowed = expected_to_fail or any(m in marks for m in MAY_BE_SKIPPED)
  if report.skipped and not allowed and config.option.no_skips:
    report.outcome = 'failed'
    report.longrepr = f'skipped, which --no-skips forbids: {report.longrepr}'
  return report


@pytest.fixture(scope='session', autouse=True)
def stated_costs():
  """Let drafts follow what windows are said to cost, not what they take here.

  No two runs take the same time, and who drafted a token is tested.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      'eejax.decoding.window_costs.measure',
      lambda params, settings, *, plan, **_: platform_costs().of_windows(
        rows=settings.thresholds.shape[0], longest=plan.window
      ),
    )
    yield


# A compiled program takes several mappings of memory, and Linux gives a process
# 65,530 by default (vm.max_map_count); beyond, XLA ends in a segmentation
# fault (jaxlib 0.10.2, CPU).
_MANY_MAPPINGS = 25_000


@pytest.fixture(scope='module', autouse=True)
def few_programs():
  """Drop compiled programs when there are too many; the disk keeps them."""
  yield
  if _count_mappings() > _MANY_MAPPINGS:
    gc.unfreeze()
    jax.clear_caches()
  gc.collect()
  # What a module leaves behind mostly stays: no collection, of which restoring
  # a checkpoint asks for one, need look at it again.
  gc.freeze()


def _count_mappings() -> int:
  try:
    return pathlib.Path('/proc/self/maps').read_bytes().count(b'\n')
  except OSError:  # no Linux, no such limit
    return 0


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


@pytest.fixture(scope='session')
def store():
  """Return a store on this machine that speaks `gs://`."""
  with local_store.serve() as running:
    yield running


@pytest.fixture
def bucket(store, request):
  """Return the address of a folder in it that no other test uses."""
  return (
    f'{store.address}/{request.node.name.partition("[")[0]}-{store.requests}'
  )
