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
"""What every recipe returns: a result that shows, draws and saves itself."""

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eejax import formatting, serialization, storage
from eejax.errors import ArgumentError
from eejax.report import page
from eejax.storage import AnyPath

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure


class Result:
  """Base of results: frozen dataclasses of what a recipe measured or made.

  A subclass overrides `summary`, and of the others what it has: `table` for a
  table, `to_json` where its fields are not all plain, `page` where it has a
  page of its own, `draw` for a picture.

  In a notebook a result shows its summary and its table; `print` shows the
  same as text.
  """

  title = 'eejax'

  def summary(self) -> str:
    """Return what came out, in a sentence or two."""
    raise NotImplementedError(f'{type(self).__name__} has no summary')

  def table(self) -> list[dict[str, Any]]:
    """Return the lines of a table; the first one names the columns."""
    return []

  def to_json(self) -> dict[str, Any]:
    """Return everything as plain values that `json` can write."""
    return serialization.plain(self)

  def page(self) -> str:
    """Return a self-contained HTML page."""
    return page.page(
      self.title, f'<h1>{page.text(self.title)}</h1>\n{self.content()}'
    )

  def draw(self, axes: 'Axes') -> None:
    """Draw the picture into matplotlib axes."""
    raise ArgumentError(f'{type(self).__name__} has no picture to draw.')

  def plot(self) -> 'Figure':
    """Return a picture, as a matplotlib figure.

    Raises:
      ArgumentError: matplotlib is not installed.
    """
    try:
      from matplotlib.figure import Figure
    except ImportError as error:
      raise ArgumentError(
        "pictures need matplotlib; install it with pip install 'eejax[plot]'."
      ) from error
    figure = Figure(figsize=(7.0, 4.0), layout='constrained')
    self.draw(figure.subplots())
    return figure

  def save(self, path: str | os.PathLike) -> AnyPath:
    """Write the result as `.json`, as a page `.html` or a picture `.png`.

    The file is written whole or not at all.

    Raises:
      ArgumentError: the ending is another, or the file cannot be written.
    """
    path = storage.as_path(path)
    writers = {
      '.json': lambda: serialization.write_json(path, self.to_json()),
      '.html': lambda: serialization.write_text(path, self.page()),
      '.png': lambda: self._save_picture(path),
    }
    if path.suffix not in writers:
      raise ArgumentError(
        f'a result is saved as .json, .html or .png, not as {path.name}.'
      )
    serialization.check_writable(path)
    writers[path.suffix]()
    return path

  def _save_picture(self, path: AnyPath) -> None:
    picture = io.BytesIO()
    self.plot().savefig(picture, format='png', dpi=150)
    serialization.write_bytes(path, picture.getvalue())

  def content(self) -> str:
    """Return what a page shows of the result, as HTML."""
    return page.paragraph(self.summary()) + page.table(self.table())

  def _repr_html_(self) -> str:
    return page.fragment(self.content())

  def __str__(self) -> str:
    table = formatting.table(self.table())
    return f'{self.summary()}\n\n{table}' if table else self.summary()


def interval_text(interval: Any, *, digits: int, scale: float = 1) -> str:
  """Return an estimate with its interval, as in `2.31 (2.25 to 2.38)`.

  Args:
    interval: has `value`, `low` and `high`.
    digits: after the point.
    scale: all three are multiplied by it.
  """
  value, low, high = (
    f'{scale * x:.{digits}f}'
    for x in (interval.value, interval.low, interval.high)
  )
  return f'{value} ({low} to {high})'


def without_nones(values: Mapping[str, Any]) -> dict[str, Any]:
  """Return the entries that have a value."""
  return {name: value for name, value in values.items() if value is not None}
