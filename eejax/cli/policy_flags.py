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
"""The flags that say when exits are used, and the policy that they mean."""

import argparse
from typing import TYPE_CHECKING, Any

from eejax.cli.gin import policy as gin_policy
from eejax.decoding.policy import defaults
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.config import EarlyExitConfig
  from eejax.decoding.policy.policy import Policy

FULL, EARLY_EXIT, SPECULATIVE = 'full', 'early_exit', 'speculative'
MODES = (FULL, EARLY_EXIT, SPECULATIVE)
KV_STRATEGIES = (
  'deferred',
  'recompute',
  'propagate',
  'copy',
  'mask',
  'monotone',
)
BATCHINGS = ('ride_along', 'depth_queue', 'reference')

_DRAFT_NAMES = ('draft_depth', 'draft_length', 'prompt_lookup')
_NAMES = (
  'criterion',
  'threshold',
  'window',
  'minimum_depth',
  'kv_strategy',
  'batching',
  'threshold_rule',
  'scored_vocabulary',
  *_DRAFT_NAMES,
)


def add_mode_argument(group: argparse._ArgumentGroup) -> None:
  """Add `--mode`."""
  group.add_argument(
    '--mode',
    choices=MODES,
    help=(
      'full uses no exits; early_exit emits the token of an exit that is sure; '
      'speculative lets the text so far and exits draft and the whole model '
      'verify, so the text is that of full (default: full, or early_exit if a '
      'flag below is given)'
    ),
  )


def add_policy_arguments(group: argparse._ArgumentGroup) -> None:
  """Add the flags of early exit alone."""
  group.add_argument(
    '--kv-strategy',
    choices=KV_STRATEGIES,
    help=(
      'what stands in for keys and values of skipped blocks: deferred and '
      'recompute are exact, the others approximate (default: deferred)'
    ),
  )
  group.add_argument(
    '--threshold-rule',
    metavar='RULE',
    help=(
      'how thresholds change along a text: constant, decaying(T) or '
      'adaptive(C) (default: constant)'
    ),
  )


def add_drafting_arguments(group: argparse._ArgumentGroup) -> None:
  """Add the flags that early exit and speculation share, and speculation's."""
  group.add_argument(
    '--policy', metavar='FILE', help='a policy that was saved as JSON'
  )
  group.add_argument(
    '--uncertified',
    action='store_true',
    help=(
      "leave the policy's certificate out, to use it where nothing was "
      'certified'
    ),
  )
  group.add_argument(
    '--criterion',
    metavar='NAME',
    help=(
      'the score: gate, max_prob, margin, entropy, patience, cosine, js, kl, '
      'static or schedule (default: gate where every exit has one, else '
      'max_prob)'
    ),
  )
  group.add_argument(
    '--threshold',
    metavar='T[,T...]',
    help=(
      'exit, or go on drafting, iff the score reaches it: a number in [0, 1] '
      'or never, for all exits or one an exit (default: '
      f'{defaults.THRESHOLDS[EARLY_EXIT]}; speculative: '
      f'{defaults.THRESHOLDS[SPECULATIVE]})'
    ),
  )
  group.add_argument(
    '--window',
    type=int,
    metavar='N',
    help='every N-th token at the latest goes to full depth (default: 8)',
  )
  group.add_argument(
    '--minimum-depth',
    type=int,
    metavar='N',
    help='exits shallower than this are not used (default: 0)',
  )
  group.add_argument(
    '--batching',
    choices=BATCHINGS,
    help=(
      'which rows of a batch wait for which: ride_along runs a block when any '
      'row needs it, depth_queue gathers rows that need depth until running it '
      'pays, reference runs everything (default: ride_along)'
    ),
  )
  group.add_argument(
    '--scored-vocabulary',
    metavar='WHICH',
    help=(
      'tokens that scores are computed over: whole, frequent(N), the first N, '
      'of which drafts then come, too, or candidates(N), the N likeliest at '
      'the first exit (default: whole)'
    ),
  )
  _add_draft_arguments(group)


def _add_draft_arguments(group: argparse._ArgumentGroup) -> None:
  """Add the flags of speculation alone."""
  group.add_argument(
    '--draft-depth',
    type=int,
    metavar='N',
    help=(
      'the exit that drafts in speculative mode (default: any, whichever has '
      'paid lately)'
    ),
  )
  group.add_argument(
    '--draft-length',
    type=int,
    metavar='N',
    help=(
      'tokens drafted at most before they are verified (default: as many as '
      'have paid lately, fewer than the window)'
    ),
  )
  group.add_argument(
    '--prompt-lookup',
    type=int,
    metavar='N',
    help=(
      'where the last N tokens stood in the text before, draft what followed '
      'them there; exits draft elsewhere; 0 leaves it to exits alone '
      f'(speculative mode; default: {defaults.PROMPT_LOOKUP})'
    ),
  )
  # Its former name.
  group.add_argument(
    '--draft-lookup',
    type=int,
    dest='prompt_lookup',
    default=argparse.SUPPRESS,
    help=argparse.SUPPRESS,
  )


def chosen_policy(
  args: argparse.Namespace, config: 'EarlyExitConfig'
) -> 'Policy':
  """Return the policy that flags ask for.

  Raises:
    ArgumentError: flags contradict one another, or the model.
  """
  from eejax.decoding.policy.policy import Policy

  given = _given(args, _NAMES)
  described = gin_policy.read(args)
  if args.policy:
    if given:
      raise ArgumentError(
        f'a policy says what {_flags(given)} says; give one of them.'
      )
    loaded = Policy.load(args.policy, certified=not args.uncertified)
    return loaded.with_mode(args.mode)
  if described is not None:
    if not gin_policy.is_criterion_alone(described):
      return _described_alone(described, args, given)
    given.setdefault('criterion', described.criterion)
    args = argparse.Namespace(**{**vars(args), **given})
  if args.mode == FULL and given:
    raise ArgumentError(
      f'--mode full uses no exits, so it takes no {_flags(given)}.'
    )
  if args.mode == FULL or (args.mode is None and not given):
    return Policy()
  _check_drafting(args)
  return _policy_of(args, mode=args.mode or EARLY_EXIT, config=config)


def _described_alone(
  policy: 'Policy', args: argparse.Namespace, given: dict[str, Any]
) -> 'Policy':
  """Return a policy that gin describes, which no flag may contradict."""
  if given:
    raise ArgumentError(
      f'the gin files say what {_flags(given)} says; give one of them.'
    )
  return policy.with_mode(args.mode)


def _check_drafting(args: argparse.Namespace) -> None:
  drafting = _given(args, _DRAFT_NAMES)
  if drafting and args.mode != SPECULATIVE:
    raise ArgumentError(
      f'drafts are for --mode speculative; add it, or leave {_flags(drafting)} '
      'out.'
    )
  if args.draft_length is not None and args.window is not None:
    raise ArgumentError(
      '--draft-length says how long the window is; leave --window out.'
    )


def _policy_of(
  args: argparse.Namespace, *, mode: str, config: 'EarlyExitConfig'
) -> 'Policy':
  """Return a policy whose fields are the flags that were given."""
  from eejax.decoding.policy.batching import Batching
  from eejax.decoding.policy.defaults import complete_policy
  from eejax.decoding.policy.policy import KVStrategy, Mode
  from eejax.decoding.policy.threshold_values import parse_thresholds

  kinds = {'kv_strategy': KVStrategy, 'batching': Batching}
  fields: dict[str, Any] = {
    name: kinds.get(name, lambda value: value)(value)
    for name, value in _given(args, _NAMES).items()
    if name != 'threshold'
  }
  if args.threshold is not None:
    fields['thresholds'] = parse_thresholds(args.threshold)
  return complete_policy(config, mode=Mode(mode), **fields)


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
  """Return the flags of `names` that the verb has and that were typed."""
  values = {name: getattr(args, name, None) for name in names}
  return {name: value for name, value in values.items() if value is not None}


def _flags(names: dict[str, Any]) -> str:
  return ', '.join('--' + name.replace('_', '-') for name in names)
