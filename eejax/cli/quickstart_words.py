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
"""What the quickstart's figures mean, in words."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from eejax.decoding.policy.threshold_values import format_thresholds

Values = Mapping[str, Any]
# A speed-up below this is called none.
_PAYS = 1.05


def with_words(summary: dict[str, Any]) -> dict[str, Any]:
  """Return a summary with the sentences that report and terminal show."""
  return {
    **summary,
    'meaning': meaning(summary),
    'calibration': calibration(summary),
    'about_samples': about_samples(summary),
    'limits': limits(summary),
  }


def meaning(summary: Values) -> list[str]:
  """Return a few sentences for someone in a hurry."""
  sentences = _headline(summary)
  if summary['speed']['calibrated']['measured']['value'] < _PAYS:
    sentences.append(why_not(summary))
  if summary['speed'].get('lossless'):
    sentences.append(lossless(summary['speed']))
  if summary['model']['backbone_unchanged']:
    sentences.append('Not a byte of the backbone was changed by tuning.')
  return sentences


def uses_exits(summary: Values) -> bool:
  """Return whether the calibrated setting ever takes an exit."""
  thresholds = summary['sweep']['calibrated']['thresholds']
  return any(t is not None for t in thresholds)


def _headline(summary: Values) -> list[str]:
  speed = summary['speed']['calibrated']
  best = summary['sweep']['calibrated']
  agreement = best['held_out']['agreement']
  sentence = summary['sweep']['certified']['sentence']
  if not uses_exits(summary):
    return [
      f'No thresholds could be certified for {best["target"]:.0%} agreement '
      f'with full decoding, so the calibrated setting is full decoding: '
      f'{sentence}'
    ]
  return [
    f'Calibrated for {best["target"]:.0%} agreement with full decoding, early '
    f'exit runs at {speed["measured"]["value"]:.2f} times its speed here '
    f'({speed["tokens_per_s"]:.0f} against '
    f'{summary["speed"]["full_tokens_per_s"]:.0f} tokens/s, one prompt at a '
    'time).',
    f'{sentence[:1].upper()}{sentence[1:]}',
    f'On other held-out text, {agreement["value"]:.1%} of the tokens are those '
    f'of the whole model given the same text (interval '
    f'{agreement["low"]:.1%} to {agreement["high"]:.1%}; empirical, '
    'teacher-forced).',
    f'Tokens are emitted after {speed["mean_depth"]:.1f} of '
    f'{summary["model"]["num_layers"]} blocks on average; deeper keys and '
    'values are caught up later, exactly.',
  ]


def why_not(summary: Values) -> str:
  """Return what keeps early exit from paying here."""
  sweep = summary['sweep']
  score = max(sweep['criteria'], key=lambda c: sum(c['coverage']))
  depths = [
    f'{share:.0%} at depth {depth}'
    for share, depth in zip(
      score['coverage'], sweep['exit_depths'], strict=True
    )
  ]
  times = sweep['part_times']
  block = times['blocks'] / summary['model']['num_layers']
  return (
    f'Why it does not pay here: the {score["criterion"]} score, which tells '
    'safe tokens best, lets an exit on its own take only '
    f'{", ".join(depths)} of the tokens before fewer than '
    f'{sweep["calibrated"]["target"]:.0%} of them are right; reading a head '
    f'takes as long as {times["head"] / block:.1f} blocks, and catching up '
    f'{sweep["window"]} tokens {sweep["window_factor"]:.1f} times as long as '
    'one.'
  )


def lossless(speed: Values) -> str:
  """Return how fast full decoding's own text can be had."""
  found = speed['lossless']
  measured = found['measured']
  same = f'{found["same_texts"]} of {found["texts"]} texts here are'
  if found['same_texts'] == found['texts']:
    same = f'all {found["texts"]} texts here are'
  return (
    'Losslessly (--mode speculative: the text so far and the exits draft, the '
    f'whole model verifies) it runs at {measured["value"]:.2f} times the speed '
    f'of full decoding ({measured["low"]:.2f} to {measured["high"]:.2f}); '
    f'{same} token for token its own.'
  )


def calibration(summary: Values) -> str:
  """Return how the thresholds were chosen."""
  sweep = summary['sweep']
  best, held_out = sweep['calibrated'], sweep['calibrated']['held_out']
  start = (
    'A token leaves at the first exit whose score reaches the threshold of '
    'that exit. Thresholds were searched on some prompts of the validation '
    'text and certified on others, free-running: the loss of a text is the '
    'share of its tokens that the full model, given the same text, would not '
    f'have chosen, and at most {1 - best["target"]:.0%} was asked for. '
  )
  sentence = sweep['certified']['sentence']
  if not uses_exits(summary):
    return f'{start}Outcome: {sentence}'
  chosen = format_thresholds(best['thresholds']).replace(',', ', ')
  return (
    f'{start}The thresholds of the {sweep["criterion"]} score are {chosen} for '
    f'depths {", ".join(map(str, sweep["exit_depths"]))}; {sentence} Given the '
    'validation text (teacher-forced), they agree at '
    f'{held_out["agreement"]["value"]:.1%}.'
  )


def about_samples(summary: Values) -> str:
  """Return how the samples were written."""
  thresholds = summary['samples']['thresholds']
  how = 'at the calibrated setting'
  if not uses_exits(summary):
    setting = next(
      s for s in summary['speed']['settings'] if s['thresholds'] == thresholds
    )
    how = (
      f'with threshold {thresholds[0]:g} at every exit, for the calibrated '
      'setting takes none: of the tokens of held-out text, '
      f'{setting["point"]["agreement"]["value"]:.0%} then are those of full '
      'decoding'
    )
  return (
    f'Greedy text {how}. The prompt is grey; point at a token to see its '
    'depth and score.'
  )


def limits(summary: Values) -> list[str]:
  """Return what the figures do not say."""
  sweep, speed = summary['sweep'], summary['speed']
  times, noise = sweep['part_times'], speed['noise']
  return [
    'Agreement is empirical and teacher-forced: at each token of held-out '
    'text, does the exit that decoding would take say what the whole model '
    'says? In free generation one different token sends the text another '
    'way. What is certified is the mean loss of texts generated after prompts '
    'drawn like those it was certified on, and nothing else.',
    f'Speed is wall clock on this machine: {speed["prompts"]} prompts one at '
    f'a time, {speed["new_tokens"]} tokens each, {speed["repeats"]} rounds '
    'in which the settings take turns, medians, without compiling and '
    'without the prompt. The range is over prompts. Full decoding timed '
    f'against itself gave {noise["value"]:.2f} ({noise["low"]:.2f} to '
    f'{noise["high"]:.2f}), which is noise. Other machines, sizes and batches '
    'differ.',
    'The prediction adds up what was read (blocks, heads, gates) for the '
    'exits that these generations took, at times measured here before: all '
    f'blocks {1e3 * times["blocks"]:.2f} ms for one token and '
    f'{sweep["window_factor"]:.2f} times that for {sweep["window"]} waiting '
    f'ones, the head {1e3 * times["head"]:.2f} ms. The loop around them is '
    'not counted.',
    f'Every {sweep["window"]}th token at the latest goes through the whole '
    'model, so the mean depth cannot fall as far as exits alone would allow.',
    'Intervals of 95 % come from a bootstrap over rows of text, not over '
    'tokens.',
  ]


def commands(
  backbone: pathlib.Path,
  exits: str,
  tuning: Sequence[str],
  folder: pathlib.Path,
) -> list[str]:
  """Return the commands that do the same one by one."""
  plain, added = folder / 'backbone', folder / 'with_exits'
  tuned = folder / 'tuning' / 'model'
  return [
    shlex.join(['eejax', *map(str, words)])
    for words in (
      ('import', backbone, plain),
      ('probe', plain),
      ('add-exits', plain, added, '--exits', exits),
      ('tune', *tuning),
      ('eval', tuned, '--sweep'),
      ('calibrate', tuned, '--out', folder / 'policy.json'),
      ('generate', tuned, '--prompt', 'import os', '--mode', 'early_exit'),
      ('generate', tuned, '--prompt', 'import os', '--mode', 'speculative'),
    )
  ]
