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
"""What decoding does with exits, and with keys and values they skip."""

import enum


class Mode(enum.Enum):
  """What decoding does with exits.

  FULL: exits are not compiled in.
  EARLY_EXIT: a row that is confident enough takes an exit's token.
  SPECULATIVE: exits draft and the whole model verifies; what is emitted is
  what the whole model would have emitted.
  """

  FULL = 'full'
  EARLY_EXIT = 'early_exit'
  SPECULATIVE = 'speculative'


class KVStrategy(enum.Enum):
  """What stands in for keys and values of blocks a token skipped.

  DEFERRED: they are computed later, exactly; see `eejax.decoding.loop.carry`.
  RECOMPUTE: exactly, too, by running every token since the last one at full
  depth from the embedding on (EE-LLM, arXiv 2312.04916, KV recomputation).
  PROPAGATE: each skipped block projects the stream at the exit (CALM, arXiv
  2207.07061, section 2.2).
  COPY: those of the last block that ran.
  MASK: nothing does; later tokens do not see the token there.
  MONOTONE: nothing needs to, for no later token goes deeper (SkipDecode,
  arXiv 2307.02628).
  """

  DEFERRED = 'deferred'
  RECOMPUTE = 'recompute'
  PROPAGATE = 'propagate'
  COPY = 'copy'
  MASK = 'mask'
  MONOTONE = 'monotone'

  @property
  def is_exact(self) -> bool:
    """Return whether keys and values are those of a full-depth pass."""
    return self in (KVStrategy.DEFERRED, KVStrategy.RECOMPUTE)

  @property
  def fills(self) -> bool:
    """Return whether approximate keys and values are written for skips."""
    return self in (KVStrategy.PROPAGATE, KVStrategy.COPY, KVStrategy.MASK)
