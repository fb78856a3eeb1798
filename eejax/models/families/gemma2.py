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
"""Gemma 2: soft caps, and a window in every other block."""

import functools

from eejax.models.families import gemma
from eejax.models.families.family import Family

GEMMA2 = Family(
  model_type='gemma2',
  architecture='Gemma2ForCausalLM',
  defaults={
    **gemma.DEFAULTS,
    'max_position_embeddings': 8192,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
  },
  own_keys=gemma.KEYS,
  read=functools.partial(gemma.read, every=2),
  write=gemma.write,
  names=gemma.NAMES,
  renamed=gemma.RENAMED,
  fixed=gemma.FIXED,
  tied_head=True,
)
