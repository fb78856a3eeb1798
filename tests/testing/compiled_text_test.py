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
"""Test reading messages off the text of compiled programs."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from eejax.testing.compiled_text import Message, groups_across, messages

TEXT = """HloModule jit_f

%inside (a: f32[2,3]) -> f32[2,3] {
  ROOT %r = f32[2,3]{1,0} all-reduce(%a), replica_groups=[2,2]<=[2,2]T(1,0)
}

%branch (a: f32[2,3]) -> f32[2,3] {
  ROOT %c = f32[2,3]{1,0} call(%a), to_apply=%inside
}

%other (a: f32[2,3]) -> f32[2,3] {
  ROOT %b = f32[2,3]{1,0} copy(%a)
}

ENTRY %main (a: f32[2,3]) -> f32[2,3] {
  %p = (bf16[4]{0}, s32[]) collective-permute-start(%x), \
source_target_pairs={{0,1},{2,3}}
  ROOT %d = f32[2,3]{1,0} conditional(%t, %a, %a), \
branch_computations={%branch, %other}
}
"""


def test_what_the_text_says_is_read():
  assert messages(TEXT) == [
    Message('all-reduce', 24, ((0, 2), (1, 3)), conditional=True, looped=False),
    Message(
      'collective-permute',
      12,
      ((0, 1), (2, 3)),
      conditional=False,
      looped=False,
    ),
  ]


def program(groups, kind='all-reduce'):
  return f"""HloModule jit_f, is_scheduled=true, num_partitions=8

ENTRY %main (a: f32[]) -> f32[] {{
  ROOT %r = f32[] {kind}(%a), channel_id=1, {groups}
}}
"""


@pytest.mark.parametrize(
  ('text', 'groups'),
  [
    ('{{0,1,2,3},{4,5,6,7}}', ((0, 1, 2, 3), (4, 5, 6, 7))),
    ('{}', ((0, 1, 2, 3, 4, 5, 6, 7),)),
    ('[2,4]<=[8]', ((0, 1, 2, 3), (4, 5, 6, 7))),
    ('[2,4]<=[4,2]T(1,0)', ((0, 2, 4, 6), (1, 3, 5, 7))),
    ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
    ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
    ("mesh['a'=2,'b'=4] {'a','b'}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
    (
      "mesh['a'=2,'b'=2,'c'=2] {'a','c'}",
      ((0, 1, 4, 5), (2, 3, 6, 7)),
    ),
  ],
)
def test_every_notation_of_groups_is_read(text, groups):
  for more in ('', ', use_global_device_ids=true, to_apply=%add'):
    assert messages(program(f'replica_groups={text}{more}'))[0].groups == groups


@pytest.mark.parametrize(
  'text',
  [
    "mesh['a'=2,'b'=4] {'b':(1)2}",
    "mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}",
    'mesh<a=2,b=4>{a}',
    '[2,4]<=[8]X(1)',
  ],
)
def test_an_unknown_notation_of_groups_is_an_error(text):
  with pytest.raises(ValueError, match='are not understood: .*all-reduce'):
    messages(program(f'replica_groups={text}, to_apply=%add'))


def test_a_message_without_groups_is_an_error():
  with pytest.raises(ValueError, match='are not understood'):
    messages(program('to_apply=%add'))


@pytest.mark.parametrize('axis, count', [('a', 1), ('b', 2)])
def test_messages_of_a_program(axis, count):
  mesh = jax.make_mesh(
    (2, 2),
    ('a', 'b'),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[:4],
  )

  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=PartitionSpec(('a', 'b')),
    out_specs=PartitionSpec(),
    check_vma=False,
  )
  def run(x):
    step = lambda _, x: jax.lax.ppermute(x, 'b', [(0, 1), (1, 0)])
    return jax.lax.psum(jax.lax.fori_loop(0, 3, step, x), ('a', 'b'))

  text = jax.jit(run).lower(jnp.ones((4, 5))).compile().as_text()
  found = messages(text)
  assert {m.kind: m.looped for m in found} == {
    'collective-permute': True,
    'all-reduce': False,
  }
  assert all(m.size == 20 for m in found)
  assert len(groups_across(found, mesh=mesh, axis=axis)) == count
