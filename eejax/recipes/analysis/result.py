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
"""Result of an analysis: sections as plain values, a page, tables, a picture.

The files of a folder of an analysis:

  analysis.json     all results as plain values; `report.html` is made of them
  report.html       the page, one file
  tables/*.csv      every table of it
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eejax import serialization, storage
from eejax.errors import ArgumentError
from eejax.recipes.result import Result
from eejax.report import analysis_page, analysis_tables
from eejax.storage import AnyPath

if TYPE_CHECKING:
  from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class AnalysisResult(Result):
  """Everything that an analysis came to.

  Attributes:
    values: plain values, as `analysis.json` keeps them: `sections` has each
      section by name, `failures` a sentence for each that could not be
      computed, `about` the model and the text.
    folder: where all of it is kept, if anywhere.
  """

  values: Mapping[str, Any] = dataclasses.field(repr=False)
  folder: pathlib.Path | None = None

  @property
  def sections(self) -> Mapping[str, Any]:
    """Return the sections by name."""
    return self.values['sections']

  @property
  def failures(self) -> Mapping[str, str]:
    """Return why each section that is missing could not be computed."""
    return self.values['failures']

  @property
  def verdict(self) -> Mapping[str, Any] | None:
    """Return the verdict of `eejax.probe` on the text, where there is one."""
    return self.sections.get('verdict')

  def summary(self) -> str:
    """Return the verdict, or else a ceiling or score, and what failed."""
    sentences = [self._headline()]
    if self.failures:
      reasons = ' '.join(f'{k}: {v}' for k, v in self.failures.items())
      sentences.append(f'Not everything could be computed. {reasons}')
    return ' '.join(sentences)

  def _headline(self) -> str:
    sections = self.sections
    if self.verdict:
      return self.verdict['headline']
    if sections.get('suitability'):
      ceiling = sections['suitability']['headroom']['stable']
      return (
        'A policy that knew the stable depth of every token could skip '
        f'{_percent(ceiling)} % of the blocks of {self.values["name"]}.'
      )
    if sections.get('comparison'):
      models = sections['comparison']['models']
      measured = sum(m['eas'] is not None for m in models)
      return f'{measured} of {len(models)} models could be measured.'
    names = ', '.join(sections)
    return f'{self.values["name"]} was analysed: {names}.'

  def table(self) -> list[dict[str, Any]]:
    """Return a line for each depth, or for each model that is compared."""
    sections = self.sections
    if sections.get('natural'):
      return [
        {
          'read-out': r['readout']['name'].replace('_', ' '),
          'loss': r['figures']['loss']['value'],
          'agrees %': _percent(r['figures']['agreement']),
          'right %': _percent(r['figures']['accuracy']),
        }
        for r in sections['natural']['readouts']
        if r['readout']['kind'] != 'attention'
      ]
    if sections.get('comparison'):
      return [
        {
          'model': m['entry']['name'],
          'EAS': None if m['eas'] is None else m['eas']['value'],
          'stable-depth ceiling': m['stable'],
        }
        for m in sections['comparison']['models']
      ]
    return []

  def tables(self) -> dict[str, list[dict[str, Any]]]:
    """Return every table by name, numbers not rounded."""
    return analysis_tables.tables(self.sections)

  def to_json(self) -> dict[str, Any]:
    """Return `values`."""
    return dict(self.values)

  def page(self) -> str:
    """Return a self-contained HTML page."""
    return analysis_page.render(self.values)

  def draw(self, axes: 'Axes') -> None:
    """Draw agreement with the full model by depth.

    Raises:
      ArgumentError: the section `natural` was not computed.
    """
    if not self.sections.get('natural'):
      raise ArgumentError("the picture needs the section 'natural'.")
    for kind, label in (
      ('natural', 'natural exits'),
      ('exit', 'trained exits'),
    ):
      entries = [
        r
        for r in self.sections['natural']['readouts']
        if r['readout']['kind'] == kind
      ]
      if entries:
        depths = [r['readout']['depth'] for r in entries]
        agreement = [r['figures']['agreement'] for r in entries]
        axes.plot(
          depths, [a['value'] for a in agreement], marker='.', label=label
        )
        low, high = ([a[end] for a in agreement] for end in ('low', 'high'))
        axes.fill_between(depths, low, high, alpha=0.2)
    axes.set(xlabel='depth', ylabel='agreement with the full model')
    axes.legend()

  def save(self, path: str | os.PathLike) -> AnyPath:
    """Write a `.json`, `.html` or `.png` file, or a folder with everything.

    Raises:
      ArgumentError: it cannot be written.
    """
    path = storage.as_path(path)
    if path.suffix in ('.json', '.html', '.png'):
      return super().save(path)
    serialization.check_writable(path / 'analysis.json')
    serialization.write_json(path / 'analysis.json', self.values, indent=1)
    for name, rows in self.tables().items():
      csv = analysis_tables.as_csv(rows)
      serialization.write_text(path / 'tables' / f'{name}.csv', csv)
    serialization.write_text(path / 'report.html', self.page())
    return path


def _percent(interval: Mapping[str, float]) -> str:
  value, low, high = (100 * interval[k] for k in ('value', 'low', 'high'))
  return f'{value:.1f} ({low:.1f} to {high:.1f})'
