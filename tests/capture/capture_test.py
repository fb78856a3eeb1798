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
"""Test captures against plain forwards, and that they can be ended."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eejax.capture import batch as capture_batch
from eejax.capture import capture as capture_lib
from eejax.capture import file
from eejax.capture.capture import capture
from eejax.capture.captured import POSITION_FIELDS, ReadoutKind
from eejax.capture.settings import (
  CHEAP,
  EVERYTHING,
  EVERYWHERE,
  About,
  CaptureConfig,
  Selection,
)
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, CheckpointError, EejaxError
from eejax.models import decoder
from eejax.testing import tiny

ROWS, LENGTH = 2, 8
SETTINGS = CaptureConfig(
  kinds=EVERYWHERE, num_candidates=5, chunk_size=6, positions_per_part=16
)


def make_batch(config, seed=0, rows=ROWS, length=LENGTH):
  random = np.random.default_rng(seed)
  ids = random.integers(3, config.model.vocab_size, (rows, length + 1))
  ones = np.ones((rows, length))
  weights = ones.astype(np.float32)
  weights[-1, length // 2 :] = 0  # padding
  return Batch(
    tokens=ids[:, :-1].astype(np.int32),
    targets=ids[:, 1:].astype(np.int32),
    weights=weights,
    positions=(np.arange(length) * ones).astype(np.int32),
    segment_ids=(weights > 0).astype(np.int32),
  )


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm,2:mlp:untied,3:norm:gate')
  # Larger weights, for fresh ones say nearly the same of every token.
  params = jax.tree.map(lambda x: 3 * x, tiny.tiny_params(config))
  return config, params


@pytest.fixture(scope='module')
def batches(model):
  return [make_batch(model[0], seed) for seed in range(5)]


@pytest.fixture(scope='module')
def captured(model, batches):
  config, params = model
  return capture(params, batches, config=config, settings=SETTINGS)


def assert_same(ours, theirs):
  assert ours.readouts == theirs.readouts
  for name in (*POSITION_FIELDS, *ours.facts.fields):
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


class TestAgainstAForward:
  @pytest.fixture(scope='class')
  def log_probs(self, model, batches):
    """Return the log-probabilities of every read-out the decoder gives."""
    config, params = model
    found = {}
    for batch in batches:
      logits = decoder.logits(
        params,
        jnp.asarray(batch.tokens),
        config=config,
        positions=jnp.asarray(batch.positions),
        segment_ids=jnp.asarray(batch.segment_ids),
      )
      for name, x in logits.items():
        kept = np.asarray(jax.nn.log_softmax(x, axis=-1), float)
        found.setdefault(name, []).append(kept[batch.weights > 0])
    joined = {k: np.concatenate(v) for k, v in found.items()}
    return {**joined, 'depth_4': joined['final']}

  def readouts(self, captured, log_probs):
    for i, r in enumerate(captured.readouts):
      if r.name in log_probs:
        yield i, log_probs[r.name]

  def test_the_candidates_are_the_likeliest(self, captured, log_probs):
    seen = 0
    for i, wanted in self.readouts(captured, log_probs):
      order = np.argsort(-wanted, axis=1, kind='stable')[:, :5]
      sorted_probs = np.take_along_axis(wanted, order, axis=1)
      np.testing.assert_allclose(
        captured.top_log_probs[i], sorted_probs, atol=2e-5
      )
      np.testing.assert_array_equal(captured.top1[i], order[:, 0])
      seen += 1
    assert seen == 4

  def test_the_measures_are_those_of_the_distributions(
    self, captured, log_probs
  ):
    final = log_probs['final']
    entropy = lambda p: -(np.exp(p) * p).sum(axis=1)
    for i, p in self.readouts(captured, log_probs):
      middle = np.log((np.exp(p) + np.exp(final)) / 2)
      centred = [x - x.mean(axis=1, keepdims=True) for x in (p, final)]
      lengths = [np.linalg.norm(x, axis=1) for x in centred]
      wanted = {
        'loss': -np.take_along_axis(p, captured.target[:, None], axis=1)[:, 0],
        'entropy': entropy(p),
        'kl_final': (np.exp(final) * (final - p)).sum(axis=1),
        'js_final': entropy(middle) - (entropy(p) + entropy(final)) / 2,
        'logit_cosine': (centred[0] * centred[1]).sum(axis=1)
        / (lengths[0] * lengths[1]),
      }
      for name, values in wanted.items():
        np.testing.assert_allclose(
          captured[name][i], values, atol=2e-5, err_msg=name
        )

  def test_exits_are_compared_with_the_exit_before(self, captured, log_probs):
    exits = captured.facts.indices(ReadoutKind.EXIT)
    assert np.isnan(captured.js_previous[exits[0]]).all()
    first, second = log_probs['exit_1'], log_probs['exit_2']
    middle = np.log((np.exp(first) + np.exp(second)) / 2)
    entropy = lambda p: -(np.exp(p) * p).sum(axis=1)
    wanted = entropy(middle) - (entropy(first) + entropy(second)) / 2
    np.testing.assert_allclose(
      captured.js_previous[exits[1]], wanted, atol=2e-5
    )

  def test_the_gate_is_that_of_its_exit(self, captured):
    gated = ~np.isnan(captured.gate_score).all(axis=1)
    assert [captured.readouts[i].name for i in np.flatnonzero(gated)] == [
      'exit_3'
    ]


def test_the_order_of_readouts(captured):
  assert [r.name for r in captured.readouts] == [
    'depth_0',
    'attention_1',
    'depth_1',
    'exit_1',
    'attention_2',
    'depth_2',
    'exit_2',
    'attention_3',
    'depth_3',
    'exit_3',
    'attention_4',
    'depth_4',
  ]
  assert captured.readouts[1].depth == 0.5


def test_attention_is_read_before_the_mlp(model, batches):
  # Where the MLP of a block adds nothing, both read-outs of it are the same.
  config, params = model
  blocks = params['backbone']['blocks']
  idle = jax.tree.map(lambda x: x.at[1].set(0), blocks['mlp']['down'])
  blocks = {**blocks, 'mlp': {**blocks['mlp'], 'down': idle}}
  params = {**params, 'backbone': {**params['backbone'], 'blocks': blocks}}
  found = capture(params, batches[:1], config=config, settings=SETTINGS)
  place = {r.name: i for i, r in enumerate(found.readouts)}
  loss = lambda name: found.loss[place[name]]
  np.testing.assert_array_equal(loss('attention_2'), loss('depth_2'))
  assert (loss('attention_3') != loss('depth_3')).any()
  assert (loss('attention_2') != loss('depth_1')).any()


def test_positions_say_where_they_stand(captured, batches):
  counted = np.concatenate([b.weights for b in batches]) > 0
  rows, _ = np.nonzero(counted)
  np.testing.assert_array_equal(captured.row, rows)
  for name, of in {
    'token': 'tokens',
    'target': 'targets',
    'position': 'positions',
    'segment': 'segment_ids',
  }.items():
    values = np.concatenate([getattr(b, of) for b in batches])
    np.testing.assert_array_equal(captured[name], values[counted])


class TestSelection:
  def test_every_nth(self, model, batches, captured):
    config, params = model
    settings = dataclasses.replace(SETTINGS, selection=Selection(every=3))
    found = capture(params, batches, config=config, settings=settings)
    # The count begins anew with each batch of 12 positions.
    np.testing.assert_array_equal(found.target, captured.target[::3])
    np.testing.assert_allclose(found.loss, captured.loss[:, ::3], atol=1e-6)

  def test_a_random_share(self, model, batches, captured):
    config, params = model
    share = lambda seed: capture(
      params,
      batches,
      config=config,
      settings=dataclasses.replace(
        SETTINGS, selection=Selection(share=0.25, seed=seed)
      ),
    )
    first, same, other = share(0), share(0), share(1)
    assert first.num_positions == 5 * 3
    assert_same(first, same)
    assert (first.target != other.target).any()
    pairs = set(zip(captured.row, captured.position, strict=True))
    assert pairs.issuperset(zip(first.row, first.position, strict=True))

  @pytest.mark.parametrize(
    'fields', [{'every': 0}, {'share': 0.0}, {'every': 2, 'share': 0.5}]
  )
  def test_settings_are_checked(self, fields):
    with pytest.raises(ArgumentError):
      Selection(**fields)


def test_cheap_fields_equal_those_of_everything(model, batches, captured):
  config, params = model
  settings = CaptureConfig(fields=CHEAP, num_candidates=1, chunk_size=6)
  found = capture(params, batches, config=config, settings=settings)
  whole = captured.only(ReadoutKind.NATURAL, ReadoutKind.EXIT)
  np.testing.assert_array_equal(found.top1, whole.top1)
  np.testing.assert_allclose(found.loss, whole.loss, atol=1e-6)
  with pytest.raises(ArgumentError, match='has no kl_final'):
    _ = found.kl_final


def test_chosen_depths(model, batches, captured):
  config, params = model
  settings = CaptureConfig(depths=(2,), kinds=(ReadoutKind.NATURAL,))
  found = capture(params, batches, config=config, settings=settings)
  assert [r.depth for r in found.readouts] == [2.0, 4.0]
  names = [r.name for r in captured.readouts]
  np.testing.assert_allclose(
    found.loss[0], captured.loss[names.index('depth_2')], atol=1e-6
  )


def test_a_model_over_a_mesh_gives_the_same(model, batches, captured):
  config, params = model
  mesh = jax.make_mesh((2,), ('model',), axis_types=(AxisType.Auto,))

  def place(path, x):
    name = jax.tree_util.keystr(path)
    axes = [None] * x.ndim
    # The vocabulary, and the heads of queries, over two devices.
    if 'mlp' in name and x.shape[-1] % 2 == 0:
      axes[-1] = 'model'
    if 'head' in name:
      axes[0] = 'model'
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

  sharded = jax.tree_util.tree_map_with_path(place, params)
  found = capture(sharded, batches, config=config, settings=SETTINGS)
  np.testing.assert_array_equal(found.top1, captured.top1)
  for name in ('loss', 'kl_final', 'js_previous', 'hidden_cosine'):
    np.testing.assert_allclose(found[name], captured[name], atol=2e-5)


class TestFolder:
  def test_a_folder_holds_what_memory_holds(
    self, model, batches, captured, tmp_path
  ):
    config, params = model
    path = tmp_path / 'captured'
    found = capture(
      params, batches, config=config, settings=SETTINGS, path=path
    )
    assert_same(found, captured)
    assert len(list(path.glob('part-*.npz'))) == 3
    assert found.facts.data['hash']
    # Again, it is there already.
    again = capture(
      params, batches, config=config, settings=SETTINGS, path=path
    )
    assert_same(again, captured)

  def test_one_that_was_ended_goes_on(
    self, model, batches, captured, tmp_path, monkeypatch
  ):
    config, params = model
    run = lambda given: capture(
      params, given, config=config, settings=SETTINGS, path=tmp_path / 'c'
    )

    def ending():
      yield from batches[:3]
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      run(ending())
    with pytest.raises(CheckpointError, match='not finished'):
      file.read(tmp_path / 'c')
    read = []
    original = capture_batch.read_batch
    monkeypatch.setattr(
      capture_lib,
      'read_batch',
      lambda *args, **kwargs: read.append(1) or original(*args, **kwargs),
    )
    assert_same(run(batches), captured)
    # One part of two batches was whole.
    assert len(read) == 3

  def test_it_does_not_go_on_with_another_text(self, model, batches, tmp_path):
    config, params = model
    run = lambda given, **fields: capture(
      params,
      given,
      config=config,
      settings=dataclasses.replace(SETTINGS, **fields),
      path=tmp_path / 'c',
    )
    run(batches)
    turned = batches[::-1]
    for other in (turned, batches[:4], [*batches, batches[0]]):
      with pytest.raises(ArgumentError, match='another text'):
        run(other)
    with pytest.raises(ArgumentError, match='other num_candidates'):
      run(batches, num_candidates=4)

  def test_a_folder_that_is_something_else(self, model, batches, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    config, params = model
    with pytest.raises(ArgumentError, match='no captured text'):
      capture(params, batches, config=config, path=tmp_path)

  def test_numbers_that_are_not_finite_leave_the_parts_before(
    self, model, batches, tmp_path
  ):
    config, params = model
    table = params['backbone']['embedding']['table']
    token = int(batches[4].tokens[0, 3])
    earlier = np.concatenate([b.tokens for b in batches[:4]])
    unseen = np.setdiff1d(batches[4].tokens[0], earlier)
    token = int(unseen[0]) if len(unseen) else token
    broken = {
      **params,
      'backbone': {
        **params['backbone'],
        'embedding': {'table': table.at[token].set(jnp.nan)},
      },
    }
    with pytest.raises(EejaxError, match='not finite at depth 0') as error:
      capture(
        broken, batches, config=config, settings=SETTINGS, path=tmp_path / 'c'
      )
    assert str(error.value).count('.') == 1


class TestMemory:
  def temp_bytes(self, model, *, rows, vocabulary=None, **fields):
    config, _ = model
    if vocabulary:
      inner = dataclasses.replace(config.model, vocab_size=vocabulary)
      config = dataclasses.replace(config, model=inner)
    params = jax.eval_shape(lambda: decoder.init(config, jax.random.key(0)))
    settings = dataclasses.replace(SETTINGS, **fields)
    compiled = capture_batch.read_batch.lower(
      params,
      make_batch(config, rows=rows).as_dict(),
      None,
      config=config,
      how=settings.batch_reading(config),
    ).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def test_logits_of_a_chunk_alone_stand(self, model):
    # Every read-out of every position would take 12 * 256 * V floats; a
    # chunk of 8 has a few arrays of 8 V.
    vocabulary = 4096
    fewer, more = (
      self.temp_bytes(model, rows=32, vocabulary=v, chunk_size=8)
      for v in (vocabulary, 2 * vocabulary)
    )
    # Matrices without their mean stand once more, those of exits of their own
    # among them.
    matrices = 4 * 2 * model[0].model.embed_dim * vocabulary
    assert more - fewer - matrices < 4 * 40 * 8 * vocabulary
    assert more - fewer < 4 * 12 * 32 * LENGTH * vocabulary / 10

  def test_the_text_does_not_count(self, model, monkeypatch):
    # Of any number of batches two are held, and a part.
    config, params = model
    alive, most = [], []
    original = capture_batch.read_batch

    def watched(*args, **kwargs):
      found = original(*args, **kwargs)
      alive.append(found)
      most.append(len(jax.live_arrays()))
      alive.clear()
      return found

    monkeypatch.setattr(capture_lib, 'read_batch', watched)
    many = (make_batch(config, seed % 3) for seed in range(12))
    how = SETTINGS.batch_reading(config)
    parts = capture_lib._parts(
      params, many, capture_lib._Text(), config, how, SETTINGS
    )
    sizes = [len(part.arrays['row']) for part in parts]
    assert sum(sizes) == 12 * 12
    assert max(sizes) <= SETTINGS.positions_per_part + 12
    assert max(most[2:]) == min(most[2:])


class TestBadInput:
  def test_no_text(self, model, tmp_path):
    config, params = model
    with pytest.raises(ArgumentError, match='no text'):
      capture(params, [], config=config)
    with pytest.raises(ArgumentError, match='no text'):
      capture(params, [], config=config, path=tmp_path / 'c')

  def test_unknown_fields_and_depths(self, model):
    with pytest.raises(ArgumentError, match='no perplexity'):
      CaptureConfig(fields=('perplexity',))
    with pytest.raises(ArgumentError, match='depths 0 to 4'):
      CaptureConfig(depths=(5,)).batch_reading(model[0])
    with pytest.raises(ArgumentError, match='between all depths'):
      CaptureConfig(depths=(1,), kinds=EVERYWHERE)
    with pytest.raises(ArgumentError, match='num_candidates'):
      CaptureConfig(num_candidates=0)

  def test_a_file_where_a_folder_should_be(self, model, batches, tmp_path):
    config, params = model
    (tmp_path / 'file').write_text('')
    with pytest.raises(ArgumentError, match='is a file'):
      capture(params, batches, config=config, path=tmp_path / 'file')


def test_facts_are_kept(model, batches, tmp_path):
  config, params = model
  about = About(
    model={'name': 'tiny', 'released': '2026-01'},
    backbone_hash='abc',
    data={'name': 'numbers'},
    tokenizer={'fingerprint': 'f'},
  )
  found = capture(
    params,
    batches[:1],
    config=config,
    settings=SETTINGS,
    path=tmp_path / 'c',
    about=about,
  )
  facts = found.facts
  assert facts.model['name'] == 'tiny'
  assert facts.model['config']['model']['num_layers'] == 4
  assert (facts.backbone_hash, facts.data['name']) == ('abc', 'numbers')
  assert set(facts.fields) == set(EVERYTHING)
  values = json.loads((tmp_path / 'c' / file.NAME).read_text())
  assert values['facts']['versions']['jax'] == jax.__version__
