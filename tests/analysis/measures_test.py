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
import functools

import numpy as np
import pytest

from eejax.analysis import measures
from eejax.analysis.measures import Pair
from eejax.errors import ArgumentError


@functools.cache
def longest_common(a, b):
  """Return the length of the longest common subsequence, by definition."""
  if not a or not b:
    return 0
  if a[-1] == b[-1]:
    return 1 + longest_common(a[:-1], b[:-1])
  return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


def test_common_length_is_that_of_its_definition():
  random = np.random.default_rng(0)
  for _ in range(60):
    a, b = (
      tuple(random.integers(0, 4, random.integers(0, 9)).tolist())
      for _ in range(2)
    )
    assert measures.common_length(a, b) == longest_common(a, b), (a, b)


def test_rouge_l_by_hand():
  # In common: 1 3 4, of 4 and 5 tokens.
  loss = measures.rouge_l(Pair((1, 2, 3, 4), (1, 3, 5, 4, 6)))
  assert loss == pytest.approx(1 - 2 * 3 / 9)
  assert measures.rouge_l(Pair((), ())) == 0
  assert measures.rouge_l(Pair((), (1,))) == 1


def test_same_place_counts_missing_tokens():
  assert measures.same_place(Pair((1, 2, 9), (1, 2, 3, 4))) == 0.5
  assert measures.same_place(Pair((), ())) == 0


def test_local_compares_with_what_the_full_model_says_there():
  pair = Pair((1, 2, 3, 4), (7, 7, 7, 7), judged=(1, 2, 0, 4))
  assert measures.local(pair) == 0.25
  assert measures.local(Pair((), (), judged=())) == 0
  with pytest.raises(ArgumentError, match='asks what the full model'):
    measures.local(Pair((1,), (1,)))


def test_a_users_own_measure_is_imported(tmp_path, monkeypatch):
  (tmp_path / 'my_losses.py').write_text(
    'WORD = 3\n'
    'def first(ours, full):\n'
    '  return float(ours[0] != full[0])\n'
    'def broken(ours, full):\n'
    '  return float("nan")\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  first = measures.get_measure('my_losses:first')
  assert first(Pair((1, 2), (1, 3))) == 0 and first(Pair((2,), (1,))) == 1
  broken = measures.get_measure('my_losses:broken')
  with pytest.raises(ArgumentError, match='broken returned nan'):
    measures.loss('my_losses:broken', broken, Pair((1,), (1,)))
  for wrong in ('my_losses:missing', 'no_such_module:first'):
    with pytest.raises(ArgumentError, match='cannot be imported'):
      measures.get_measure(wrong)
  with pytest.raises(ArgumentError, match='no function'):
    measures.get_measure('my_losses:WORD')


def test_a_function_is_a_measure_and_may_read_the_prompt():
  plain = measures.get_measure(lambda ours, full: float(ours != full))
  assert plain(Pair((1,), (1,), prompt=(7,))) == 0

  def by_prompt(ours, full, prompt):
    return prompt[0] / 10

  assert measures.get_measure(by_prompt)(Pair((1,), (1,), prompt=(7,))) == 0.7
  assert measures.measure_name(by_prompt).endswith('by_prompt')
  assert measures.measure_name('local') == 'local'
  assert not measures.needs_judgement(by_prompt)


@pytest.mark.parametrize(
  'parameters, given',
  [
    ('ours, full', ((1, 2), (3,))),
    ('full, ours', ((3,), (1, 2))),
    ('a, b, *, prompt', ((1, 2), (3,), (7,))),
    ('reference, *, weight=2', ((4, 5), 2)),
    ('ours_text, full_text, prompt_text', ('1-2', '3', '7')),
    ('reference_text, ours', ('4-5', (1, 2))),
    ('*both', ((1, 2), (3,))),
  ],
)
def test_a_measure_is_given_what_it_names(parameters, given):
  seen = []
  names = parameters.replace('*, ', '').replace('=2', '')
  function = eval(
    f'lambda {parameters}: seen.append(({names},)) or 0.5', locals()
  )
  pair = Pair(
    [1, 2],
    [3],
    prompt=[7],
    reference=[4, 5],
    decode=lambda ids: '-'.join(map(str, ids)),
  )
  assert measures.get_measure(function)(pair) == 0.5
  assert seen == [given]


def test_what_a_measure_needs_is_known_beforehand():
  by_text = lambda ours, reference_text: 0.0
  assert measures.needs_reference(by_text) and measures.needs_text(by_text)
  by_tokens = lambda ours, reference: 0.0
  assert measures.needs_reference(by_tokens)
  for measure in (by_tokens, 'local', 'rouge_l'):
    assert not measures.needs_text(measure)
  assert not measures.needs_reference('local')


def test_what_is_not_known_is_said():
  pair = Pair((1,), (1,))
  with pytest.raises(ArgumentError, match='what follows the prompts is not'):
    measures.get_measure(lambda reference: 0.0)(pair)
  with pytest.raises(ArgumentError, match='asks for ours_text'):
    measures.get_measure(lambda ours_text: 0.0)(pair)
  for wrong in (lambda a: 0.0, lambda a, b, c: 0.0, lambda ours, b: 0.0):
    with pytest.raises(ArgumentError, match='or two parameters of other'):
      measures.get_measure(wrong)
  with pytest.raises(ArgumentError, match='it has none'):
    measures.get_measure(lambda: 0.0)


def test_a_measure_can_be_registered_once(monkeypatch):
  monkeypatch.setattr(measures, 'MEASURES', dict(measures.MEASURES))
  measures.register_measure('never', lambda pair: 0.0)
  assert measures.get_measure('never')(Pair((1,), (2,))) == 0
  with pytest.raises(ArgumentError, match="measure 'local' already"):
    measures.register_measure('local', measures.local)


def test_an_unknown_measure_is_named_with_those_there_are():
  with pytest.raises(ArgumentError, match='there are local, same_place'):
    measures.get_measure('blue')
