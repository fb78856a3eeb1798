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
"""Plans: the static shape of a decoding program.

A plan says which blocks run before which exit; everything that changes from
call to call (thresholds, sampling settings, prompts) is data. Two policies
with equal plans share one compiled program.
"""

import dataclasses
import enum

import jax

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  ModelConfig,
)
from eejax.decoding.policy.batching import Batching, head_in_blocks
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy, Threshold
from eejax.errors import ArgumentError
from eejax.ops.sampling import SamplingMethod

# As many as the OpenAI API lets ask for.
MOST_TOP_LOGPROBS = 20


class Drafting(enum.Enum):
  """How many tokens are drafted before they are verified.

  FIXED: as many as there is room for. ADAPTIVE: as many as have paid lately,
  none if none would.
  """

  FIXED = 'fixed'
  ADAPTIVE = 'adaptive'


@dataclasses.dataclass(frozen=True)
class Segment:
  """Segment of blocks and the head that stands after it.

  Attributes:
    first: first block of the segment, 0-based.
    last: one past its last block; the depth its head reads at.
    exit: the exit read there; None is the model's final head.
  """

  first: int
  last: int
  exit: ExitConfig | None

  @property
  def needed_exit(self) -> ExitConfig:
    """Return the exit of a segment that has one."""
    assert self.exit is not None
    return self.exit

  @property
  def has_block_head(self) -> bool:
    """Return whether the exit has a block, with keys and values, of its own."""
    return self.exit is not None and self.exit.head is ExitHeadKind.BLOCK

  @property
  def num_caches(self) -> int:
    """Return how many blocks keep keys and values here."""
    return self.last - self.first + self.has_block_head


@dataclasses.dataclass(frozen=True)
class DecodePlan:
  """Static shape of a decoding program.

  Invariants: segments touch; every segment but the last has an exit; a row that
  takes no earlier exit takes the last segment's head. Where the text alone
  drafts there is one segment, the whole model.

  Attributes:
    config: the model with all its exits.
    segments: what runs, in order.
    criterion: which score is asked; '' without exits.
    window: how many tokens at most go through a segment together.
    widths: the compiled widths of such windows, rising, `window` the last.
    method: how tokens are chosen.
    mode: what is done with exits.
    kv_strategy: what stands in for keys and values of skipped blocks.
    batching: which rows wait for which.
    drafting: whether the length of drafts follows acceptance.
    prompt_lookup: how many tokens at a text's end must have stood in it before
      for what followed to be drafted; None looks nothing up.
    threshold_rule: how thresholds change while a row is decoded.
    scored_vocabulary: which tokens a score is computed over.
    patience: steps after which a segment runs whenever some row needs it, under
      DEPTH_QUEUE; None where the window sees to that.
    top_logprobs: how many of the likeliest tokens are kept beside the chosen
      one, for rows that want them.
  """

  config: EarlyExitConfig
  segments: tuple[Segment, ...]
  criterion: str
  window: int
  widths: tuple[int, ...]
  method: SamplingMethod
  mode: Mode = Mode.FULL
  kv_strategy: KVStrategy = KVStrategy.DEFERRED
  batching: Batching = Batching.RIDE_ALONG
  drafting: Drafting = Drafting.ADAPTIVE
  prompt_lookup: int | None = None
  threshold_rule: str = 'constant'
  scored_vocabulary: str = 'whole'
  patience: int | None = None
  top_logprobs: int = 0

  @property
  def depth(self) -> int:
    """Return how many blocks the plan can run at most."""
    return self.segments[-1].last

  @property
  def num_exits(self) -> int:
    """Return how many segments a row may leave before the last."""
    return len(self.segments) - 1

  @property
  def costs(self) -> tuple[float, ...]:
    """Return what each segment and its head read, in blocks."""
    head = head_in_blocks(self.config)
    return tuple(segment.num_caches + head for segment in self.segments)


def make_plan(
  config: EarlyExitConfig,
  *,
  policy: Policy,
  method: SamplingMethod,
  top_logprobs: int = 0,
  device: jax.Device | None = None,
) -> tuple[DecodePlan, tuple[Threshold, ...]]:
  """Return the program a policy asks for, and the thresholds it reads.

  An exit with threshold 0 is always taken, so the model ends there: deeper
  blocks are not run, have no cache and nothing to catch up. An exit that is
  never taken, where others may be, is left out, so nobody asks it; where all
  are never taken they stay, which is what exits cost that help nobody, unless
  the text drafts without them.

  Args:
    config: the model.
    policy: when to exit.
    method: how tokens are chosen.
    top_logprobs: how many of the likeliest tokens are kept beside the chosen
      one; at most `MOST_TOP_LOGPROBS`.
    device: any device of the machine it will run on; None is the one that is
      taken.

  Returns:
    The plan, and a threshold for each of its exits but a last one.

  Raises:
    ArgumentError: the policy cannot be used with the model, or more tokens
      are to be kept than may.
  """
  check_top_logprobs(top_logprobs, config=config.model)
  whole = config.model.num_layers
  if policy.mode is Mode.FULL:
    whole_model = (Segment(0, whole, None),)
    return DecodePlan(
      config, whole_model, '', 1, (1,), method, top_logprobs=top_logprobs
    ), ()
  segments, thresholds = _segments(config, policy)
  waits = len(segments) > 1 or policy.drafts_from_text
  window = _window(policy) if waits else 1
  if window > config.model.max_length:
    raise ArgumentError(
      f'a window of {window} tokens is longer than the context of the model, '
      f'{config.model.max_length}.'
    )
  plan = DecodePlan(
    config=config,
    segments=segments,
    criterion=policy.criterion,
    window=window,
    widths=window_widths(window, device=device),
    method=method,
    mode=policy.mode,
    kv_strategy=policy.kv_strategy,
    batching=policy.batching,
    drafting=(
      Drafting.ADAPTIVE if policy.draft_length is None else Drafting.FIXED
    ),
    prompt_lookup=(
      policy.prompt_lookup if policy.mode is Mode.SPECULATIVE else None
    ),
    threshold_rule=policy.threshold_rule,
    scored_vocabulary=policy.scored_vocabulary,
    patience=None if policy.kv_strategy.is_exact else policy.window,
    top_logprobs=top_logprobs,
  )
  return plan, thresholds


def check_top_logprobs(top_logprobs: int, *, config: ModelConfig) -> None:
  """Check how many of the likeliest tokens are wanted beside each one.

  Raises:
    ArgumentError: there are not so many, or it is more than may be.
  """
  most = min(MOST_TOP_LOGPROBS, config.vocab_size)
  if not 0 <= top_logprobs <= most:
    raise ArgumentError(
      f'top_logprobs must be from 0 to {most}, not {top_logprobs}.'
    )


def _segments(
  config: EarlyExitConfig, policy: Policy
) -> tuple[tuple[Segment, ...], tuple[Threshold, ...]]:
  """Return what runs, and the threshold of each segment but the last."""
  usable = policy.usable_exits(config)
  asked = tuple(x for x in usable if x[1] is not None)
  usable = asked if policy.drafts_from_text else asked or usable
  drafts = policy.mode is Mode.SPECULATIVE
  if drafts:
    usable = _drafting(usable, policy, config)
  is_recurrent = config.model.state_space is not None
  if policy.kv_strategy is KVStrategy.COPY and is_recurrent:
    raise ArgumentError(
      'the kv strategy copy puts the keys and values of one block in place of '
      "another's, and a state of a recurrent block means nothing to another; "
      'use deferred, propagate or mask.'
    )
  if policy.kv_strategy is KVStrategy.COPY and usable[0][0].depth == 0:
    raise ArgumentError(
      'the kv strategy copy copies from the last block that ran, and there is '
      'none before the exit at depth 0; use minimum depth 1, or another '
      'strategy.'
    )
  segments: list[Segment] = []
  thresholds: list[Threshold] = []
  first = 0
  for exit, threshold in usable:
    segments.append(Segment(first, exit.depth, exit))
    first = exit.depth
    if threshold == 0 and not drafts:
      break
    thresholds.append(threshold)
  else:
    segments.append(Segment(first, config.model.num_layers, None))
  return tuple(segments), tuple(thresholds)


def _drafting(
  usable: tuple[tuple[ExitConfig, Threshold], ...],
  policy: Policy,
  config: EarlyExitConfig,
) -> tuple[tuple[ExitConfig, Threshold], ...]:
  """Return the exits that may draft: there must be blocks left to save."""
  whole = config.model.num_layers
  drafters = tuple(x for x in usable if x[0].depth < whole)
  if policy.draft_depth is not None:
    config.exit_at(policy.draft_depth)
    drafters = tuple(x for x in drafters if x[0].depth == policy.draft_depth)
  if not drafters and not policy.drafts_from_text:
    raise ArgumentError(
      'no exit of this model can draft: it takes one below depth '
      f'{whole}, at the draft depth if one is given, as deep as the minimum '
      'depth.'
    )
  return drafters


def _window(policy: Policy) -> int:
  """Return how many tokens of a row may wait for a segment together."""
  if policy.mode is Mode.SPECULATIVE and policy.draft_length is not None:
    # The token that was emitted last is fed before the drafts.
    return policy.draft_length + 1
  if policy.kv_strategy.is_exact:
    return policy.window
  return 1


def window_widths(
  window: int, *, device: jax.Device | None = None
) -> tuple[int, ...]:
  """Return which window widths are compiled, rising.

  On a CPU powers of two, so that a window is at most half padding: there each
  token of a window costs arithmetic of its own. Accelerators compute a window
  while they read the weights, so they have one width: another one would ask a
  TPU for weights in another layout, and double the time to compile.

  Args:
    window: the widest.
    device: any device of the machine; None is the one that is taken.
  """
  platform = jax.default_backend() if device is None else device.platform
  if platform != 'cpu':
    return (window,)
  widths = [1]
  while widths[-1] * 2 < window:
    widths.append(widths[-1] * 2)
  return tuple(sorted({*widths, window}))


def bucket(length: int, *, smallest: int) -> int:
  """Return the padded length for `length`, one of few.

  Lengths are `smallest` times powers of two and once and a half of them, so
  programs are few and at most a third of a length is padding.
  """
  size = smallest
  while size < length:
    if size + size // 2 >= length and size % 2 == 0:
      return size + size // 2
    size *= 2
  return size
