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
"""Tests of decoding plans."""

from unittest import mock

import jax
import pytest

from eejax.decoding.loop.plan import Segment, bucket, make_plan, window_widths
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingMethod
from eejax.testing import tiny


def plan(config, *thresholds, **fields):
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', thresholds, **fields)
  return make_plan(
    config,
    policy=policy,
    method=SamplingMethod.GREEDY,
  )


def spans(made):
  return [(s.first, s.last, s.exit and s.exit.depth) for s in made.segments]


def test_full_mode_is_one_segment():
  config = tiny.tiny_config()
  made, thresholds = make_plan(
    config, policy=Policy(), method=SamplingMethod.GREEDY
  )
  assert made.segments == (Segment(0, 4, None),)
  assert (made.depth, made.num_exits, made.window) == (4, 0, 1)
  assert thresholds == ()


def test_exits_part_the_blocks():
  made, thresholds = plan(tiny.tiny_config(), 0.9)
  assert spans(made) == [(0, 1, 1), (1, 2, 2), (2, 3, 3), (3, 4, None)]
  assert thresholds == (0.9, 0.9, 0.9)
  assert made.num_exits == 3


def test_exits_at_both_ends():
  made, _ = plan(tiny.tiny_config('0:norm,4:block'), 0.5)
  assert spans(made) == [(0, 0, 0), (0, 4, 4), (4, 4, None)]
  assert [s.num_caches for s in made.segments] == [0, 5, 0]


def test_threshold_0_ends_the_model():
  made, thresholds = plan(tiny.tiny_config(), 0.3, 0.0, 0.7)
  assert spans(made) == [(0, 1, 1), (1, 2, 2)]
  assert thresholds == (0.3,)
  assert made.depth == 2
  first, none = plan(tiny.tiny_config(), 0.0)
  assert spans(first) == [(0, 1, 1)] and none == ()
  assert first.window == 1  # nothing waits, so nothing is forced


def test_an_exit_that_is_never_taken_is_left_out():
  made, thresholds = plan(tiny.tiny_config(), None, 0.2, None)
  assert spans(made) == [(0, 2, 2), (2, 4, None)]
  assert thresholds == (0.2,)


def test_exits_stay_where_none_is_ever_taken():
  made, thresholds = plan(tiny.tiny_config(), None)
  assert made.num_exits == 3
  assert thresholds == (None, None, None)


def test_the_minimum_depth_drops_exits():
  made, thresholds = plan(tiny.tiny_config(), 0.1, 0.2, 0.3, minimum_depth=2)
  assert spans(made) == [(0, 2, 2), (2, 3, 3), (3, 4, None)]
  assert thresholds == (0.2, 0.3)
  with pytest.raises(ArgumentError, match='minimum depth 9'):
    plan(tiny.tiny_config(), 0.1, minimum_depth=9)


def test_policies_that_differ_in_data_share_a_plan():
  config = tiny.tiny_config()
  assert plan(config, 0.3)[0] == plan(config, None)[0]
  assert plan(config, 0.3)[0] != plan(config, 0.3, window=4)[0]


@pytest.mark.parametrize(
  'window, expected',
  [
    (1, (1,)),
    (2, (1, 2)),
    (4, (1, 2, 4)),
    (6, (1, 2, 4, 6)),
    (8, (1, 2, 4, 8)),
  ],
)
def test_window_widths(window, expected):
  assert window_widths(window) == expected
  for platform in ('tpu', 'gpu'):
    device = mock.Mock(spec=jax.Device, platform=platform)
    assert window_widths(window, device=device) == (window,)


def test_buckets_are_few_and_little_larger():
  lengths = range(1, 2000)
  sizes = [bucket(n, smallest=16) for n in lengths]
  assert all(size >= n for n, size in zip(lengths, sizes, strict=True))
  assert all(
    size <= max(16, 1.5 * n) for n, size in zip(lengths, sizes, strict=True)
  )
  assert sizes == sorted(sizes)
  assert sorted(set(sizes))[:6] == [16, 24, 32, 48, 64, 96]
  assert len(set(sizes)) == 15
