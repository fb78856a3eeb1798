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
"""The parts of a self-contained HTML page: frame, cards, tables, tokens.

A page is one file without scripts, fonts or anything else to be fetched, and
readable on a phone, in the dark and on paper. All text is escaped here; what
is called `content` is HTML already.
"""

import dataclasses
import html
from collections.abc import Mapping, Sequence

from eejax.report import svg

_STYLE = """
*{box-sizing:border-box}
:root{color-scheme:light dark;--ground:#fff;--panel:#f5f7f9;--lightness:80%}
@media(prefers-color-scheme:dark){
:root{--ground:#14181d;--panel:#1d232a;--lightness:30%}}
body{margin:0 auto;max-width:1060px;padding:1.2rem;background:var(--ground);
color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.4rem 0}
h2{font-size:1.25rem;margin:2.4rem 0 .4rem;padding-top:.8rem;
border-top:1px solid var(--line)}
h3{font-size:1rem;margin:0 0 .5rem}
p,ul,ol{margin:.5rem 0;max-width:46rem}
.soft{color:var(--soft)}
.cards{display:grid;gap:.8rem;margin:1rem 0;
grid-template-columns:repeat(auto-fit,minmax(min(100%,11rem),1fr))}
.card,.panel{background:var(--panel);border-radius:10px;padding:.8rem 1rem}
.card b{display:block;font-size:1.7rem;line-height:1.25}
.card span{color:var(--soft);font-size:.88rem}
.pair{display:grid;gap:1rem;margin:1rem 0;
grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
.panel{min-width:0}
.panel:only-child{max-width:36rem}
.wide{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.9rem;width:100%}
th,td{padding:.3rem .6rem;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600;vertical-align:bottom}
th:first-child,td:first-child,.words{text-align:left}
td:first-child{white-space:normal;min-width:min(11rem,40vw)}
.facts td,.facts th{white-space:normal;text-align:left;
overflow-wrap:anywhere}
.facts th{width:14rem;vertical-align:top}
pre,code{font:13px/1.6 ui-monospace,Menlo,Consolas,monospace}
pre{background:var(--panel);border-radius:10px;padding:.8rem 1rem;
margin:.6rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
.prompt{color:var(--soft)}
.token{border-radius:3px;padding:1px 0;
background:hsl(var(--hue) 55% var(--lightness))}
.full{background:none;box-shadow:inset 0 -1px var(--line)}
.token:hover{outline:2px solid var(--ink)}
.token:hover::after{content:attr(data-hint);position:fixed;left:50%;bottom:1rem;
transform:translateX(-50%);max-width:94vw;padding:.35rem .8rem;z-index:1;
border-radius:8px;background:var(--ink);color:var(--ground);white-space:nowrap}
.key{display:inline-block;padding:0 .5rem;margin:.15rem .3rem .15rem 0;
font-size:.85rem}
.grid-of-tokens td,.grid-of-tokens th{padding:0;border:1px solid var(--line)}
.grid-of-tokens th{padding:.2rem .4rem}
.grid-of-tokens th:first-child{position:sticky;left:0;z-index:1;
background:var(--panel);max-width:8rem;overflow:hidden;text-overflow:ellipsis;
font:13px/1.6 ui-monospace,Menlo,Consolas,monospace}
.grid-of-tokens td{min-width:0}
.reading{display:block;width:4.15rem;overflow:hidden;text-overflow:ellipsis;
white-space:pre;text-align:left;padding:.15rem .3rem;
font:12px/1.5 ui-monospace,Menlo,Consolas,monospace;
background:color-mix(in srgb,var(--s1) var(--sure),transparent)}
.same{background:color-mix(in srgb,var(--s2) var(--sure),transparent)}
.settled{box-shadow:inset 3px 0 var(--ink)}
.reading:hover::after,.reading:focus::after{content:attr(data-hint);
position:fixed;left:50%;bottom:1rem;transform:translateX(-50%);z-index:2;
white-space:pre;max-width:94vw;padding:.5rem .9rem;border-radius:8px;
background:var(--ink);color:var(--ground);box-shadow:0 2px 12px #0006}
.reading:hover,.reading:focus{outline:2px solid var(--ink);outline-offset:-2px}
.verdict{border-left:5px solid var(--s0);padding:.6rem 1rem;margin:1rem 0;
background:var(--panel);border-radius:0 10px 10px 0;font-size:1.08rem}
.verdict.no{border-color:var(--s1)}
.verdict.maybe{border-color:var(--s4)}
@media print{.panel,.card,pre{break-inside:avoid}}
"""


# Hues of exits: green for the shallowest, by yellow to violet for the deepest.
FIRST_HUE, LAST_HUE = 150, -80


def text(value: object) -> str:
  """Return a value as text of a page, escaped."""
  return html.escape(str(value), quote=True)


def page(title: str, content: str, *, head: str = '') -> str:
  """Return a whole page.

  Args:
    title: of its window.
    content: its body.
    head: further elements of its head.
  """
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f'<title>{text(title)}</title><style>{svg.STYLE}{_STYLE}</style>{head}</head>'
    f'<body>\n{content}\n</body></html>\n'
  )


def fragment(content: str) -> str:
  """Return content for a place in another page, as a notebook's output.

  Its rules reach nothing outside it.
  """
  return (
    '<div class="eejax"><style>@scope (.eejax) {'
    f'{(svg.STYLE + _STYLE).replace(":root", ":scope")}'
    '}</style>'
    f'{content}</div>'
  )


def section(title: str, *content: str) -> str:
  """Return a part of a page with its heading."""
  return f'<h2>{text(title)}</h2>\n' + '\n'.join(content)


def paragraph(words: str) -> str:
  """Return a paragraph of plain text."""
  return f'<p>{text(words)}</p>'


def cards(entries: Sequence[tuple[str, str]]) -> str:
  """Return a row of figures, each with the words below it."""
  items = ''.join(
    f'<div class="card"><b>{text(figure)}</b><span>{text(words)}</span></div>'
    for figure, words in entries
  )
  return f'<div class="cards">{items}</div>'


def panels(entries: Sequence[tuple[str, str]]) -> str:
  """Return titled boxes of content, side by side where there is room."""
  items = ''.join(
    f'<div class="panel"><h3>{text(title)}</h3>{content}</div>'
    for title, content in entries
  )
  return f'<div class="pair">{items}</div>'


def table(
  rows: Sequence[Mapping[str, object]], *, words: Sequence[str] = ()
) -> str:
  """Return a table; the first row names the columns, None is a dash.

  Args:
    rows: the lines.
    words: columns that stand on the left, as the first one does.
  """
  if not rows:
    return ''
  columns = list(rows[0])
  kind = {c: ' class="words"' if c in words else '' for c in columns}
  head = ''.join(f'<th{kind[c]}>{text(c)}</th>' for c in columns)
  body = ''.join(
    '<tr>'
    + ''.join(f'<td{kind[c]}>{_cell(row.get(c))}</td>' for c in columns)
    + '</tr>'
    for row in rows
  )
  return (
    f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


def facts(entries: Mapping[str, object]) -> str:
  """Return a table of names and values."""
  rows = ''.join(
    f'<tr><th>{text(name)}</th><td>{_cell(value)}</td></tr>'
    for name, value in entries.items()
  )
  return f'<table class="facts"><tbody>{rows}</tbody></table>'


def bullets(entries: Sequence[str]) -> str:
  """Return a list of plain text."""
  return '<ul>' + ''.join(f'<li>{text(e)}</li>' for e in entries) + '</ul>'


def coloured_tokens(
  pieces: Sequence[str],
  depths: Sequence[int],
  hints: Sequence[str],
  *,
  levels: Sequence[int],
  prompt: str = '',
) -> str:
  """Return a text whose tokens are coloured by depth.

  Args:
    pieces: text of each token.
    depths: where each was emitted.
    hints: what is shown when a token is pointed at.
    levels: all depths there are, the full one last.
    prompt: what stands before the first token.
  """
  spans = [f'<span class="prompt">{text(prompt)}</span>'] if prompt else []
  for piece, depth, hint in zip(pieces, depths, hints, strict=True):
    # A line feed has no width of its own to be coloured or pointed at.
    shown = text(piece).replace('\n', '\u21b5\n')
    spans.append(
      f'<span class="{_token_class(depth, levels)}" data-hint="{text(hint)}"'
      f'{_hue(depth, levels)}>{shown}</span>'
    )
  return f'<pre>{"".join(spans)}</pre>'


def depth_legend(levels: Sequence[int]) -> str:
  """Return the meaning of the colours of `coloured_tokens`."""
  keys = ''.join(
    f'<span class="key {_token_class(d, levels)}"{_hue(d, levels)}>depth {d}'
    f'{" (full)" if d == levels[-1] else ""}</span>'
    for d in levels
  )
  return f'<div>{keys}</div>'


@dataclasses.dataclass(frozen=True)
class TokenCell:
  """Cell of a token grid: the likeliest token of one depth.

  Attributes:
    piece: its likeliest token, as text.
    sure: that token's probability.
    same: whether it is the full model's.
    settled: whether it stays so from here on, and did not before.
    hint: what is shown when it is pointed at; lines are kept.
  """

  piece: str
  sure: float
  same: bool
  settled: bool
  hint: str


def token_grid(
  tokens: Sequence[str],
  depths: Sequence[str],
  readings: Sequence[Sequence[TokenCell]],
) -> str:
  """Return what every depth says after every token of a text.

  Cells show more when they are pointed at or, on a phone, touched.

  Args:
    tokens: text of each token.
    depths: names of the columns.
    readings: a list for each token, of one for each depth.
  """
  head = ''.join(f'<th>{text(d)}</th>' for d in depths)
  body = ''.join(
    f'<tr><th>{_visible(token)}</th>{"".join(map(_reading, line))}</tr>'
    for token, line in zip(tokens, readings, strict=True)
  )
  return (
    '<div class="wide"><table class="grid-of-tokens"><thead><tr><th>token</th>'
    f'{head}</tr></thead><tbody>{body}</tbody></table></div>'
  )


def _reading(reading: TokenCell) -> str:
  kind = 'reading same' if reading.same else 'reading'
  if reading.settled:
    kind += ' settled'
  # A line feed in an attribute would be read as a space by some.
  hint = text(reading.hint).replace('\n', '&#10;')
  return (
    f'<td><span class="{kind}" tabindex="0" data-hint="{hint}" '
    f'style="--sure:{100 * reading.sure:.0f}%">{_visible(reading.piece)}'
    '</span></td>'
  )


def _visible(piece: str) -> str:
  """Return a token with what has no width of its own made visible."""
  if not piece:
    return '\u2205'
  marked = piece.replace('\n', '\u21b5').replace('\t', '\u21e5')
  return text(marked.replace(' ', '\u00b7') if not marked.strip() else marked)


def verdict(words: str, *, kind: str) -> str:
  """Return the sentences a page is read for.

  Args:
    words: plain text.
    kind: 'yes', 'maybe' or 'no'; sets the colour beside it.
  """
  return f'<div class="verdict {text(kind)}">{text(words)}</div>'


def _token_class(depth: int, levels: Sequence[int]) -> str:
  return 'token full' if depth == levels[-1] else 'token'


def _hue(depth: int, levels: Sequence[int]) -> str:
  """Return the attribute that colours a token of an exit."""
  if depth == levels[-1]:
    return ''
  place = list(levels).index(depth) / max(len(levels) - 2, 1)
  return f' style="--hue:{_hue_at(place):.0f}"'


def _hue_at(place: float) -> float:
  return (FIRST_HUE + (LAST_HUE - FIRST_HUE) * place) % 360


def _cell(value: object) -> str:
  if value is None:
    return '&ndash;'
  if isinstance(value, float):
    return text(svg.number(value))
  return text(value)
