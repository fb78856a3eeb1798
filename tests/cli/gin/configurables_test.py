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
"""Tests of what gin files may name."""

import gin
import pytest

from eejax.cli.gin import (
  configurables,  # noqa: F401  (registers what gin files may name)
)
from eejax.decoding.policy import policy as policy_lib
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.criteria import get_criterion, registry


@pytest.fixture(autouse=True)
def forget(monkeypatch):
  monkeypatch.setattr(registry, '_CRITERIA', dict(registry._CRITERIA))
  # A verb that ran before has locked what it ended with.
  gin.clear_config()
  yield
  gin.clear_config()


def policy_of(text):
  """Return the policy that a gin file describes."""
  gin.parse_config(text)
  return gin.get_configurable(policy_lib.Policy)()


def test_a_user_s_criterion_comes_from_gin(tmp_path, monkeypatch, turns):
  (tmp_path / 'turns_of_a_user.py').write_text(turns)
  monkeypatch.syspath_prepend(tmp_path)
  policy = policy_of("""
    import turns_of_a_user

    Policy.mode = %Mode.EARLY_EXIT
    Policy.criterion = @register()
    register.criterion = @Turns()
    Turns.every = 4
  """)
  assert policy.criterion == 'turns(4)'
  assert get_criterion(policy.criterion).every == 4


def test_a_policy_has_settings_of_its_criterion():
  policy = policy_of("""
    Policy.criterion = @register()
    Policy.batching = %Batching.DEPTH_QUEUE
    register.criterion = @DepthSchedule()
    DepthSchedule.horizon = 64
    DepthSchedule.shallowest = 2
  """)
  assert policy.criterion == 'schedule(64, 2, 0)'
  assert policy.batching is Batching.DEPTH_QUEUE
