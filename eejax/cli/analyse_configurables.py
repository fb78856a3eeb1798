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
"""Let gin files name what an analysis is made of.

Importing this module registers it; only the command line does.
"""

import gin

from eejax.analysis.sections import SectionSettings
from eejax.analysis.suitability.gate_scores import Gate
from eejax.analysis.suitability.score import (
  DepthRange,
  ScoreSettings,
  Similarity,
)
from eejax.analysis.suitability.skip import SweepSettings
from eejax.capture.captured import ReadoutKind
from eejax.cli import analysing
from eejax.cli.analysing_capture import Generates, Reads
from eejax.cli.measuring import Text
from eejax.stats.bootstrap import Bootstrap

OWN = (
  Bootstrap,
  ScoreSettings,
  SectionSettings,
  SweepSettings,
  Text,
  analysing.analyse,
)
ENUMS = (DepthRange, Gate, ReadoutKind, Similarity, Reads, Generates)


def _register() -> None:
  # Another verb may have run in this process, and locked what it ended with.
  with gin.unlock_config():
    for configurable in OWN:
      gin.external_configurable(configurable, module='eejax')
    for kind in ENUMS:
      gin.constants_from_enum(kind, module='eejax')


_register()
