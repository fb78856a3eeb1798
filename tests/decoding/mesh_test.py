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
"""Test the decode loop on a mesh of simulated devices against one device."""

import math
import re

import jax
import jaxtyping
import numpy as np
import pytest

from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.generate import generate
from eejax.decoding.loop import device_placement, programs
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.batching import CPU
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.ops.matmul import FlatKernel
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import devices_of
from eejax.testing import tiny

TWO_BLOCKS = {'exits': '1:mlp:gate', 'num_layers': 2}
ALL_AXES = 'data=2,fsdp=2,model=2'
SPECULATIVE = Policy(Mode.SPECULATIVE, 'max_prob', (0.3,), draft_length=3)


def early(**fields):
  return Policy(Mode.EARLY_EXIT, 'max_prob', (0.3,), window=4, **fields)


def run(params, config, prompts, policy, **options):
  return generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=6,
    platform=CPU,
    **options,
  )


def assert_same(found, wanted):
  for ours, theirs in zip(found.rows, wanted.rows, strict=True):
    assert ours.tokens == theirs.tokens
    assert ours.exit_depths == theirs.exit_depths
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-3)
    assert ours.accounting == theirs.accounting


@pytest.mark.parametrize(
  'mesh, policy',
  [
    pytest.param(
      'fsdp=4',
      early(kv_strategy=KVStrategy.PROPAGATE),
      marks=pytest.mark.slow,
    ),
    (ALL_AXES, early()),
    ('data=2,model=4', SPECULATIVE),
  ],
  ids=['propagate', 'deferred', 'speculative'],
)
def test_tokens_are_those_of_one_device(lively, prompts, mesh, policy):
  config, params = lively(**TWO_BLOCKS)
  wanted = run(params, config, prompts, policy)
  prepared = prepare(params, config=config, mesh=devices_of(mesh))
  programs_before = programs.decode_chunk._cache_size()
  found = run(prepared, config, prompts, policy, tokens_per_call=2)
  assert_same(found, wanted)
  # What a call returns is laid out as what the next one is given.
  assert programs.decode_chunk._cache_size() == programs_before + 1
  if policy.mode is Mode.EARLY_EXIT:
    depths = {d for row in found.rows for d in row.exit_depths}
    assert len(depths) > 1


@pytest.mark.slow
def test_experts_and_states_are_cut_too(lively, prompts):
  config, params = lively(
    '',
    num_layers=1,
    **tiny.KINDS_OF_BLOCK['experts'],
    **tiny.KINDS_OF_RECURRENT_BLOCK['hybrid'],
  )
  mesh = devices_of('expert=2,fsdp=2,model=2')
  wanted = run(params, config, prompts[:2], Policy())
  found = run(params, config, prompts[:2], Policy(), mesh=mesh)
  assert_same(found, wanted)


def test_full_depth_in_int8(lively, prompts):
  config, params = lively(**TWO_BLOCKS)
  how = {
    'config': config,
    'quantization': Quantization.INT8,
    'kv_quantization': Quantization.INT8,
  }
  wanted = run(prepare(params, **how), config, prompts, Policy())
  mesh = devices_of('data=2,model=4')
  found = run(prepare(params, mesh=mesh, **how), config, prompts, Policy())
  assert_same(found, wanted)


# MARK: Where things lie


def test_a_device_holds_its_part_of_every_kernel(lively):
  config, params = lively(**TWO_BLOCKS, vocab_size=32, num_kv_heads=4)
  prepared = prepare(params, config=config, mesh=devices_of(ALL_AXES))
  is_flat = lambda leaf: isinstance(leaf, FlatKernel)
  leaves = jax.tree.leaves((prepared.blocks, prepared.kernels), is_leaf=is_flat)
  kernels = [leaf.matrix for leaf in leaves if is_flat(leaf)]
  assert len(kernels) > 7 * config.model.num_layers
  for kernel in kernels:
    part = kernel.addressable_shards[0].data
    assert 4 * part.size == kernel.size


def test_key_and_value_heads_that_do_not_divide_are_on_all_devices(lively):
  config, params = lively(**TWO_BLOCKS)  # 4 heads, 2 of keys
  prepared = prepare(params, config=config, mesh=devices_of('model=4'))
  attention = prepared.blocks[0]['attention']
  parts = {
    name: attention[name]['kernel'].matrix.sharding.spec
    for name in ('query', 'key')
  }
  assert parts['query'] == jax.P('model') and parts['key'] == jax.P()


def test_nothing_of_the_model_travels_in_the_loop(monkeypatch):
  config = tiny.tiny_config(
    '1:mlp:gate',
    num_layers=2,
    embed_dim=32,
    head_dim=16,
    num_kv_heads=4,
    mlp_dim=96,
    vocab_size=64,
  )
  prepared = prepare(
    tiny.tiny_params(config), config=config, mesh=devices_of(ALL_AXES)
  )
  seen = {}

  def decode_chunk(*args, **kwargs):
    if not seen:
      # Lowering fills typed trees with what are no arrays.
      jaxtyping.config.update('jaxtyping_disable', True)
      try:
        lowered = programs.decode_chunk.lower(*args, **kwargs)
        seen['text'] = lowered.compile().as_text()
      finally:
        jaxtyping.config.update('jaxtyping_disable', False)
    return programs.decode_chunk(*args, **kwargs)

  monkeypatch.setattr('eejax.decoding.generate.decode_chunk', decode_chunk)
  run(prepared, config, [[3, 4], [5], [6], [7]], early_at_one())
  # Four tokens of a row are the widest window; the smallest part of a kernel
  # that could be gathered is half of the queries'.
  smallest = 32 * 4 * 16 // 2
  sent = re.findall(
    r' = (\(?\w+\[.*?) (?:all-gather|all-to-all|collective-permute)\(',
    seen['text'],
  )
  shapes = [s for types in sent for s in re.findall(r'\[([0-9,]+)\]', types)]
  sizes = [math.prod(map(int, shape.split(','))) for shape in shapes]
  assert sizes and max(sizes) < smallest


def early_at_one():
  return Policy(Mode.EARLY_EXIT, 'max_prob', (0.1,), window=4)


def test_a_mesh_that_does_not_divide_the_heads_is_one_sentence(lively):
  config, params = lively(**TWO_BLOCKS)
  with pytest.raises(ArgumentError) as caught:
    prepare(params, config=config, mesh=devices_of('model=8'))
  assert str(caught.value) == (
    'the 4 heads of the model do not divide among model=8; make it one of 1, '
    '2, 4, and give other devices to fsdp or data.'
  )
  with pytest.raises(ArgumentError, match='without pipeline stages'):
    device_placement.check_mesh(devices_of('stage=2'), config=config)


# MARK: Slots


def texts_of(engine, prompts):
  ids = [engine.submit(prompt, max_new_tokens=7) for prompt in prompts]
  while not engine.is_idle:
    engine.step()
  return [engine.result(number) for number in ids]


def test_an_engine_on_a_mesh(lively, prompts):
  config, params = lively(**TWO_BLOCKS)
  limits = EngineLimits(slots=2, ticks_per_step=3, min_prefix=4)
  make = lambda mesh: Engine(
    params,
    config=config,
    policy=early(),
    limits=limits,
    platform=CPU,
    mesh=mesh,
  )
  # The last one goes on from what the slot of the third holds.
  asked = [*prompts, [*prompts[2], 5, 6]]
  wanted = texts_of(make(None), asked)
  engine = make(devices_of(ALL_AXES))
  sizes = programs.decode_chunk._cache_size()
  found = texts_of(engine, asked)
  assert [r.tokens for r in found] == [r.tokens for r in wanted]
  assert [r.exit_depths for r in found] == [r.exit_depths for r in wanted]
  assert engine.stats().reused_tokens > 0
  assert programs.decode_chunk._cache_size() == sizes + 1
