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
"""Tests of growing texts and stop strings."""

import itertools

import pytest

from eejax.decoding.text import TextStream
from eejax.errors import ArgumentError


class Letters:
  """Spell ids as given words, the last of them only when flushed."""

  def __init__(self, *words, last=''):
    self.words, self.last = words, last

  def push(self, token_id):
    return self.words[token_id]

  def flush(self):
    return self.last


def feed(words, stop=(), last='', **fields):
  stream = TextStream(Letters(*words, last=last), stop=stop, **fields)
  shown = []
  for token in range(len(words)):
    shown.append(stream.push(token))
    if stream.stopped:
      break
  else:
    shown.append(stream.finish())
  assert ''.join(shown) == stream.text
  return stream, shown


def test_without_stops_everything_is_shown_at_once():
  stream, shown = feed(['ab', '', 'c'], last='d')
  assert shown == ['ab', '', 'c', 'd']
  assert not stream.stopped and not stream.may_stop


def test_a_stop_inside_a_piece():
  stream, shown = feed(['abENDcd', 'never'], stop=['END'])
  assert (stream.text, stream.stopped) == ('ab', True)
  assert shown == ['ab']


def test_a_stop_over_several_pieces_is_never_shown_in_part():
  stream, shown = feed(['xE', 'N', 'D', 'y'], stop=['END'])
  assert shown == ['x', '', '']
  assert stream.text == 'x' and stream.stopped


def test_what_only_began_like_a_stop_is_shown_late():
  stream, shown = feed(['xE', 'N', 'T'], stop=['END'])
  assert shown == ['x', '', 'ENT', '']


def test_what_began_like_a_stop_is_shown_at_the_end():
  stream, shown = feed(['xEN'], stop=['END'])
  assert shown == ['x', 'EN']
  assert not stream.stopped


def test_the_first_of_several_stops_counts():
  stream, _ = feed(['a--b##c'], stop=['##', '--'])
  assert (stream.text, stream.stop_string) == ('a', '--')
  stream, _ = feed(['aab'], stop=['ab', 'aab'])
  assert stream.text == ''


def test_a_stop_may_complete_in_what_was_held_back():
  stream, shown = feed(['xEN'], stop=['END'], last='D!')
  assert stream.text == 'x' and stream.stopped


def test_self_overlapping_stops():
  stream, _ = feed(['aa', 'ab', 'c'], stop=['aab'])
  assert stream.text == 'a'


def test_nothing_comes_after_a_stop():
  stream = TextStream(Letters('END', 'more', last='last'), stop=['END'])
  assert [stream.push(0), stream.push(1), stream.finish()] == ['', '', '']
  assert stream.text == ''


@pytest.mark.parametrize('stop', [['\n\n'], ['ab', 'b\n'], ['b\na', 'zz']])
def test_every_cut_of_a_text_gives_the_same(stop):
  text = 'abba\n\nab\nab'
  ends = [i for i in map(text.find, stop) if i >= 0]
  expected = text[: min(ends)]
  for cuts in itertools.combinations(range(1, len(text)), 3):
    edges = [0, *cuts, len(text)]
    words = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert feed(words, stop=stop)[0].text == expected


def test_a_stop_has_to_stand_behind_the_first_tokens():
  words = ['aEND', 'bE', 'ND', 'cEN', 'Dd']
  stream, shown = feed(words, stop=['END'], min_tokens=2)
  # What the first tokens began is not completed by later ones.
  assert shown == ['aEND', 'bE', 'ND', 'c', '']
  assert stream.text == 'aENDbENDc' and stream.stopped
  assert feed(words, stop=['END'])[0].text == 'a'


def test_an_empty_stop_is_refused():
  with pytest.raises(ArgumentError, match='empty'):
    TextStream(Letters(), stop=['x', ''])
