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
"""Measure the guarantee of calibration, and the cost model against the clock.

  python benchmarks/analysis_calibration.py
  python benchmarks/analysis_calibration.py --only cost_model_error

`calibration_violations` is the worst share, over curves of true risk, kinds of
losses and bounds, of 1,000 simulated calibrations that certify a setting whose
risk is above the limit. `bentkus_sample_ratio` is the worst ratio of the
sequences that Hoeffding-Bentkus and Hoeffding need. `cost_model_error` is the
median relative error of predicted speed-ups of 10 settings on the embedded
default with natural exits: parts are timed first, settings afterwards in turns
with full decoding, the least time of each counting.
"""

import dataclasses
import functools
import itertools
import statistics

import figures
import jax
import numpy as np
from figures import Figure

from eejax.analysis.cost_model import decode_cost
from eejax.checkpoint import huggingface, surgery
from eejax.config import EarlyExitConfig, parse_exits
from eejax.data.tokenizer import Tokenizer
from eejax.decoding.generate import generate
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import DecodeResult
from eejax.evaluation.part_times import PartTimes, part_times
from eejax.resources import default_backbone
from eejax.stats.bounds import Bound, samples_needed
from eejax.stats.fixed_sequence import Guarantee, certify_in_order

RISK = DELTA = 0.05
CALIBRATIONS, SEQUENCES = 1000, 250
# True risks along the path: slowly over the limit, just over it at once, far
# over it, and up and down again.
CURVES = {
  'slow': (0.005, 0.01, 0.02, 0.035, 0.049, 0.052, 0.06, 0.09),
  'at once': (0.0501, 0.06, 0.2),
  'steep': (0.001, 0.3, 0.5),
  'up and down': (0.01, 0.055, 0.01, 0.051, 0.02),
}
# Risk and mean loss; the second is what sequences turn out to lose.
CASES = ((0.05, 0.0125), (0.05, 0.025), (0.02, 0.005), (0.01, 0.0025))

EXITS = '3:norm,6:norm,9:norm'
NEW_TOKENS, WINDOW = 64, 8
PROMPTS = (
  'import os\nimport sys\n\n\ndef main(',
  'class Parser:\n  """Read the arguments of',
  '    for name, value in self.items():\n',
  'def test_the_result_is_none(self):\n    ',
)
EARLY = functools.partial(Policy, Mode.EARLY_EXIT, window=WINDOW)
# Policies and numbers of rows.
SETTINGS: dict[str, tuple[Policy, int]] = {
  'max_prob 0.3': (EARLY('max_prob', (0.3,)), 1),
  'max_prob 0.5': (EARLY('max_prob', (0.5,)), 1),
  'max_prob 0.8': (EARLY('max_prob', (0.8,)), 1),
  'at 3, 0.5': (EARLY('max_prob', (0.5, None, None)), 1),
  'margin 0.3': (EARLY('margin', (0.3,)), 1),
  'entropy 0.6': (EARLY('entropy', (0.6,)), 1),
  'at 6, 0.4': (EARLY('max_prob', (None, 0.4, None)), 1),
  'ends at 6': (EARLY('max_prob', (None, 0.0, None)), 1),
  '4 rows, 0.5': (EARLY('max_prob', (0.5,)), 4),
  '4 rows, 0.2': (EARLY('max_prob', (0.2,)), 4),
}


# MARK: Risk


def calibration_violations(repeats: int) -> Figure:
  """Return the worst share of calibrations that certify too much."""
  found = {}
  for name, kind, bound in itertools.product(
    CURVES, ('bernoulli', 'beta'), Bound
  ):
    curve = np.array(CURVES[name])
    random = np.random.default_rng(11)
    guarantee = Guarantee(RISK, DELTA, bound)
    wrong = 0
    for _ in range(CALIBRATIONS):
      losses = draw_losses(random, curve, kind=kind)
      certified = certify_in_order(
        lambda index, losses=losses: losses[index],
        len(curve),
        guarantee=guarantee,
      ).certified
      wrong += any(curve[i] > RISK for i in certified)
    found[f'{name}, {kind}, {bound.value}'] = wrong / CALIBRATIONS
  error = (DELTA * (1 - DELTA) / CALIBRATIONS) ** 0.5
  detail = {'calibrations': CALIBRATIONS, 'sequences': SEQUENCES, **found}
  return max(found.values()), {'limit': DELTA + 3 * error, **detail}


def draw_losses(random, curve: np.ndarray, *, kind: str) -> np.ndarray:
  """Return losses [settings, n] of one set of sequences."""
  risks = curve[:, None]
  if kind == 'bernoulli':
    # One number decides a sequence at every setting, as one text does.
    return (random.random(SEQUENCES)[None] < risks).astype(float)
  # Mean m of Beta(a, a (1 - m) / m); 0.3 makes most losses near 0 or 1.
  size = (len(curve), SEQUENCES)
  return random.beta(0.3, 0.3 * (1 - risks) / risks, size=size)


def bentkus_sample_ratio(repeats: int) -> Figure:
  """Return Hoeffding-Bentkus's sequences over Hoeffding's, at worst."""
  detail = {}
  for risk, mean in CASES:
    need = functools.partial(
      samples_needed, risk=risk, delta=DELTA, expected=mean
    )
    ours = need(bound=Bound.HOEFFDING_BENTKUS)
    theirs = need(bound=Bound.HOEFFDING)
    assert ours is not None and theirs is not None
    detail[f'risk {risk}, loss {mean}'] = [ours, theirs, ours / theirs]
  return max(ratio for *_, ratio in detail.values()), detail


# MARK: Cost


def cost_model_error(repeats: int) -> Figure:
  """Return the median relative error of predicted speed-ups."""
  config, prepared, prompts = _model()
  times = {
    rows: part_times(
      prepared, config=config, window=WINDOW, rows=rows, repeats=repeats
    )
    for rows in (1, 4)
  }
  lines = {}
  for name, (policy, rows) in SETTINGS.items():
    measured, results = _measure(
      prepared, config, prompts, policy, rows, repeats
    )
    predicted = _predict(config, policy, times[rows], results)
    lines[name] = {
      'measured': measured,
      'predicted': predicted,
      'error': predicted / measured - 1,
    }
  errors = [abs(line['error']) for line in lines.values()]
  return statistics.median(errors), {
    'settings': lines,
    'parts': [dataclasses.asdict(t) for t in times.values()],
  }


def _model() -> tuple[EarlyExitConfig, Prepared, list[list[int]]]:
  """Return the embedded default with natural exits, and prompts for it."""
  model = huggingface.import_folder(default_backbone(), dtype='float32')
  params, config = surgery.add_exits(
    model.params, model.config, parse_exits(EXITS), key=jax.random.key(0)
  )
  assert model.tokenizer_folder is not None
  tokenizer = Tokenizer.load(model.tokenizer_folder)
  ids = tokenizer.encode_batch(list(PROMPTS), add_bos=tokenizer.adds_bos)
  shortest = min(map(len, ids))
  return config, prepare(params, config=config), [i[:shortest] for i in ids]


def _measure(
  prepared: Prepared,
  config: EarlyExitConfig,
  prompts: list[list[int]],
  policy: Policy,
  rows: int,
  repeats: int,
) -> tuple[float, list[DecodeResult]]:
  """Return the speed-up over full decoding, and what was generated."""
  seconds = {'full': 0.0, 'ours': 0.0}
  kept = []
  for first in range(0, len(prompts), rows):
    decode = functools.partial(
      generate,
      prepared,
      config=config,
      prompts=prompts[first : first + rows],
      max_new_tokens=NEW_TOKENS,
      eos_ids=(),
    )
    ways = {'full': Policy(), 'ours': policy}
    found: dict[str, list[DecodeResult]] = {name: [] for name in ways}
    for _ in range(1 + repeats):
      for name, way in ways.items():
        found[name].append(decode(policy=way))
    for name, results in found.items():
      # The first one warmed up.
      seconds[name] += min(r.timing.decode_s for r in results[1:])
    kept.append(found['ours'][-1])
  return seconds['full'] / seconds['ours'], kept


def _predict(
  config: EarlyExitConfig,
  policy: Policy,
  times: PartTimes,
  results: list[DecodeResult],
) -> float:
  """Return the predicted speed-up for the exits that were taken."""
  cost = decode_cost(config, policy, times=times)
  texts = [row for result in results for row in result.rows]
  if times.rows == 1:
    return cost.speedup_of_depths([np.array(row.exit_depths) for row in texts])
  work = sum((r.accounting for r in results), start=Accounting())
  batch = sum((r.batch for r in results), start=BatchAccounting())
  tokens = sum(len(row.tokens) for row in texts)
  return cost.speedup_of_counts(work, batch, tokens=tokens)


FIGURES: dict[str, figures.Measure] = {
  'calibration_violations': lambda args: calibration_violations(args.repeats),
  'bentkus_sample_ratio': lambda args: bentkus_sample_ratio(args.repeats),
  'cost_model_error': lambda args: cost_model_error(args.repeats),
}


def main() -> None:
  figures.run(figures.parser(__doc__.split('\n')[0], repeats=7), FIGURES)


if __name__ == '__main__':
  main()
