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
"""Small charts as SVG text, for reports that need nothing but a browser.

Colours are CSS variables of `STYLE`, so charts follow a page into dark mode;
every point shows its numbers when pointed at. All text is escaped.
"""

import dataclasses
import enum
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eejax.errors import ArgumentError

# Told apart in colour blindness and on light and dark ground alike (after
# Okabe and Ito 2008, Color Universal Design); further ones repeat, dashed.
_LIGHT = ('#0072b2', '#d55e00', '#009e73', '#a8559b', '#8a6d00', '#4b5563')
_DARK = ('#56b4e9', '#ff8a3d', '#2fc99b', '#dd8fd0', '#e3c23c', '#aab2bd')
NUM_COLOURS = len(_LIGHT)

# Drawing units; a chart is scaled to the width it is given. On a phone that
# is a little less than one pixel a unit.
_WIDTH, _HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 46


def _variables(colours: Sequence[str]) -> str:
  return ''.join(f'--s{i}:{c};' for i, c in enumerate(colours))


STYLE = (
  f':root{{{_variables(_LIGHT)}--ink:#1b1f24;--soft:#5b6570;--line:#d8dde3}}'
  f'@media(prefers-color-scheme:dark){{:root{{{_variables(_DARK)}'
  '--ink:#e6e9ed;--soft:#9aa5b1;--line:#39414b}}'
  '.chart svg{width:100%;height:auto;display:block;overflow:visible}'
  '.chart text{font:12.5px system-ui,sans-serif;fill:var(--soft)}'
  '.chart .value{fill:var(--ink)}'
  '.chart .grid{stroke:var(--line);stroke-width:1}'
  '.chart .mark{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:2 3}'
  '.chart .curve{fill:none;stroke-width:2;stroke-linejoin:round}'
  '.chart .dashed{stroke-dasharray:6 4}'
  '.chart .hit{fill:transparent;stroke:none}'
  '.chart .band{stroke:none;fill-opacity:.16}'
  '.chart .cell{stroke:var(--line);stroke-width:.5}'
  '.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;'
  'margin:.3rem 0 0;padding:0;font-size:.85rem}'
  '.chart .legend svg{display:inline-block;width:26px;height:10px;'
  'margin-right:.35rem;vertical-align:middle}'
)


class Format(enum.Enum):
  """How numbers of an axis are written.

  PLAIN: with as many digits as they need. PERCENT: shares as percentages.
  TIMES: as factors, `1.3x`.
  """

  PLAIN = 'plain'
  PERCENT = 'percent'
  TIMES = 'times'


@dataclasses.dataclass(frozen=True)
class Axis:
  """Axis of a chart.

  Attributes:
    label: what it shows.
    format: how its numbers are written.
    names: of the places 0, 1, 2, ... on an axis of settings; without them the
      axis is one of numbers.
    low: where a number axis begins; None fits the data.
    high: where it ends; None fits the data.
  """

  label: str
  format: Format = Format.PLAIN
  names: tuple[str, ...] = ()
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Series:
  """Curve of a chart.

  Attributes:
    name: for the legend.
    x: places; numbers of an axis of settings count from 0.
    y: values; None leaves a gap.
    colour: which colour, from 0; None takes the place in the chart.
    dashed: whether the line is dashed, as for predictions.
    ends: lower and upper end of an interval around each value, drawn as a
      band; none without it.
  """

  name: str
  x: Sequence[float]
  y: Sequence[float | None]
  colour: int | None = None
  dashed: bool = False
  ends: Sequence[tuple[float, float]] = ()

  def __post_init__(self):
    if len(self.x) != len(self.y):
      raise ArgumentError(
        f'the curve {self.name!r} has {len(self.x)} places and '
        f'{len(self.y)} values.'
      )
    if self.ends and len(self.ends) != len(self.y):
      raise ArgumentError(
        f'the curve {self.name!r} has {len(self.y)} values and '
        f'{len(self.ends)} intervals.'
      )


def interval_series(
  name: str,
  x: Sequence[float],
  intervals: Sequence[Mapping[str, float]],
  **look: Any,
) -> Series:
  """Return a curve of estimates with their intervals as a band.

  Args:
    name: for the legend.
    x: places.
    intervals: each with `value`, `low` and `high`.
    **look: other attributes of the series.
  """
  return Series(
    name,
    x,
    [i['value'] for i in intervals],
    ends=[(i['low'], i['high']) for i in intervals],
    **look,
  )


@dataclasses.dataclass(frozen=True)
class Mark:
  """Horizontal line with a label, such as a target."""

  value: float
  label: str


def number(value: float, format: Format = Format.PLAIN) -> str:
  """Return a number as axes and hints show it."""
  if format is Format.PERCENT:
    return f'{_short(100 * value)} %'
  if format is Format.TIMES:
    return f'{_short(value)}x'
  return _short(value)


def _short(value: float) -> str:
  return f'{value:.4g}' if abs(value) < 1e5 else f'{value:.3g}'


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
  """Return round numbers from `low` to `high`, about `count` of them."""
  span = high - low
  if not (math.isfinite(span) and span > 0):
    return [low]
  rough = span / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
  series: Sequence[Series],
  *,
  title: str,
  x: Axis,
  y: Axis,
  marks: Sequence[Mark] = (),
) -> str:
  """Return curves over common axes, with a legend, as HTML.

  Args:
    series: the curves.
    title: says what is shown to those who cannot see it.
    x: the horizontal axis.
    y: the vertical axis.
    marks: horizontal lines.
  """
  values = [v for s in series for v in s.y if v is not None]
  values += [v for s in series for pair in s.ends for v in pair]
  values = [*filter(math.isfinite, values), *(m.value for m in marks)]
  places = [float(v) for s in series for v in s.x]
  if x.names:
    places = [0.0, float(max(len(x.names) - 1, 1))]
  frame = _Frame(_limits(places, x, pad=0.0), _limits(values, y, pad=0.06))
  curves = [
    *(_band(s, i, frame) for i, s in enumerate(series)),
    *(_curve(s, i, frame, x, y) for i, s in enumerate(series)),
  ]
  parts = [frame.axes(x, y), *(_mark(m, frame) for m in marks), *curves]
  return _figure(title, parts, [(s, i) for i, s in enumerate(series)])


def bar_chart(
  groups: Sequence[tuple[str, Sequence[float]]],
  *,
  title: str,
  x: Axis,
  y: Axis,
) -> str:
  """Return bars side by side for each name of the axis `x`, as HTML.

  Args:
    groups: name and heights, one for each name of `x`.
    title: says what is shown to those who cannot see it.
    x: an axis of settings.
    y: the vertical axis.
  """
  places = len(x.names)
  heights = [h for _, hs in groups for h in hs if math.isfinite(h)]
  frame = _Frame((-0.5, places - 0.5), _limits([0.0, *heights], y, pad=0.06))
  slot = frame.width / max(places, 1)
  bar = min(0.8 * slot / max(len(groups), 1), 44)
  parts = [frame.axes(x, y)]
  for i, (name, values) in enumerate(groups):
    offset = (i - len(groups) / 2) * bar
    for place, value in enumerate(values):
      left, top = frame.x(place) + offset, frame.y(max(value, 0.0))
      hint = f'{name}, {x.names[place]}: {number(value, y.format)}'
      parts.append(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{bar:.1f}" '
        f'height="{max(frame.bottom - top, 0):.1f}" rx="2" '
        f'fill="var(--s{i % NUM_COLOURS})"><title>{_text(hint)}</title></rect>'
      )
  legend = [
    (Series(name, (), (), colour=i), i) for i, (name, _) in enumerate(groups)
  ]
  return _figure(title, parts, legend if len(groups) > 1 else [])


def heat_map(
  values: Sequence[Sequence[float | None]],
  *,
  title: str,
  x: Axis,
  y: Axis,
  format: Format = Format.PLAIN,
  low: float = 0.0,
  high: float = 1.0,
) -> str:
  """Return a grid whose colour deepens from `low` to `high`, as HTML.

  Args:
    values: a list for each name of `y`, of a value for each name of `x`; None
      leaves a gap.
    title: says what is shown to those who cannot see it.
    x: an axis of settings, from left to right.
    y: an axis of settings, from bottom to top.
    format: how values are written where they are pointed at.
    low: value without colour.
    high: value with all of it.

  Raises:
    ArgumentError: values and names do not fit.
  """
  if len(values) != len(y.names) or any(len(v) != len(x.names) for v in values):
    raise ArgumentError(
      f'the heat map {title!r} needs {len(x.names)} values for each of its '
      f'{len(y.names)} lines.'
    )
  frame = _Frame((-0.5, len(x.names) - 0.5), (-0.5, len(y.names) - 0.5))
  width = frame.width / max(len(x.names), 1)
  height = frame.height / max(len(y.names), 1)
  parts = [frame.places_of_both(x, y)]
  for row, line in enumerate(values):
    for column, value in enumerate(line):
      if value is None or not math.isfinite(value):
        continue
      share = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
      hint = (
        f'{x.label} {x.names[column]}, {y.label} {y.names[row]}: '
        f'{number(value, format)}'
      )
      parts.append(
        f'<rect class="cell" x="{frame.x(column - 0.5):.1f}" '
        f'y="{frame.y(row + 0.5):.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" fill="var(--s0)" fill-opacity="{share:.2f}">'
        f'<title>{_text(hint)}</title></rect>'
      )
  key = ''.join(
    f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><rect class="cell" '
    f'width="26" height="10" fill="var(--s0)" fill-opacity="{share:g}"/></svg>'
    f'{_text(number(low + share * (high - low), format))}</li>'
    for share in (0.0, 0.5, 1.0)
  )
  return _drawing(title, parts, f'<ul class="legend">{key}</ul>')


class _Frame:
  """Places of numbers on the drawing."""

  left, top = _LEFT, _TOP
  width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

  def __init__(self, xs: tuple[float, float], ys: tuple[float, float]):
    self.xs, self.ys = xs, ys
    self.bottom = self.top + self.height

  def x(self, value: float) -> float:
    low, high = self.xs
    return self.left + self.width * (value - low) / (high - low)

  def y(self, value: float) -> float:
    low, high = self.ys
    return self.bottom - self.height * (value - low) / (high - low)

  def axes(self, x: Axis, y: Axis) -> str:
    parts = []
    for value in ticks(*self.ys):
      at = self.y(value)
      parts.append(
        f'<line class="grid" x1="{self.left}" x2="{self.left + self.width}" '
        f'y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{self.left - 6}" y="{at + 4:.1f}" text-anchor="end">'
        f'{_text(number(value, y.format))}</text>'
      )
    parts += [self._below(x), self._labels(x, y)]
    return ''.join(parts)

  def places_of_both(self, x: Axis, y: Axis) -> str:
    """Return the names of two axes of settings, without lines."""
    every = -(-len(y.names) // 14)
    last = len(y.names) - 1
    parts = [
      f'<text x="{self.left - 6}" y="{self.y(i) + 4:.1f}" text-anchor="end">'
      f'{_text(name)}</text>'
      for i, name in enumerate(y.names)
      if (last - i) % every == 0
    ]
    return ''.join([*parts, self._below(x), self._labels(x, y)])

  def _below(self, x: Axis) -> str:
    return ''.join(
      f'<text x="{self.x(value):.1f}" y="{self.bottom + 17:.1f}" '
      f'text-anchor="middle">{_text(name)}</text>'
      for value, name in self._places(x)
    )

  def _labels(self, x: Axis, y: Axis) -> str:
    return (
      f'<text class="value" x="{self.left + self.width / 2:.1f}" '
      f'y="{_HEIGHT - 6}" text-anchor="middle">{_text(x.label)}</text>'
      f'<text class="value" x="{-self.top - self.height / 2:.1f}" y="12" '
      f'text-anchor="middle" transform="rotate(-90)">{_text(y.label)}</text>'
    )

  def _places(self, x: Axis) -> list[tuple[float, str]]:
    if not x.names:
      return [(v, number(v, x.format)) for v in ticks(*self.xs, count=6)]
    # Names that would run into one another are left out.
    widest = max(len(n) for n in x.names) * 7 + 8
    room = max(int(self.width // widest), 1)
    every = -(-len(x.names) // room)
    last = len(x.names) - 1
    shown = [i for i in range(len(x.names)) if (last - i) % every == 0]
    return [(float(i), x.names[i]) for i in shown]


def _curve(s: Series, index: int, frame: _Frame, x: Axis, y: Axis) -> str:
  colour = _colour(s, index)
  runs: list[list[str]] = [[]]
  dots = []
  for place, value in zip(s.x, s.y, strict=True):
    if value is None or not math.isfinite(value):
      runs.append([])
      continue
    at = f'{frame.x(place):.1f},{frame.y(value):.1f}'
    runs[-1].append(at)
    where = x.names[int(place)] if x.names else number(place, x.format)
    hint = f'{s.name}: {number(value, y.format)} ({x.label}: {where})'
    cx, cy = at.split(',')
    dots.append(
      f'<g><title>{_text(hint)}</title>'
      f'<circle cx="{cx}" cy="{cy}" r="2.6" fill="{colour}"/>'
      f'<circle class="hit" cx="{cx}" cy="{cy}" r="9"/></g>'
    )
  kind = 'curve dashed' if _is_dashed(s, index) else 'curve'
  lines = [
    f'<polyline class="{kind}" stroke="{colour}" points="{" ".join(run)}"/>'
    for run in runs
    if len(run) > 1
  ]
  return ''.join([*lines, *dots])


def _band(s: Series, index: int, frame: _Frame) -> str:
  """Return the interval around a curve, where it has one."""
  known = [
    (place, low, high)
    for place, (low, high) in zip(s.x, s.ends, strict=bool(s.ends))
    if math.isfinite(low) and math.isfinite(high)
  ]
  if len(known) < 2:
    return ''
  corners = [
    *(f'{frame.x(p):.1f},{frame.y(high):.1f}' for p, _, high in known),
    *(f'{frame.x(p):.1f},{frame.y(low):.1f}' for p, low, _ in known[::-1]),
  ]
  return (
    f'<polygon class="band" fill="{_colour(s, index)}" '
    f'points="{" ".join(corners)}"/>'
  )


def _mark(mark: Mark, frame: _Frame) -> str:
  at = frame.y(mark.value)
  right = frame.left + frame.width
  return (
    f'<line class="mark" x1="{frame.left}" x2="{right}" y1="{at:.1f}" '
    f'y2="{at:.1f}"/><text x="{right - 4}" y="{at + 14:.1f}" '
    f'text-anchor="end">{_text(mark.label)}</text>'
  )


def _figure(
  title: str, parts: Sequence[str], legend: Sequence[tuple[Series, int]]
) -> str:
  entries = ''.join(
    f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><line class="curve'
    f'{" dashed" if _is_dashed(s, i) else ""}" x1="0" x2="26" y1="5" y2="5" '
    f'stroke="{_colour(s, i)}"/></svg>{_text(s.name)}</li>'
    for s, i in legend
  )
  listed = f'<ul class="legend">{entries}</ul>' if entries else ''
  return _drawing(title, parts, listed)


def _drawing(title: str, parts: Sequence[str], listed: str) -> str:
  return (
    f'<div class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{_text(title)}">{"".join(parts)}</svg>{listed}</div>'
  )


def _limits(
  values: Sequence[float], axis: Axis, *, pad: float
) -> tuple[float, float]:
  low = min(values, default=0.0) if axis.low is None else axis.low
  high = max(values, default=1.0) if axis.high is None else axis.high
  if high <= low:
    high = low + (abs(low) or 1.0) * 0.1
  span = high - low
  return (
    low - pad * span if axis.low is None else low,
    high + pad * span if axis.high is None else high,
  )


def _colour(s: Series, index: int) -> str:
  place = index if s.colour is None else s.colour
  return f'var(--s{place % NUM_COLOURS})'


def _is_dashed(s: Series, index: int) -> bool:
  return s.dashed or (s.colour is None and index >= NUM_COLOURS)


def _text(text: str) -> str:
  return html.escape(text, quote=True)
