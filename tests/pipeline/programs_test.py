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
"""Test the programs on a model of one matrix a stage, against no pipeline."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from eejax.pipeline.cost import Keep
from eejax.pipeline.fill import loss_scales
from eejax.pipeline.forward_only import forward_only
from eejax.pipeline.gpipe import gpipe
from eejax.pipeline.one_f_one_b import one_f_one_b
from eejax.pipeline.schedule import Schedule, ScheduleKind
from eejax.pipeline.stage import Head, HeadResult, Stage, StageParams

WIDTH, WORDS, LENGTH = 6, 5, 3
# Places that have an exit, in a model of 4.
EXITS = (0, 2)


def make_mesh(**sizes):
  kinds = (AxisType.Auto,) * len(sizes)
  devices = jax.devices()[: math.prod(sizes.values())]
  return jax.make_mesh(
    tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices
  )


def toy_params(places):
  keys = jax.random.split(jax.random.key(0), 4)
  normal = lambda key, *shape: 0.5 * jax.random.normal(key, shape)
  return {
    'up': normal(keys[0], places, WIDTH, WIDTH),
    'exit': normal(keys[1], places, WIDTH, WORDS),
    'table': normal(keys[2], WORDS, WIDTH),
    'scale': 1 + normal(keys[3], WIDTH),
  }


def toy_batch(microbatches, rows=4):
  tokens = jax.random.randint(
    jax.random.key(1), (rows, microbatches, LENGTH), 0, WORDS
  )
  return {'tokens': tokens, 'targets': (tokens * 2 + 1) % WORDS}


def body(stream, up):
  return stream + jnp.tanh(stream @ up)


def losses(stream, kernel, targets):
  hit = jax.nn.one_hot(targets, WORDS)
  return -jnp.sum(jax.nn.log_softmax(stream @ kernel) * hit, axis=-1)


def toy_stage(places, exits=EXITS, *, keeps=True, count=lambda name: None):
  """Return exits with matrices of their own and a head with the table.

  Args:
    places: pieces of depth.
    exits: those that have an exit.
    keeps: whether heads keep what they choose.
    count: called where a part of the model is computed.
  """

  def result(kernel, read, turn, weight, name):
    weight = weight * turn.context['scale'][turn.place]
    count(name)
    found = losses(read, kernel, turn.batch['targets'])
    sums = {'exit': jnp.zeros(()), 'final': jnp.zeros(())}
    return HeadResult(
      loss=weight * jnp.sum(found),
      sums={**sums, name: jax.lax.stop_gradient(jnp.sum(found))},
      kept=jnp.argmax(read @ kernel, axis=-1) if keeps else None,
    )

  def of_exit(params, read, turn):
    kernel = params.own['exit']
    return result(
      kernel, read, turn, turn.context['weights'][turn.place], 'exit'
    )

  def of_final(params, read, turn):
    read = read * params.shared['scale'][None, None]
    return result(params.shared['table'].T, read, turn, 1.0, 'final')

  has_exit = jnp.isin(jnp.arange(places), jnp.array(exits, jnp.int32))

  def run_body(params, stream, turn):
    count('body')
    stream = body(stream, params.own['up'])
    return stream, stream

  return Stage(
    names=('up', 'table'),
    entry=lambda params, turn: params.shared['table'][turn.batch['tokens']],
    body=run_body,
    heads=(
      Head(('exit',), lambda turn: has_exit[turn.place], of_exit),
      Head(('table', 'scale'), lambda turn: turn.place == places - 1, of_final),
    ),
  )


def toy_weights(places):
  return jnp.linspace(0.3, 0.9, places)


def context(places, scale=None):
  scale = jnp.ones((places,)) if scale is None else scale
  return {'weights': toy_weights(places), 'scale': scale}


def plain(params, batch, places, exits=EXITS, final=1.0):
  """Return the loss with no pipeline."""
  total = jnp.zeros(())
  for m in range(batch['tokens'].shape[1]):
    tokens, targets = batch['tokens'][:, m], batch['targets'][:, m]
    stream = params['table'][tokens]
    for place in range(places):
      stream = body(stream, params['up'][place])
      if place in exits:
        found = losses(stream, params['exit'][place], targets)
        total += toy_weights(places)[place] * jnp.sum(found)
    found = losses(
      stream * params['scale'][None, None], params['table'].T, targets
    )
    total += final * jnp.sum(found)
  return total


def split(params, trainable, stages, rounds=1):
  """Return the parameters as stages have them, trainable and frozen."""

  def own(x):  # piece r P + s is the r-th of stage s
    if rounds == 1:
      return x
    return jnp.swapaxes(x.reshape(rounds, stages, *x.shape[1:]), 0, 1)

  whole = StageParams(
    own={k: own(params[k]) for k in ('up', 'exit')},
    shared={k: params[k] for k in ('table', 'scale')},
  )
  return whole.pick(trainable), whole.pick(set(params) - set(trainable))


def assert_near(got, want):
  scale = max(1.0, float(jnp.abs(want).max()))
  np.testing.assert_allclose(got / scale, want / scale, atol=2e-6)


PROGRAMS = {
  'gpipe': (ScheduleKind.GPIPE, gpipe),
  'interleaved': (ScheduleKind.INTERLEAVED, gpipe),
  'inputs': (
    ScheduleKind.ONE_F_ONE_B,
    functools.partial(one_f_one_b, keep=Keep.INPUTS),
  ),
  'residuals': (
    ScheduleKind.ONE_F_ONE_B,
    functools.partial(one_f_one_b, keep=Keep.RESIDUALS),
  ),
  'forward_only': (ScheduleKind.FORWARD_ONLY, forward_only),
}


@pytest.mark.parametrize(
  'name, stages, microbatches, rounds, data',
  [
    ('gpipe', 4, 6, 1, 1),
    ('gpipe', 1, 2, 1, 1),
    ('interleaved', 2, 4, 2, 2),
    ('inputs', 4, 3, 1, 2),
    ('residuals', 4, 6, 1, 1),
    ('residuals', 2, 5, 1, 2),
    ('residuals', 1, 2, 1, 1),
  ],
)
def test_gradients_are_those_without_a_pipeline(
  name, stages, microbatches, rounds, data
):
  places = stages * rounds
  kind, program = PROGRAMS[name]
  schedule = Schedule(kind, stages, microbatches, rounds)
  params, batch = toy_params(places), toy_batch(microbatches)
  trainable, frozen = split(params, params, stages, rounds)
  run = functools.partial(
    program,
    toy_stage(places),
    schedule=schedule,
    mesh=make_mesh(stage=stages, data=data),
    idle=math.nan,
  )
  found = jax.jit(run)(trainable, frozen, batch, context(places))
  loss, want = jax.value_and_grad(plain)(params, batch, places)
  assert_near(found.loss, loss)
  want, _ = split(want, params, stages, rounds)
  jax.tree.map(assert_near, found.gradients, want)
  assert float(found.sums['final']) > 1
  best = found.kept[1][-1, -1]
  assert best.shape == (microbatches, 4, LENGTH)


def test_forward_only_gives_the_gradients_of_heads():
  params, batch = toy_params(4), toy_batch(3)
  trainable, frozen = split(params, ('exit', 'scale'), 4)
  run = functools.partial(
    forward_only,
    toy_stage(4),
    schedule=Schedule(ScheduleKind.FORWARD_ONLY, 4, 3),
    mesh=make_mesh(stage=4, data=2),
    idle=math.nan,
  )
  found = jax.jit(run)(trainable, frozen, batch, context(4))
  loss, want = jax.value_and_grad(plain)(params, batch, 4)
  assert_near(found.loss, loss)
  jax.tree.map(
    assert_near, found.gradients, split(want, ('exit', 'scale'), 4)[0]
  )


class TestFillers:
  @pytest.mark.parametrize('keep', Keep)
  def test_over_all_orders_the_gradient_is_that_of_the_batch(self, keep):
    stages, microbatches, fillers = 4, 2, 3
    count = microbatches + fillers
    schedule = Schedule(
      ScheduleKind.ONE_F_ONE_B, stages, microbatches, fillers=fillers
    )
    params, batch = toy_params(stages), toy_batch(count)
    trainable, frozen = split(params, params, stages)
    program = functools.partial(
      one_f_one_b,
      toy_stage(stages),
      schedule=schedule,
      mesh=make_mesh(stage=stages),
      keep=keep,
      idle=math.nan,
    )
    scale = loss_scales(jnp.ones((count,)), schedule=schedule)
    run = jax.jit(
      lambda batch: program(trainable, frozen, batch, context(stages, scale))
    )
    turned = [
      run(jax.tree.map(lambda x, i=i: jnp.roll(x, i, axis=1), batch))
      for i in range(count)
    ]
    mean = lambda *xs: sum(xs) / count
    found = jax.tree.map(mean, *[t.gradients for t in turned])
    want = jax.grad(plain)(params, batch, stages)
    jax.tree.map(assert_near, found, split(want, params, stages)[0])
    # Of one order alone it is another, for fillers see early exits only.
    one = turned[0].gradients.own['up']
    assert float(jnp.abs(one - want['up']).max()) > 0.01


class TestIdleWork:
  """What is masked in a bubble is not computed."""

  @pytest.mark.parametrize(
    'name, bodies, heads',
    [
      # Each body once forward; heads just before their backward.
      ('residuals', 4, 1),
      # Backward runs forward again, the last stage that alone.
      ('inputs', 7, 1),
      ('forward_only', 4, 1),
      # Backward runs all of it again.
      ('gpipe', 8, 2),
    ],
  )
  def test_is_skipped(self, name, bodies, heads):
    microbatches, runs = 3, collections.Counter()

    def count(part):
      jax.debug.callback(lambda: runs.update([part]))

    kind, program = PROGRAMS[name]
    params, batch = toy_params(4), toy_batch(microbatches)
    learns = ('exit',) if name == 'forward_only' else params
    run = functools.partial(
      program,
      toy_stage(4, count=count),
      schedule=Schedule(kind, 4, microbatches),
      mesh=make_mesh(stage=4),
    )
    found = jax.jit(run)(*split(params, learns, 4), batch, context(4))
    jax.block_until_ready(found)
    jax.effects_barrier()
    # Two stages of the four have an exit, one the final head.
    assert runs == {
      'body': bodies * microbatches,
      'exit': 2 * heads * microbatches,
      'final': heads * microbatches,
    }


class TestMemory:
  def temporary(self, name, microbatches, learns=None):
    kind, program = PROGRAMS[name]
    params = toy_params(4)
    run = functools.partial(
      program,
      toy_stage(4, keeps=False),
      schedule=Schedule(kind, 4, microbatches),
      mesh=make_mesh(stage=4),
    )
    arguments = (
      *split(params, learns or params, 4),
      toy_batch(microbatches, rows=64),
      context(4),
    )
    compiled = jax.jit(run).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  @pytest.mark.parametrize('name', ['inputs', 'residuals'])
  def test_of_one_f_one_b_does_not_grow(self, name):
    few, many = self.temporary(name, 8), self.temporary(name, 64)
    assert many <= 1.02 * few

  def test_of_forward_only_is_that_of_one_microbatch(self):
    few = self.temporary('forward_only', 8, ('exit',))
    many = self.temporary('forward_only', 64, ('exit',))
    assert many <= 1.02 * few
    assert many < self.temporary('gpipe', 64) / 4
