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
"""Tests of log-probabilities of continuations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError, EejaxError
from eejax.evaluation import passages as passages_lib
from eejax.evaluation.passages import Passage, PassageScorer
from eejax.models import decoder
from eejax.parallel.mesh import MeshConfig, make_mesh
from eejax.testing import tiny

# Thresholds between which the scores of the tiny model lie.
EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.8, None, 0.8), window=4)


@pytest.fixture(scope='module')
def model(tiny_config):
  """Return a configuration and parameters whose scores vary.

  Heads are sure of themselves, while blocks stay as tame as they are: with
  large weights in these, two orders of a sum differ in the fourth digit.
  """

  def louder(path, leaf):
    name = jax.tree_util.keystr(path)
    is_head = 'final_norm' in name or ('exits' in name and 'norm' in name)
    return (32 if is_head else 2) * leaf

  params = tiny.tiny_params(tiny_config)
  return tiny_config, jax.tree_util.tree_map_with_path(louder, params)


@pytest.fixture(scope='module')
def texts(model):
  """Return contexts and continuations of several lengths."""
  random = np.random.default_rng(0)
  lengths = [(1, 4), (5, 1), (9, 12), (3, 30), (20, 2)]
  draw = lambda n: random.integers(3, model[0].model.vocab_size, n).tolist()
  return [Passage(draw(a), draw(b)) for a, b in lengths]


@pytest.fixture(scope='module')
def score(model):
  """Return a function that scores passages under a policy."""
  config, params = model
  scorers = {}

  def run(passages, policy=FULL_DEPTH, **options):
    key = (policy, tuple(options))
    if key not in scorers:
      scorers[key] = PassageScorer(
        params, config=config, policy=policy, batch_size=2, **options
      )
    return scorers[key].score(passages)

  return run


@pytest.mark.parametrize('depth', [4, 1, 2, 3])
def test_at_a_depth_they_are_those_of_its_head(model, texts, score, depth):
  config, params = model
  policy, name = FULL_DEPTH, 'final'
  if depth < 4:
    thresholds = [None, None, None]
    thresholds[depth - 1], name = 0.0, f'exit_{depth}'
    policy = Policy(Mode.EARLY_EXIT, 'max_prob', tuple(thresholds))
  for text, found in zip(texts, score(texts, policy), strict=True):
    tokens = np.array([*text.context, *text.continuation], np.int32)
    read = jnp.asarray(tokens[None, :-1])
    logits = decoder.logits(params, read, config=config)[name]
    said = np.asarray(jax.nn.log_softmax(logits[0], axis=-1))
    said = said[len(text.context) - 1 :]
    wanted = said[np.arange(len(said)), text.continuation]
    np.testing.assert_allclose(found.log_probs, wanted, rtol=1e-5, atol=1e-4)
    likeliest = said.argmax(axis=-1) == text.continuation
    np.testing.assert_array_equal(found.is_likeliest, likeliest)
    assert set(found.exit_depths) == {depth}
    assert found.log_prob == pytest.approx(wanted.sum(), rel=1e-5)


@pytest.mark.parametrize(
  'policy',
  [
    EARLY,
    dataclasses.replace(EARLY, criterion='patience(2)', thresholds=(0.5,)),
    Policy(Mode.EARLY_EXIT, 'margin', (0.65, 0.0, None), window=4),
    Policy(Mode.EARLY_EXIT, 'max_prob', (None, 0.0, None)),
  ],
  ids=['max_prob', 'patience', 'ends early', 'one exit'],
)
def test_under_a_policy_they_are_those_of_decoding(model, texts, score, policy):
  """Score what the policy itself generated: its own words and depths."""
  config, params = model
  prompts = [text.context for text in texts[:3]]
  rows = generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=12,
    eos_ids=(),
  ).rows
  own = [Passage(p, r.tokens) for p, r in zip(prompts, rows, strict=True)]
  for row, found in zip(rows, score(own, policy), strict=True):
    np.testing.assert_array_equal(found.exit_depths, row.exit_depths)
    np.testing.assert_allclose(
      found.log_probs, row.logprobs, rtol=1e-5, atol=1e-4
    )
    assert found.is_likeliest.all()
  depths = {d for row in rows for d in row.exit_depths}
  assert policy.thresholds == (None, 0.0, None) or len(depths) > 1, depths


def test_modes_that_keep_the_full_models_text_keep_its_scores(texts, score):
  lossless = dataclasses.replace(EARLY, mode=Mode.SPECULATIVE, prompt_lookup=2)
  for ours, full in zip(score(texts, lossless), score(texts), strict=True):
    np.testing.assert_array_equal(ours.log_probs, full.log_probs)


def test_few_programs_serve_many_lengths(model, score):
  before = passages_lib._read_batch._cache_size()
  config, params = model
  scorer = PassageScorer(params, config=config, dtype='bfloat16', batch_size=2)
  scorer.score([Passage([3] * n, [4] * n) for n in range(1, 24)])
  assert passages_lib._read_batch._cache_size() - before == 2


def test_what_does_not_fit_the_context_loses_its_beginning(score):
  tokens = np.random.default_rng(1).integers(3, 29, 60).tolist()
  (cut,) = score([Passage(tokens[:50], tokens[50:])])
  (short,) = score([Passage(tokens[11:50], tokens[50:])])
  np.testing.assert_allclose(cut.log_probs, short.log_probs, atol=1e-5)
  (whole,) = score([Passage(tokens[:5], tokens[5:53])])
  assert len(whole.log_probs) == 48


def test_nothing_to_score_is_certain(score):
  (found,) = score([Passage([3], [])])
  assert found.log_prob == 0 and found.is_likeliest.all()
  assert score([]) == []


def test_a_mesh_scores_alike(model, texts, score):
  config, params = model
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
  scorer = PassageScorer(
    params, config=config, policy=EARLY, batch_size=4, mesh=mesh
  )
  for ours, alone in zip(scorer.score(texts), score(texts, EARLY), strict=True):
    np.testing.assert_allclose(
      ours.log_probs, alone.log_probs, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(ours.exit_depths, alone.exit_depths)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'kv_strategy': KVStrategy.COPY}, 'for the kv strategy deferred alone'),
    ({'threshold_rule': 'decaying(2)'}, 'for the threshold rule constant'),
    ({'scored_vocabulary': 'frequent(9)'}, 'for the scored vocabulary whole'),
    ({'thresholds': (0.1, 0.2)}, '2 thresholds for 3 exits'),
  ],
  ids=str,
)
def test_where_no_score_is_defined_the_policy_is_refused(model, fields, words):
  config, params = model
  policy = dataclasses.replace(EARLY, **fields)
  with pytest.raises(ArgumentError, match=words):
    PassageScorer(params, config=config, policy=policy)


def test_wrong_texts_and_meshes_are_one_sentence(model, score):
  config, params = model
  with pytest.raises(ArgumentError, match='text 2 has no context'):
    score([Passage([3], [4]), Passage([], [4])])
  with pytest.raises(ArgumentError, match='cut it into windows'):
    score([Passage([3], [4] * 49)])
  make = lambda **more: PassageScorer(params, config=config, **more)
  with pytest.raises(ArgumentError, match='batch_size must be at least 1'):
    make(batch_size=0)
  with pytest.raises(ArgumentError, match='without pipeline stages'):
    make(mesh=make_mesh(MeshConfig(data=1, stage=4, fsdp=2)))
  with pytest.raises(EejaxError, match='does not divide'):
    make(batch_size=3, mesh=make_mesh(MeshConfig(data=8)))


def test_numbers_that_are_none_are_an_error(model):
  config, params = model
  broken = jax.tree.map(lambda x: x * np.nan, params)
  scorer = PassageScorer(broken, config=config, batch_size=2)
  with pytest.raises(EejaxError, match='are not finite'):
    scorer.score([Passage([3], [4])])
