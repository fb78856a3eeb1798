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
"""`eejax bench`: how fast each way to decode is, and what it changes."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eejax import formatting, serialization
from eejax.cli import gin_policy, policy_flags, prompted_model
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.checkpoint.model import Model
  from eejax.config import EarlyExitConfig
  from eejax.decoding.policy.policy import Policy
  from eejax.evaluation.bench import Bench, Grid, Strategy
  from eejax.evaluation.part_times import PartTimes
  from eejax.recipes.bench_file import BenchFile

HELP = 'time ways to decode, beside what the cost model predicts'
EXAMPLE = (
  'eejax bench runs/tuned/model --thresholds 0.5,0.9 --batch-sizes 1,8 '
  '--out runs/bench.json'
)

NUM_PROMPTS = 4
OUT = 'runs/bench.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  prompted_model.add_arguments(parser, num_prompts=NUM_PROMPTS, new_tokens=32)
  group = parser.add_argument_group('what is measured: all combinations')
  lists = (
    ('modes', 'early_exit,speculative', 'besides full'),
    ('criteria', None, 'gate where every exit has one, else max_prob'),
    ('thresholds', '0.5,0.8,0.95', 'of early exit, each for all exits'),
    ('draft-thresholds', '0.4', 'of speculation, each for all exits'),
    (
      'draft-lookups',
      f'0,{policy_flags.DEFAULT_LOOKUP}',
      'of speculation, tokens that must have stood before; 0 is none',
    ),
    ('kv-strategies', 'deferred', ', '.join(policy_flags.KV_STRATEGIES)),
    ('batchings', 'ride_along', ', '.join(policy_flags.BATCHINGS)),
  )
  for name, default, text in lists:
    shown = text if default is None else f'{default}; {text}'
    group.add_argument(
      f'--{name}',
      default=default,
      metavar='A[,B...]',
      help=f'(default: {shown})',
    )
  group.add_argument(
    '--batch-sizes',
    type=prompted_model.whole_numbers,
    default=(1, 4),
    metavar='N[,N...]',
    help='rows decoded together (default: 1,4)',
  )
  group.add_argument(
    '--window', type=int, default=8, metavar='N', help='(default: 8)'
  )
  gin_policy.add_arguments(parser)
  parser.add_argument(
    '--repeats',
    type=int,
    default=3,
    metavar='N',
    help='rounds that are timed; medians are reported (default: 3)',
  )
  parser.add_argument(
    '--peers',
    metavar='FILE',
    help='what benchmarks/peers.py measured of other decoders on this model',
  )
  parser.add_argument(
    '--out',
    default=OUT,
    metavar='FILE',
    help=(
      'results as JSON, a page beside them; what it holds already is not '
      f'measured again (default: {OUT})'
    ),
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output
  from eejax.decoding.policy.criteria import default_criterion
  from eejax.evaluation.bench import Bench
  from eejax.recipes import bench_file
  from eejax.report import bench_page

  path = pathlib.Path(args.out)
  if args.repeats < 1:
    raise ArgumentError(f'--repeats must be at least 1, not {args.repeats}.')
  own_criterion = gin_policy.read_criterion(args)
  model = prompted_model.open_model(args)
  grid = _grid(args, own_criterion or default_criterion(model.config))
  settings = grid.settings()
  _check_settings(settings, model)
  prompts = prompted_model.read_prompts(args, model, count=NUM_PROMPTS)
  identity = bench_file.identify(
    model,
    prompts=prompts.tokens,
    max_new_tokens=args.max_new_tokens,
    repeats=args.repeats,
    dtype=args.dtype,
  )
  peers = _read_peers(args.peers, identity)
  serialization.check_writable(path)
  held = bench_file.BenchFile(path, identity)
  held.values['checkpoint'] = args.checkpoint
  held.values['prompts'] = prompts.source
  held.values['peers'] = peers or held.values['peers']
  missing = [s for s in settings if not held.has(s.values())]
  if len(missing) < len(settings):
    output.say(
      f'{len(settings) - len(missing)} of {len(settings)} settings are in '
      f'{path} already'
    )
  if missing:
    cost = _Cost()
    bench = Bench(
      model.params,
      config=model.config,
      prompts=prompts.tokens,
      max_new_tokens=args.max_new_tokens,
      repeats=args.repeats,
      dtype=args.dtype,
      predict=cost.of,
    )
    held.values['part_times'] = cost.measure(
      bench, model, window=args.window, batch_sizes=args.batch_sizes
    )
    _measure(bench, missing, held)
  else:
    held.write()
  page = path.with_suffix('.html')
  serialization.write_text(page, bench_page.render(held.values))
  found = held.lines_of([s.values() for s in settings])
  output.show(formatting.table(bench_page.rows(found)))
  for line in bench_page.peer_rows(held.values):
    output.show(f'{line["decoder"]}: {line["tokens/s, prefill included"]}')
  output.show(f'\nwrote {path} and {page}')
  return {**held.values, 'lines': found, 'out': path, 'page': page}


def _grid(args: argparse.Namespace, default_criterion: str) -> 'Grid':
  """Return what the flags combine to."""
  from eejax.decoding.policy.batching import Batching
  from eejax.decoding.policy.policy import KVStrategy, Mode, parse_thresholds
  from eejax.evaluation.bench import Grid

  return Grid(
    criteria=_names(args.criteria or default_criterion),
    thresholds=parse_thresholds(args.thresholds),
    draft_thresholds=parse_thresholds(args.draft_thresholds),
    draft_lookups=_lookups(args.draft_lookups),
    kv_strategies=_members(KVStrategy, args.kv_strategies, '--kv-strategies'),
    batchings=_members(Batching, args.batchings, '--batchings'),
    batch_sizes=args.batch_sizes,
    modes=_members(Mode, args.modes, '--modes'),
    window=args.window,
  )


def _lookups(text: str) -> tuple[int | None, ...]:
  """Read whole numbers of which 0 is none."""
  parts = _names(text)
  if not all(part.isdigit() for part in parts):
    raise ArgumentError(
      f'--draft-lookups takes whole numbers such as 0,2, not {text!r}.'
    )
  return tuple(dict.fromkeys(int(part) or None for part in parts))


def _names(text: str) -> tuple[str, ...]:
  """Split at commas outside brackets, for `patience(2,3)` is one name."""
  parts, depth = [''], 0
  for letter in text:
    depth += (letter == '(') - (letter == ')')
    if letter == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += letter
  return tuple(part.strip() for part in parts)


def _members(kind: Any, text: str, flag: str) -> tuple[Any, ...]:
  known = [member.value for member in kind]
  names = _names(text)
  wrong = [name for name in names if name not in known]
  if wrong:
    raise ArgumentError(
      f'{flag} knows no {wrong[0]!r}; there are {", ".join(known)}.'
    )
  return tuple(kind(name) for name in names)


def _check_settings(settings: 'Sequence[Strategy]', model: 'Model') -> None:
  """Refuse what the model cannot do before anything is measured."""
  from eejax.decoding.loop.plan import make_plan
  from eejax.ops.sampling import SamplingMethod

  for setting in settings:
    make_plan(
      model.config,
      policy=setting.policy,
      method=SamplingMethod.GREEDY,
    )


class _Cost:
  """Predict by the times of a model's parts, once they are measured."""

  def __init__(self) -> None:
    self._times: dict[int, PartTimes] = {}
    self._config: EarlyExitConfig | None = None

  def measure(
    self,
    bench: 'Bench',
    model: 'Model',
    *,
    window: int,
    batch_sizes: 'Sequence[int]',
  ) -> 'list[PartTimes]':
    """Measure the parts of decoding on this machine, for each batch size."""
    from eejax.cli import output
    from eejax.evaluation.part_times import part_times

    self._config = model.config
    for rows in output.track(
      list(batch_sizes), 'timing the parts of decoding', unit='batch size'
    ):
      self._times[rows] = part_times(
        bench.prepared, config=model.config, window=window, rows=rows
      )
    return list(self._times.values())

  def of(
    self, work: Any, batch: Any, *, policy: 'Policy', tokens: int, rows: int
  ) -> float:
    """Return the seconds that counted work should take."""
    from eejax.analysis.cost_model import decode_cost

    assert self._config is not None
    cost = decode_cost(self._config, policy, times=self._times[rows])
    return cost.of_counts(work, batch)


def _measure(
  bench: 'Bench', missing: 'Sequence[Strategy]', held: 'BenchFile'
) -> None:
  """Measure settings; every line is on the disk when the next one begins."""
  from eejax.cli import output

  total = sum(map(bench.num_runs, missing))
  with output.progress('measuring', total=total, unit='run') as shown:
    for setting in missing:
      line = bench.measure(setting, on_run=shown.update)
      held.add(line)
      shown.update(0, speedup=line.speedup.value)


def _read_peers(
  path: str | None, identity: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Return what other decoders did on the same weights.

  Raises:
    ArgumentError: the file cannot be read, or is about other weights.
  """
  if path is None:
    return []
  values = serialization.read_object(pathlib.Path(path), what='peers')
  lines = values.get('lines')
  known = {'decoder', 'batch_size', 'tokens_per_s_with_prefill'}
  is_line = lambda line: isinstance(line, dict) and known <= set(line)
  if not isinstance(lines, list) or not all(map(is_line, lines)):
    raise ArgumentError(
      f'{path} is not what benchmarks/peers.py writes; run it on the model as '
      'a Hugging Face folder.'
    )
  ours = identity['model']['backbone_hash']
  if ours not in (values.get('backbone_hashes') or ()):
    raise ArgumentError(
      f'{path} was measured on other weights; run benchmarks/peers.py on this '
      'model.'
    )
  return lines
