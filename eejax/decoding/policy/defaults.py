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
"""What a policy says where nobody says it.

Constants stand here without jax, for the help of the command line names them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from eejax.config import EarlyExitConfig
  from eejax.decoding.policy.policy import Policy

# What is asked of a score, by mode. An exit's token is final in early exit, so
# it has to be sure. A wrong draft costs time alone: one is worth its while as
# soon as its chance to be kept, which a score of probability estimates, is
# above the share of a token's cost that it takes, 0.2 to 0.5 for exits in the
# first half. transformers stops its drafts at 0.4, too.
THRESHOLDS = {'early_exit': '0.9', 'speculative': '0.4'}

# Tokens that must have stood in a text before for what followed them to be
# drafted; 0 looks nothing up. A draft from the text costs no block, and the
# number of them follows what was kept, so it is on where nothing is said.
PROMPT_LOOKUP = 2

# Tokens that a text gets at most.
MAX_NEW_TOKENS = 128


def complete_policy(config: 'EarlyExitConfig', **fields: Any) -> 'Policy':
  """Return a policy for a model, what is not given chosen for its mode.

  Args:
    config: the model with its exits.
    **fields: of `Policy`, `mode` among them. Without `criterion` it is the
      gate where every exit has one, else the probability; without
      `thresholds` what the mode asks for; `prompt_lookup` 0 looks nothing up.

  Raises:
    ArgumentError: the model has no exits, or fields do not fit it or one
      another.
  """
  from eejax.decoding.policy import criteria
  from eejax.decoding.policy.policy import Mode, Policy
  from eejax.decoding.policy.threshold_values import parse_thresholds

  mode = Mode(fields['mode'])
  if mode is not Mode.FULL:
    fields.setdefault('criterion', criteria.default_criterion(config))
    fields.setdefault('thresholds', parse_thresholds(THRESHOLDS[mode.value]))
  if mode is Mode.SPECULATIVE:
    lookup = fields.get('prompt_lookup', PROMPT_LOOKUP)
    fields['prompt_lookup'] = lookup or None
  policy = Policy(**fields)
  if mode is not Mode.FULL:
    policy.usable_exits(config)
  return policy
