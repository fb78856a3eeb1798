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
"""Test charts as the XML they are."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.report import svg
from eejax.report.svg import Axis, Format, Mark, Series


def parse(text):
  """Return a chart as a tree; browsers know more entities than XML."""
  return ElementTree.fromstring(text)


def chart(series, **fields):
  fields = {'x': Axis('step'), 'y': Axis('loss'), **fields}
  return parse(svg.line_chart(series, title='Loss', **fields))


def points(tree):
  return [
    [tuple(map(float, p.split(','))) for p in line.get('points').split()]
    for line in tree.iter('polyline')
  ]


def hints(tree):
  return [t.text for t in tree.iter('title')]


class TestTicks:
  @pytest.mark.parametrize(
    'low, high, expected',
    [
      (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
      (0.0, 300.0, [0.0, 100.0, 200.0, 300.0]),
      (1.03, 1.38, [1.1, 1.2, 1.3]),
      (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
  )
  def test_they_are_round_and_inside(self, low, high, expected):
    assert svg.ticks(low, high) == pytest.approx(expected)

  def test_no_span_has_one(self):
    assert svg.ticks(2.0, 2.0) == [2.0]


class TestLines:
  def test_values_grow_upwards_and_places_to_the_right(self):
    ((first, second),) = points(chart([Series('a', [0, 10], [1.0, 3.0])]))
    assert second[0] > first[0]
    assert second[1] < first[1]

  def test_one_scale_for_all_curves(self):
    a, b = points(
      chart([Series('a', [0, 1], [1.0, 2.0]), Series('b', [0, 1], [2.0, 1.0])])
    )
    assert a[1][1] == b[0][1]

  def test_missing_values_leave_a_gap(self):
    values = [1.0, 2.0, None, float('nan'), 3.0, 4.0]
    lines = points(chart([Series('a', range(6), values)]))
    assert [len(line) for line in lines] == [2, 2]

  def test_every_point_tells_its_numbers(self):
    tree = chart(
      [Series('measured', [0, 1], [1.25, 0.5])],
      x=Axis('threshold', names=('0.9', 'never')),
      y=Axis('speed-up', Format.TIMES),
    )
    assert hints(tree) == [
      'measured: 1.25x (threshold: 0.9)',
      'measured: 0.5x (threshold: never)',
    ]

  def test_the_legend_names_every_curve(self):
    tree = chart([Series('a', [0], [1.0]), Series('b', [0], [1.0])])
    assert [i.text or i[0].tail for i in tree.iter('li')] == ['a', 'b']

  def test_a_mark_stands_at_its_value(self):
    tree = chart([Series('a', [0, 1], [0.0, 2.0])], marks=[Mark(2.0, 'target')])
    ((_, top),) = points(tree)
    (line,) = [e for e in tree.iter('line') if e.get('class') == 'mark']
    assert float(line.get('y1')) == pytest.approx(top[1])
    assert 'target' in [t.text for t in tree.iter('text')]

  def test_percent(self):
    tree = chart(
      [Series('a', [0, 1], [0.5, 1.0])], y=Axis('share', Format.PERCENT)
    )
    assert '100 %' in [t.text for t in tree.iter('text')]

  def test_names_that_would_touch_are_left_out_but_the_last(self):
    names = tuple(f'{i / 100:.3f}' for i in range(40))
    tree = chart([Series('a', range(40), [1.0] * 40)], x=Axis('t', names=names))
    shown = [t.text for t in tree.iter('text') if t.text in names]
    assert len(shown) < 12
    assert shown[-1] == names[-1]

  def test_more_curves_than_colours_are_dashed(self):
    series = [
      Series(str(i), [0, 1], [i, i + 1.0]) for i in range(svg.NUM_COLOURS + 1)
    ]
    kinds = [p.get('class') for p in chart(series).iter('polyline')]
    assert kinds[0] == 'curve' and kinds[-1] == 'curve dashed'

  def test_text_is_escaped(self):
    evil = '<script>"&'
    text = svg.line_chart(
      [Series(evil, [0, 1], [1.0, 2.0])],
      title=evil,
      x=Axis(evil, names=(evil, evil)),
      y=Axis(evil),
      marks=[Mark(1.0, evil)],
    )
    assert '<script' not in text
    parse(text)

  def test_nothing_to_draw_is_a_chart_all_the_same(self):
    assert points(chart([Series('a', [], [])])) == []
    assert points(chart([Series('a', [1], [None])])) == []

  def test_a_constant_has_a_scale(self):
    ((first, second),) = points(chart([Series('a', [0, 1], [3.0, 3.0])]))
    assert first[1] == second[1]

  def test_places_and_values_must_be_equally_many(self):
    with pytest.raises(ArgumentError, match="'a' has 2 places and 1"):
      Series('a', [1, 2], [1.0])


class TestBars:
  def bars(self):
    text = svg.bar_chart(
      [('text', [0.5, 0.25, 0.25]), ('own', [0.0, 1.0, 0.0])],
      title='Shares',
      x=Axis('depth', names=('3', '6', '12')),
      y=Axis('share', Format.PERCENT, low=0.0),
    )
    return parse(text)

  def test_heights_are_in_proportion(self):
    heights = [float(r.get('height')) for r in self.bars().iter('rect')]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert heights[3] == 0

  def test_bars_do_not_overlap(self):
    rects = sorted(
      (float(r.get('x')), float(r.get('width')))
      for r in self.bars().iter('rect')
    )
    for (left, width), (right, _) in zip(rects, rects[1:], strict=False):
      assert left + width <= right + 0.11

  def test_every_bar_tells_its_number(self):
    assert hints(self.bars())[0] == 'text, 3: 50 %'


class TestBands:
  def test_a_band_runs_along_the_ends(self):
    found = Series('a', [0, 1], [1.0, 2.0], ends=[(0.0, 2.0), (1.0, 3.0)])
    tree = chart([found])
    polygon = next(e for e in tree.iter() if e.tag.endswith('polygon'))
    corners = [c.split(',') for c in polygon.get('points').split()]
    xs = [float(x) for x, _ in corners]
    ys = [float(y) for _, y in corners]
    # Up along the upper ends and back along the lower ones.
    assert xs[0] == xs[3] < xs[1] == xs[2]
    assert ys[1] < ys[0] and ys[2] < ys[3]
    assert ys[0] < ys[3]

  def test_a_scale_holds_the_ends(self):
    narrow = chart([Series('a', [0, 1], [1.0, 1.1])])
    wide = chart([Series('a', [0, 1], [1.0, 1.1], ends=[(0.0, 9.0)] * 2)])
    heights = lambda t: [y for _, y in points(t)[0]]
    assert np.ptp(heights(wide)) < np.ptp(heights(narrow)) / 5

  def test_ends_and_values_must_be_equally_many(self):
    with pytest.raises(ArgumentError, match='2 values and 1 intervals'):
      Series('a', [0, 1], [1.0, 2.0], ends=[(0.0, 2.0)])


class TestHeatMaps:
  def map(self, values, **fields):
    columns, rows = len(values[0]), len(values)
    return parse(
      svg.heat_map(
        values,
        title='t',
        x=Axis('step', names=tuple(f's{i}' for i in range(columns))),
        y=Axis('depth', names=tuple(f'd{i}' for i in range(rows))),
        **fields,
      )
    )

  def cells(self, tree):
    return [
      e
      for e in tree.iter()
      if e.tag.endswith('rect') and e.get('x') is not None
    ]

  def test_colour_deepens_with_the_value(self):
    cells = self.cells(self.map([[0.0, 0.25], [0.5, 2.0]]))
    assert [float(c.get('fill-opacity')) for c in cells] == [0, 0.25, 0.5, 1]

  def test_lines_go_up_and_columns_to_the_right(self):
    a, b, c, _ = self.cells(self.map([[0.0, 0.1], [0.2, 0.3]]))
    assert float(a.get('x')) < float(b.get('x'))
    assert float(a.get('y')) > float(c.get('y'))

  def test_every_cell_tells_its_number_and_gaps_are_left(self):
    tree = self.map([[0.5, None]], low=0.0, high=1.0)
    assert [h for h in hints(tree) if 'step' in h] == ['step s0, depth d0: 0.5']

  def test_values_must_fit_the_names(self):
    with pytest.raises(ArgumentError, match='needs 2 values for each'):
      svg.heat_map(
        [[1.0]],
        title='t',
        x=Axis('x', names=('a', 'b')),
        y=Axis('y', names=('c',)),
      )


def test_the_style_fetches_nothing():
  assert not re.search(r'url\(|@import|http', svg.STYLE)
