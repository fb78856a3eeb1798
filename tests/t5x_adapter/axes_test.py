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
"""Test the names of dimensions, and what becomes of odd sizes."""

import jax
import pytest
from jax.sharding import PartitionSpec

from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.t5x_adapter import axes
from eejax.testing import tiny

# The names that t5x's standard rules know.
STANDARD = {'vocab', 'embed', 'mlp', 'heads', 'kv', 'layers'}


@pytest.fixture(scope='module')
def shapes():
  config = tiny.tiny_config(
    tiny.EVERY_KIND_OF_EXIT, qkv_bias=True, qk_norm=True
  )
  return jax.eval_shape(lambda k: decoder.init(config, k), jax.random.key(0))


def names_of(shapes):
  return axes.parameter_names(shapes)


def test_every_parameter_has_a_name_for_each_dimension(shapes):
  names = jax.tree.leaves(
    names_of(shapes), is_leaf=lambda x: isinstance(x, tuple)
  )
  leaves = jax.tree.leaves(shapes)
  assert len(names) == len(leaves)
  for named, leaf in zip(names, leaves, strict=True):
    assert len(named) == len(leaf.shape)
  own = {name for name, _ in axes.additional_rules()}
  found = {n for named in names for n in named}
  assert found <= STANDARD | own | {None}


def test_names_are_those_of_t5x(shapes):
  backbone = names_of(shapes)['backbone']
  attention = backbone['blocks']['attention']
  assert backbone['embedding']['table'] == ('vocab', 'embed')
  assert attention['query']['kernel'] == ('layers', 'embed', 'heads', 'kv')
  assert attention['output']['kernel'] == ('layers', 'heads', 'kv', 'embed')
  assert backbone['blocks']['mlp']['down']['kernel'] == (
    *('layers', 'mlp'),
    'embed',
  )


def test_fewer_heads_of_keys_do_not_share_a_name_with_queries(shapes):
  attention = names_of(shapes)['backbone']['blocks']['attention']
  assert 'heads' not in attention['key']['kernel']
  assert attention['key']['bias'] == ('layers', 'kv_heads', 'kv')


def test_no_name_stands_twice_in_one_array(shapes):
  # flax refuses to map such names.
  names = jax.tree.leaves(
    names_of(shapes), is_leaf=lambda x: isinstance(x, tuple)
  )
  for named in names:
    known = [n for n in named if n is not None]
    assert len(set(known)) == len(known), named


def test_what_is_no_parameter_is_refused():
  with pytest.raises(
    ArgumentError, match='decoder/wi with 2 .* is no parameter'
  ):
    axes.logical_axes(('decoder', 'wi'), ndim=2)


@pytest.mark.parametrize(
  'spec, shape, kept',
  [
    (('model', None), (8, 3), ('model', None)),
    (('model', None), (6, 3), (None, None)),
    ((None, 'data'), (6, 3), (None, None)),
    ((('data', 'model'),), (16,), (('data', 'model'),)),
    ((('data', 'model'),), (12,), (None,)),
    # t5x leaves dimensions at the end out.
    (('model',), (8, 3), ('model',)),
  ],
)
def test_what_does_not_divide_stays_whole(spec, shape, kept):
  mesh = {'data': 2, 'model': 4}
  found = axes.divisible(PartitionSpec(*spec), shape=shape, mesh=mesh)
  assert found == PartitionSpec(*kept)
