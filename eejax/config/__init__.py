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
"""Frozen, validated descriptions of a model and its exits.

These say what a model *is*; how it is trained or decoded lives with the
training and decoding packages. Every class checks itself on construction, so
code that receives one need not check again.
"""

from eejax.config.block import (
  Activation as Activation,
)
from eejax.config.block import (
  MLPKind as MLPKind,
)
from eejax.config.block import (
  NormKind as NormKind,
)
from eejax.config.block import (
  NormPlacement as NormPlacement,
)
from eejax.config.block import (
  PositionKind as PositionKind,
)
from eejax.config.block import (
  QKNormSpan as QKNormSpan,
)
from eejax.config.block import (
  Residual as Residual,
)
from eejax.config.exits import (
  EarlyExitConfig as EarlyExitConfig,
)
from eejax.config.exits import (
  ExitConfig as ExitConfig,
)
from eejax.config.exits import (
  ExitHeadKind as ExitHeadKind,
)
from eejax.config.exits import (
  GateKind as GateKind,
)
from eejax.config.exits import (
  Initialization as Initialization,
)
from eejax.config.exits import (
  OutputMatrix as OutputMatrix,
)
from eejax.config.exits import (
  exit_name as exit_name,
)
from eejax.config.exits import (
  parse_exits as parse_exits,
)
from eejax.config.model import ModelConfig as ModelConfig
from eejax.config.rotary import (
  RotaryConfig as RotaryConfig,
)
from eejax.config.rotary import (
  RotaryScaling as RotaryScaling,
)
