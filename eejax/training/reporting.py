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
"""How the loop talks to whoever shows its progress."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
  """Tell a person how a run goes."""

  def start(self, *, step: int, steps: int) -> None:
    """Begin at `step` of `steps`."""

  def advance(self, count: int, values: Mapping[str, float]) -> None:
    """Count `count` steps more and show `values`."""

  def evaluated(self, step: int, values: Mapping[str, float]) -> None:
    """Show held-out means."""

  def say(self, text: str) -> None:
    """Print a sentence."""

  def close(self) -> None:
    """End."""


class Silence:
  """Tell nobody anything."""

  def start(self, *, step: int, steps: int) -> None:
    """Do nothing."""

  def advance(self, count: int, values: Mapping[str, float]) -> None:
    """Do nothing."""

  def evaluated(self, step: int, values: Mapping[str, float]) -> None:
    """Do nothing."""

  def say(self, text: str) -> None:
    """Do nothing."""

  def close(self) -> None:
    """Do nothing."""
