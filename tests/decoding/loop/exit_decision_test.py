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
"""Tests of heads: every criterion through exits, thresholds, what is read."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from eejax.decoding.loop.cache import BatchSettings
from eejax.decoding.loop.exit_decision import ExitRows, decide_exit, decide_last
from eejax.decoding.loop.exit_scoring import (
  HeadInput,
  empty_memory,
  with_scored_matrices,
)
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy import scored_vocabulary
from eejax.decoding.policy.criteria import (
  Evidence,
  criterion_names,
  get_criterion,
)
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.models.exits import ExitInput, apply_exit_head, output_kernel
from eejax.ops.sampling import SamplingConfig, SamplingMethod, row_sampling

NEVER = np.inf
SETTLED = ('static', 'schedule')
LOGIT_CRITERIA = ('max_prob', 'margin', 'entropy', 'patience', 'js', 'kl')
ROWS = 4

# Called as it is, a conditional is lowered and compiled anew each time.
_DECIDE = jax.jit(decide_exit, static_argnames=('plan', 'index'))


class Heads:
  """A model's heads, shown streams that no backbone computed."""

  def __init__(self, model, criterion, *, rows=ROWS, token_ids=None, **fields):
    self.config, self.tree = model
    policy = Policy(Mode.EARLY_EXIT, criterion, (0.5,), **fields)
    self.plan, _ = make_plan(
      self.config,
      policy=policy,
      method=SamplingMethod.GREEDY,
    )
    prepared = prepare(self.tree, config=self.config)
    self.params = with_scored_matrices(
      prepared, plan=self.plan, token_ids=token_ids
    )
    random = np.random.default_rng(7)
    shape = (4, rows, 1, self.config.model.embed_dim)
    streams = random.normal(size=shape).cumsum(axis=0)
    self.streams = jnp.asarray(streams, jnp.float32)
    self.positions = jnp.arange(rows) + 3
    self.rows = np.arange(rows)

  def only(self, rows):
    """Return the same heads with some of the rows alone."""
    other = copy.copy(self)
    other.streams = self.streams[:, rows]
    other.positions = self.positions[rows]
    other.rows = self.rows[rows]
    return other

  @property
  def num_exits(self):
    return self.plan.num_exits

  def blank(self):
    return empty_memory(
      self.plan, batch_size=len(self.rows), params=self.params
    )

  def request(self, thresholds):
    shape = (len(self.rows), self.num_exits)
    return BatchSettings(
      end_ids=jnp.zeros((len(self.rows), 0), jnp.int32),
      thresholds=jnp.broadcast_to(jnp.asarray(thresholds, jnp.float32), shape),
      sampling=row_sampling(SamplingConfig(), seeds=self.rows.tolist()),
    )

  def input(self, index, memory=None):
    hidden = ExitInput(hidden=self.streams[index])
    return HeadInput(hidden, None, self.positions, memory)

  def ask(self, index, thresholds=NEVER, *, memory=None, may_exit=True):
    may_exit = jnp.broadcast_to(jnp.asarray(may_exit), (len(self.rows),))
    return _DECIDE(
      self.params,
      self.request(thresholds),
      self.input(index, memory),
      plan=self.plan,
      index=index,
      may_exit=may_exit,
    )

  def walk(self, thresholds=NEVER, **fields):
    """Return the decisions at all exits, one after the other."""
    decisions, memory = [], self.blank()
    for index in range(self.num_exits):
      decisions.append(self.ask(index, thresholds, memory=memory, **fields))
      memory = decisions[-1].memory
    return decisions

  def logits(self, index):
    """Return an exit's logits from the parameters as they are on disk."""
    exit = self.plan.segments[index].exit
    ready = apply_exit_head(
      self.tree['exits'][exit.name],
      ExitInput(hidden=self.streams[index]),
      exit=exit,
      config=self.config.model,
      positions=self.positions[:, None],
    ).hidden[:, 0]
    kernel = output_kernel(self.tree, exit=exit, config=self.config.model)
    return np.asarray(ready @ kernel)


@pytest.fixture
def make(lively):
  model = lively('1:norm:gate,2:norm:untied:mlp_gate,3:norm:gate', seed=2)
  return functools.partial(Heads, model)


def scores(decisions):
  return np.array([d.output.score for d in decisions])


class TestScores:
  @pytest.mark.parametrize('name', ['max_prob', 'margin', 'entropy'])
  def test_one_distribution(self, make, name):
    model = make(name)
    expected = [
      get_criterion(name).score(Evidence(logits=jnp.asarray(model.logits(x))))
      for x in range(3)
    ]
    np.testing.assert_allclose(scores(model.walk()), expected, rtol=1e-4)

  @pytest.mark.parametrize('name', ['js', 'kl'])
  def test_distributions_of_neighbours(self, make, name):
    model = make(name)
    found = scores(model.walk())
    assert (found[0] == 0).all()
    for index in (1, 2):
      evidence = Evidence(
        logits=jnp.asarray(model.logits(index)),
        previous_logits=jnp.asarray(model.logits(index - 1)),
        has_previous=jnp.ones(ROWS, bool),
      )
      expected = get_criterion(name).score(evidence)
      np.testing.assert_allclose(found[index], expected, rtol=1e-3, atol=1e-6)
    assert len(np.unique(found[1:])) == 2 * ROWS

  def test_cosine_of_neighbours(self, make):
    model = make('cosine')
    found = scores(model.walk())
    assert (found[0] == 0).all()
    for index in (1, 2):
      here, before = (
        np.asarray(model.streams[i, :, 0]) for i in (index, index - 1)
      )
      cosine = (here * before).sum(-1) / (
        np.linalg.norm(here, axis=-1) * np.linalg.norm(before, axis=-1)
      )
      np.testing.assert_allclose(found[index], np.maximum(cosine, 0), rtol=1e-4)

  def test_patience_counts_agreements(self, make):
    model = make('patience(2)')
    # One stream for all exits, so the first and last head agree in all rows.
    model.streams = jnp.broadcast_to(model.streams[:1], model.streams.shape)
    tokens = np.array([np.argmax(model.logits(x), -1) for x in range(3)])
    agree = tokens[1:] == tokens[:-1]
    expected = [
      np.zeros(ROWS),
      agree[0] / 2,
      np.where(agree[1], (agree[0] + 1) / 2, 0),
    ]
    np.testing.assert_allclose(scores(model.walk()), expected)

  def test_patience_is_full_where_all_exits_agree(self, lively):
    model = Heads(lively('1:embedding,2:embedding'), 'patience(1)')
    model.streams = jnp.broadcast_to(model.streams[:1], model.streams.shape)
    found = scores(model.walk())
    assert found.tolist() == [[0] * ROWS, [1] * ROWS]

  def test_the_depths_are_the_exits(self, make):
    assert scores(make('static(2)').walk())[:, 0].tolist() == [0, 1, 1]
    model = make('schedule(4, 1)')  # positions 3, 4, 5, 6 of 4 blocks
    assert scores(model.walk()).T.tolist() == [[0, 1, 1]] + [[1, 1, 1]] * 3

  @pytest.mark.parametrize('name', criterion_names())
  def test_rows_do_not_influence_one_another(self, make, name):
    model = make(name)
    together = scores(model.walk())
    alone = scores(model.only(slice(2, 3)).walk())[:, 0]
    np.testing.assert_allclose(together[:, 2], alone, rtol=1e-4, atol=1e-6)


class TestThresholds:
  @pytest.mark.parametrize('name', criterion_names())
  def test_0_takes_every_row_that_may_and_never_takes_none(self, make, name):
    model = make(name)
    may_exit = np.array([True, False, True, True])
    for decision in model.walk(0.0, may_exit=may_exit):
      np.testing.assert_array_equal(decision.exit_mask, may_exit)
    for decision in model.walk(NEVER):
      assert not decision.exit_mask.any()

  @pytest.mark.parametrize('name', criterion_names())
  def test_1_takes_what_scores_1(self, make, name):
    for decision in make(name).walk(1.0):
      np.testing.assert_array_equal(
        decision.exit_mask, decision.output.score == 1
      )

  @pytest.mark.parametrize('name', ['gate', 'margin', 'js'])
  def test_a_score_that_equals_the_threshold_is_enough(self, make, name):
    model = make(name)
    found = scores(model.walk())
    assert all(d.exit_mask.all() for d in model.walk(found.T))
    # The next number after 0 is so small that it may be taken for 0.
    above = np.maximum(np.nextafter(found.T, np.float32(2)), 1e-30)
    assert not any(d.exit_mask.any() for d in model.walk(above))

  def test_each_row_has_its_own_thresholds(self, make):
    model = make('max_prob')
    thresholds = np.full((ROWS, 3), NEVER)
    thresholds[2, 1] = thresholds[0, 2] = 0.0
    takes = [d.exit_mask.tolist() for d in model.walk(thresholds)]
    assert takes == [
      [False] * 4,
      [False, False, True, False],
      [True, False, False, False],
    ]

  @pytest.mark.parametrize('name', criterion_names())
  def test_the_token_is_the_exit_s_own(self, make, name):
    model = make(name)
    for index, decision in enumerate(model.walk(0.0)):
      logits = model.logits(index)
      expected = np.argmax(logits, axis=-1)
      np.testing.assert_array_equal(decision.output.token, expected)
      log_prob = jax.nn.log_softmax(logits)[np.arange(ROWS), expected]
      np.testing.assert_allclose(decision.output.log_prob, log_prob, rtol=1e-3)


class TestMemory:
  @pytest.mark.parametrize('name', ['patience', 'cosine', 'js', 'kl'])
  def test_a_parked_row_goes_on_where_it_was(self, make, name):
    model = make(name)
    expected = scores(model.walk())
    first = model.ask(0, memory=model.blank())
    # The others feed another token while row 1 waits before the next segment.
    others = np.arange(ROWS) != 1
    ahead = model.only(slice(None))
    ahead.positions = model.positions + others
    ahead.streams = model.streams + 1.0
    memory = ahead.ask(0, memory=first.memory, may_exit=others).memory
    ahead.streams = model.streams
    second = ahead.ask(1, memory=memory, may_exit=~others)
    np.testing.assert_allclose(
      second.output.score[1], expected[1, 1], rtol=1e-5, atol=1e-7
    )

  @pytest.mark.parametrize('name', ['patience', 'cosine', 'js', 'kl'])
  def test_another_token_s_exit_is_not_compared_with(self, make, name):
    model = make(name)
    memory = model.ask(0, memory=model.blank()).memory
    model.positions = model.positions + 1
    assert not model.ask(1, memory=memory).output.score.any()

  def test_criteria_of_one_exit_carry_nothing(self, make):
    for name in ('gate', 'max_prob', 'static', 'schedule'):
      assert not jax.tree.leaves(make(name).blank())

  @pytest.mark.parametrize('name', criterion_names())
  def test_it_keeps_its_form(self, make, name):
    model = make(name)
    describe = lambda m: [
      (path, x.shape, x.dtype) for path, x in jax.tree.leaves_with_path(m)
    ]
    memory = describe(model.blank())
    for may_exit in (True, False):
      for decision in model.walk(may_exit=may_exit):
        assert describe(decision.memory) == memory


class TestFrequent:
  IDS = (5, 3, 21, 8, 14, 2, 27)

  @pytest.mark.parametrize('name', LOGIT_CRITERIA)
  def test_scores_are_those_of_some_tokens(self, make, name):
    model = make(
      name, scored_vocabulary='frequent(6)', token_ids=np.array(self.IDS)
    )
    ids = np.array(self.IDS[:6])
    small = [jnp.asarray(model.logits(x)[:, ids]) for x in range(3)]
    found = scores(model.walk())
    streak = np.ones(ROWS, int)
    for index in range(3):
      before = small[max(index - 1, 0)]
      if index:
        same = np.argmax(small[index], -1) == np.argmax(before, -1)
        streak = np.where(same, streak + 1, 1)
      evidence = Evidence(
        logits=small[index],
        previous_logits=before,
        has_previous=jnp.full((ROWS,), index > 0),
        streak=jnp.asarray(streak),
      )
      expected = get_criterion(name).score(evidence)
      np.testing.assert_allclose(found[index], expected, rtol=1e-3, atol=1e-6)

  def test_tokens_come_from_the_whole_head(self, make):
    model = make('margin', scored_vocabulary='frequent(2)')
    for index, decision in enumerate(model.walk(0.0)):
      expected = np.argmax(model.logits(index), axis=-1)
      np.testing.assert_array_equal(decision.output.token, expected)
      assert (expected >= 2).any()

  def test_only_rows_that_leave_ask_the_whole_head(self, make):
    model = make('margin', scored_vocabulary='frequent(4)')
    thresholds = np.full((ROWS, 3), NEVER)
    thresholds[1] = 0.0
    for decision in model.walk(thresholds):
      assert decision.logits_computed.tolist() == [False, True, False, False]


class TestCandidates:
  SIZE = 5

  @pytest.mark.parametrize('name', LOGIT_CRITERIA)
  def test_scores_are_those_of_the_first_exit_s_tokens(self, make, name):
    model = make(name, scored_vocabulary=f'candidates({self.SIZE})')
    whole = [model.logits(x) for x in range(3)]
    ids = np.argsort(-whole[0], axis=-1, kind='stable')[:, : self.SIZE]
    small = [np.take_along_axis(x, ids, axis=-1) for x in whole]
    found = scores(model.walk())
    first = Evidence(
      logits=jnp.asarray(whole[0]),
      previous_logits=jnp.asarray(whole[0]),
      has_previous=jnp.zeros(ROWS, bool),
      streak=jnp.ones(ROWS, int),
    )
    expected = get_criterion(name).score(first)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-6)
    streak = np.ones(ROWS, int)
    for index in (1, 2):
      here, before = small[index], small[index - 1]
      same = np.argmax(here, -1) == np.argmax(before, -1)
      streak = np.where(same, streak + 1, 1)
      evidence = Evidence(
        logits=jnp.asarray(here),
        previous_logits=jnp.asarray(before),
        has_previous=jnp.ones(ROWS, bool),
        streak=jnp.asarray(streak),
      )
      expected = get_criterion(name).score(evidence)
      np.testing.assert_allclose(found[index], expected, rtol=1e-3, atol=1e-6)

  def test_tokens_come_from_the_whole_head(self, make):
    model = make('margin', scored_vocabulary='candidates(2)')
    for index, decision in enumerate(model.walk(0.0)):
      expected = np.argmax(model.logits(index), axis=-1)
      np.testing.assert_array_equal(decision.output.token, expected)

  def test_a_row_without_candidates_of_its_own_is_not_safe(self, make):
    model = make('max_prob', scored_vocabulary='candidates(3)')
    some = np.array([True, False, True, False])
    memory = model.ask(0, memory=model.blank(), may_exit=some).memory
    found = np.asarray(model.ask(1, memory=memory).output.score)
    np.testing.assert_array_equal(found > 0, some)

  def test_the_first_exit_alone_asks_its_whole_head(self, make):
    model = make('margin', scored_vocabulary='candidates(3)')
    asked = [d.logits_computed.tolist() for d in model.walk()]
    assert asked == [[True] * 4, [False] * 4, [False] * 4]


class TestTheLastHead:
  def last(self, model, active=True):
    active = jnp.broadcast_to(jnp.asarray(active), (ROWS,))
    head_input = HeadInput(
      ExitInput(hidden=model.streams[-1]), None, model.positions, model.blank()
    )
    return decide_last(
      model.params,
      model.request(0.5),
      ExitRows(active, head_input),
      plan=model.plan,
    )

  @pytest.mark.parametrize('name', criterion_names())
  def test_it_has_no_score_and_takes_all(self, make, name):
    active = np.array([True, True, False, True])
    decision = self.last(make(name), active)
    np.testing.assert_array_equal(decision.exit_mask, active)
    assert np.isnan(decision.output.score).all()

  @pytest.mark.parametrize('name', criterion_names())
  def test_an_exit_that_is_always_taken_has_one(self, make, name):
    model = make(name)
    # The model ends after its first exit.
    model.plan = dataclasses.replace(
      model.plan, segments=model.plan.segments[:1]
    )
    model.streams = model.streams[:1]
    decision = self.last(model)
    assert decision.exit_mask.all()
    np.testing.assert_array_equal(
      decision.output.token, np.argmax(model.logits(0), axis=-1)
    )
    assert np.isfinite(decision.output.score).all()


class TestWhatIsComputed:
  """Multiplications by matrices as wide as the vocabulary, by condition."""

  def matrix_products(self, model, index):
    """Return how many stand in no conditional, in one, in two ..."""
    found = [0, 0, 0]
    vocab = model.config.model.vocab_size

    def visit(jaxpr, level):
      for equation in jaxpr.eqns:
        deeper = level + (equation.primitive.name == 'cond')
        shapes = [v.aval.shape for v in equation.invars]
        if equation.primitive.name == 'dot_general':
          found[level] += any(vocab in shape for shape in shapes)
        for inner in jaxprs_in_params(equation.params):
          visit(inner, deeper)

    memory = model.blank()

    def ask(threshold, memory):
      return model.ask(index, threshold, memory=memory)

    visit(jax.make_jaxpr(ask)(jnp.float32(0.5), memory).jaxpr, 0)
    return found

  @pytest.mark.parametrize('name', ['gate', 'cosine', *SETTLED])
  def test_no_head_unless_rows_leave(self, make, name):
    model = make(name)
    assert self.matrix_products(model, 1) == [0, 1, 0]

  @pytest.mark.parametrize('name', LOGIT_CRITERIA)
  def test_one_head_where_some_row_asks(self, make, name):
    model = make(name)
    assert self.matrix_products(model, 1) == [0, 1, 0]

  @pytest.mark.parametrize('kind', ['frequent(6)', 'candidates(6)'])
  def test_no_whole_head_for_scores_of_some_tokens(self, make, kind):
    model = make('margin', scored_vocabulary=kind)
    assert self.matrix_products(model, 1) == [0, 0, 1]


class TestRefusals:
  def test_matrices_that_are_not_there(self, make):
    model = make('margin', scored_vocabulary='frequent(4)')
    model.params = prepare(model.tree, config=model.config)
    with pytest.raises(ArgumentError, match='with_scored_matrices'):
      model.walk()

  def test_a_scored_vocabulary_that_nobody_reads(self):
    with pytest.raises(ArgumentError, match='gate reads no logits'):
      Policy(criterion='gate', scored_vocabulary='frequent(4)')

  @pytest.mark.parametrize('kind', ['frequent', 'candidates'])
  def test_more_tokens_than_there_are(self, make, kind):
    with pytest.raises(ArgumentError, match='larger than the model'):
      make('margin', scored_vocabulary=f'{kind}(30)')

  @pytest.mark.parametrize(
    'text, message',
    [
      ('some(3)', "no scored vocabulary 'some'"),
      ('frequent', 'needs a number'),
      ('frequent(1)', 'at least 2'),
      ('frequent(2.5)', 'one whole number'),
      ('candidates(2, 3)', 'one whole number'),
      ('whole(3)', 'takes no number'),
    ],
  )
  def test_scored_vocabularies_that_make_no_sense(self, text, message):
    with pytest.raises(ArgumentError, match=message):
      scored_vocabulary.parse_scored_vocabulary(text)

  @pytest.mark.parametrize(
    'ids, message',
    [
      ([1, 2], 'wants 3'),
      ([1, 2, 29], 'one of those given is 29'),
      ([1, -2, 3], 'one of those given is -2'),
      ([1, 2, 1], 'twice'),
      (np.array([1.5, 2.0, 3.0]), 'whole numbers'),
    ],
  )
  def test_token_ids_that_cannot_be_scored(self, make, ids, message):
    with pytest.raises(ArgumentError, match=message):
      make('margin', scored_vocabulary='frequent(3)', token_ids=ids)


class TestTokenIdFiles:
  def test_both_forms(self, tmp_path):
    (tmp_path / 'ids.txt').write_text('4\n9 1\n')
    np.save(tmp_path / 'ids.npy', np.array([4, 9, 1]))
    for name in ('ids.txt', 'ids.npy'):
      ids = scored_vocabulary.read_token_ids(tmp_path / name)
      assert ids.tolist() == [4, 9, 1]

  def test_files_that_hold_none(self, tmp_path):
    (tmp_path / 'ids.txt').write_text('four')
    with pytest.raises(ArgumentError, match='holds no token ids'):
      scored_vocabulary.read_token_ids(tmp_path / 'ids.txt')
    with pytest.raises(ArgumentError, match='cannot be read'):
      scored_vocabulary.read_token_ids(tmp_path / 'none.txt')
