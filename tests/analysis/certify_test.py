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
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.analysis import certify
from eejax.analysis.certify import CalibrationPrompts, Continuation
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.stats.fixed_sequence import Guarantee
from eejax.testing import tiny

POOL = [(i, i + 1, 7) for i in range(20)]


class TestPrompts:
  def test_they_are_drawn_alike_from_any_order(self):
    drawn = certify.draw_prompts(POOL, count=8)
    assert drawn == certify.draw_prompts(POOL[::-1] + POOL, count=8)
    assert len(set(drawn)) == 8 and set(drawn) < set(POOL)
    assert drawn != certify.draw_prompts(POOL, count=8, seed=1)

  def test_all_are_taken_where_there_are_too_few(self):
    assert set(certify.draw_prompts(POOL, count=50)) == set(POOL)

  def test_an_overlap_is_refused(self):
    pool = tuple(POOL)
    with pytest.raises(ArgumentError, match='2 of the 17 .* searched on'):
      CalibrationPrompts(pool[:5], pool[3:]).check_disjoint()
    with pytest.raises(ArgumentError, match='3 of the 10 .* report on'):
      CalibrationPrompts(pool[:5], pool[5:13], pool[10:]).check_disjoint()
    CalibrationPrompts(pool[:5], pool[5:10], pool[10:]).check_disjoint()

  def test_a_data_hash_is_of_the_set(self):
    assert certify.data_hash(POOL) == certify.data_hash(POOL[::-1])
    assert certify.data_hash(POOL) != certify.data_hash(POOL[1:])


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm,2:norm', eos_ids=())
  params = tiny.tiny_params(config)
  return config, params, prepare(params, config=config)


PROMPTS = tuple((i, 5, 9) for i in range(2, 7))


def go_on(model, policy=None, **more):
  config, _, prepared = model
  return certify.continue_prompts(
    prepared,
    config=config,
    prompts=PROMPTS,
    max_new_tokens=6,
    batch_size=3,
    policy=policy or Policy(),
    **more,
  )


class TestContinuations:
  def test_all_prompts_are_continued_in_order(self, model):
    told = []
    texts = go_on(model, on_batch=lambda n, found: told.append((n, len(found))))
    assert told == [(0, 3), (1, 2)]
    config, params, _ = model
    for prompt, text in zip(PROMPTS, texts, strict=True):
      tokens = jnp.array([[*prompt, *text.tokens]])
      said = decoder.logits(params, tokens, config=config)['final'].argmax(-1)
      assert text.tokens == tuple(said[0, 2:-1].tolist())
      assert set(text.depths) == {4}

  def test_batches_that_are_known_are_not_decoded(self, model):
    known = {0: [Continuation((1,), (4,))] * 3}
    told = []
    texts = go_on(model, known=known, on_batch=lambda n, found: told.append(n))
    assert told == [1] and texts[:3] == known[0] and len(texts) == 5

  def test_the_full_model_agrees_with_its_own_text_alone(self, model):
    config, params, _ = model
    full = go_on(model)
    early = go_on(model, Policy(Mode.EARLY_EXIT, 'max_prob', (0.01,)))
    judge = lambda texts: certify.full_choices(
      params,
      config=config.model,
      prompts=PROMPTS,
      continuations=texts,
      batch_size=3,
    )
    assert judge(full) == [t.tokens for t in full]
    none = certify.losses('local', ours=full, full=full, judged=judge(full))
    assert none.tolist() == [0] * 5
    some = certify.losses('local', ours=early, full=full, judged=judge(early))
    assert (some > 0).any() and (some <= 1).all()

  def test_texts_of_other_lengths_are_judged_at_their_own_places(self, model):
    config, params, _ = model
    full = go_on(model)
    cut = [Continuation(t.tokens[:n], t.depths[:n]) for n, t in enumerate(full)]
    judged = certify.full_choices(
      params,
      config=config.model,
      prompts=PROMPTS,
      continuations=cut,
      batch_size=2,
    )
    assert judged == [t.tokens for t in cut]

  def test_numbers_that_are_not_finite_are_refused(self, model):
    config, params, _ = model
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(EejaxError, match='not finite'):
      go_on((config, params, prepare(broken, config=config)))


class TestChoice:
  def test_the_riskiest_that_holds_is_taken(self):
    means = (0.0, 0.01, 0.5, 0.0)
    found = certify.certify_settings(
      lambda index: np.full(300, means[index]),
      4,
      guarantee=Guarantee(0.1, 0.05),
    )
    assert found.chosen == 1 and found.sequences == 300
    assert found.mean_losses == pytest.approx(means[:3])
    assert found.p_values[1] <= 0.05 < found.p_values[2]

  def test_nothing_that_holds_says_what_it_would_take(self):
    found = certify.certify_settings(
      lambda index: np.full(70, 0.03), 3, guarantee=Guarantee(0.05, 0.05)
    )
    assert found.chosen is None and found.needed > 200
    hopeless = certify.certify_settings(
      lambda index: np.full(70, 0.06), 3, guarantee=Guarantee(0.05, 0.05)
    )
    assert hopeless.needed is None

  def test_on_average(self):
    losses = np.array([[0.0] * 30, [0.05] * 30, [0.5] * 30])
    found = certify.control_settings(lambda i: losses[i], 3, risk=0.1)
    assert found.chosen == 1 and found.p_values is None
    few = certify.control_settings(lambda i: losses[1][:5], 1, risk=0.1)
    # (n 0.05 + 1) / (n + 1) <= 0.1 from n = 18 on.
    assert few.chosen is None and few.needed == 18
    enough = certify.control_settings(lambda i: losses[1][:18], 1, risk=0.1)
    assert enough.chosen == 0
