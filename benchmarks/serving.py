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
"""Measure the server: what HTTP costs, what batching gains, and a soak.

  python benchmarks/serving.py > results.json
  python benchmarks/serving.py --only soak --requests 10000

The embedded default model is served by a process of its own on this machine,
and clients run in this one, so that both share its cores as they would.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import figures
import serving_load
from serving_load import Case

import eejax
from eejax.checkpoint.model import Model
from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.policy.policy import Mode, Policy
from eejax.recipes.generate import prepared

NEW_TOKENS = 64
PROMPT_TOKENS = 32
# Tokens of the longest text that is served: fewer programs to compile.
MAX_LENGTH = 256


@contextlib.contextmanager
def served(*flags: str) -> Iterator[tuple[str, int]]:
  """Serve what flags name; yield the server's address and process id."""
  command = [sys.executable, '-m', 'eejax', 'serve', '--port', '0']
  command += ['--max-length', str(MAX_LENGTH)]
  process = subprocess.Popen(
    [*command, *flags],
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
  )
  try:
    for line in process.stderr or ():
      if line.startswith('serving '):
        yield line.split(' at ')[1].split()[0], process.pid
        return
    raise RuntimeError('the server ended before it was ready')
  finally:
    process.terminate()
    # What it says must not fill the pipe.
    process.communicate(timeout=60)


def prompts(model: Model, count: int) -> list[list[int]]:
  """Return beginnings of texts that differ, all of one length."""
  draw = random.Random(0)
  vocabulary = range(3, model.config.model.vocab_size)
  return [draw.choices(vocabulary, k=PROMPT_TOKENS) for _ in range(count)]


def body(prompt: Sequence[int], **more: Any) -> dict[str, Any]:
  """Return a greedy request for `NEW_TOKENS` tokens."""
  return {
    'prompt': list(prompt),
    'max_tokens': NEW_TOKENS,
    'temperature': 0,
    **more,
  }


def streamed(
  url: str, bodies: Sequence[dict[str, Any]]
) -> list[serving_load.Streamed]:
  """Return what all of several streams at once saw."""

  async def ask() -> list[serving_load.Streamed]:
    return await asyncio.gather(
      *(serving_load.stream(url, body) for body in bodies)
    )

  return asyncio.run(ask())


def server_overhead(args: argparse.Namespace) -> figures.Figure:
  """Time of 8 streams through HTTP over the same work in an engine."""
  model = eejax.load('default')
  asked = prompts(model, 8)
  engine = Engine(
    prepared(model),
    config=model.config,
    policy=Policy(),
    limits=EngineLimits(slots=8, max_length=MAX_LENGTH),
  )

  def alone() -> int:
    ids = [engine.submit(p, max_new_tokens=NEW_TOKENS) for p in asked]
    while not engine.is_idle:
      engine.step()
    return sum(len(engine.result(i).tokens) for i in ids)

  seconds: dict[str, list[float]] = {'engine': [], 'http': []}
  with served('default', '--slots', '8') as (url, _):
    bodies = [body(p) for p in asked]
    expected = alone()
    streamed(url, bodies)
    for _ in range(args.repeats):
      began = time.perf_counter()
      alone()
      seconds['engine'].append(time.perf_counter() - began)
      began = time.perf_counter()
      found = streamed(url, bodies)
      seconds['http'].append(time.perf_counter() - began)
      if sum(len(f.tokens) for f in found) != expected:
        raise RuntimeError('the server generated something else')
  pairs = zip(seconds['http'], seconds['engine'], strict=True)
  ratios = [http / engine_s for http, engine_s in pairs]
  return statistics.median(ratios), {'seconds': seconds, 'ratios': ratios}


def batch_gain(args: argparse.Namespace) -> figures.Figure:
  """Tokens/s of 16 concurrent requests over one at a time."""
  model = eejax.load('default')
  asked = [body(p) for p in prompts(model, 16)]
  speeds: dict[str, list[float]] = {'one': [], 'sixteen': []}
  with served('default', '--slots', '16') as (url, _):
    streamed(url, asked)
    for _ in range(args.repeats):
      began = time.perf_counter()
      count = sum(len(s.tokens) for s in streamed(url, asked))
      speeds['sixteen'].append(count / (time.perf_counter() - began))
      began = time.perf_counter()
      found = [streamed(url, [one])[0] for one in asked[:4]]
      count = sum(len(s.tokens) for s in found)
      speeds['one'].append(count / (time.perf_counter() - began))
  pairs = zip(speeds['sixteen'], speeds['one'], strict=True)
  return statistics.median(a / b for a, b in pairs), {'tokens_per_s': speeds}


def ttft_ratio(args: argparse.Namespace) -> figures.Figure:
  """p95 time to first token at half load over an idle server's."""
  model = eejax.load('default')
  asked = [body(p) for p in prompts(model, 16)]
  with served('default', '--slots', '8') as (url, _):
    streamed(url, asked[:8])
    idle = [
      streamed(url, [asked[i % 16]])[0].first_s
      for i in range(args.requests_idle)
    ]
    began = time.perf_counter()
    streamed(url, [*asked, *asked])
    capacity = 2 * len(asked) / (time.perf_counter() - began)
    loaded = asyncio.run(
      _arriving(url, asked, rate=capacity / 2, count=args.requests_loaded)
    )
  detail = {
    'idle_s': idle,
    'loaded_s': loaded,
    'requests_per_s_at_most': capacity,
  }
  return _p95(loaded) / _p95(idle), detail


async def _arriving(
  url: str, bodies: Sequence[dict[str, Any]], *, rate: float, count: int
) -> list[float | None]:
  """Return the times to first token of requests that come by chance."""
  draw = random.Random(1)
  tasks = []
  for number in range(count):
    request = serving_load.stream(url, bodies[number % len(bodies)])
    tasks.append(asyncio.create_task(request))
    await asyncio.sleep(draw.expovariate(rate))
  return [found.first_s for found in await asyncio.gather(*tasks)]


def _p95(seconds: Sequence[float | None]) -> float:
  known = [s for s in seconds if s is not None]
  return statistics.quantiles(known, n=20, method='inclusive')[-1]


def soak(args: argparse.Namespace) -> figures.Figure:
  """Count what is wrong with many mixed requests; 0 is what should be."""
  model = eejax.add_exits(eejax.load('default'), '4:norm,8:norm')
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(_temporary_folder()))
    eejax.save(model, folder / 'model')
    cases = _cases(eejax.load(folder / 'model'))
    url, process_id = stack.enter_context(
      served(
        *('--model', f'exits={folder / "model"}', '--slots', '8'),
        *('--also-mode', 'early_exit', '--also-mode', 'speculative'),
      )
    )
    counts = serving_load.SoakCounts()
    memory = []
    parts = 10
    for part in range(parts):
      found = asyncio.run(
        serving_load.soak(
          url,
          cases,
          count=args.requests // parts,
          at_once=24,
          seed=part,
          too_long=MAX_LENGTH + 1,
        )
      )
      counts.kinds += found.kinds
      counts.lost += found.lost
      counts.wrong += found.wrong
      counts.examples += found.examples
      memory.append(_memory_mib(process_id))
      print(f'soak {part + 1}/{parts}: {found}', file=sys.stderr, flush=True)
    time.sleep(2)
    leaked = _under_way(url)
  # The first part is the time in which caches fill.
  growth = memory[-1] / memory[0] - 1
  wrong = counts.lost + counts.wrong + leaked + (growth > 0.05)
  detail = {
    'requests': dict(counts.kinds),
    'lost': counts.lost,
    'wrong': counts.wrong,
    'leaked': leaked,
    'memory_mib': memory,
    'memory_growth': growth,
    'examples': counts.examples[:5],
  }
  return wrong, detail


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    yield folder


def _cases(model: Model) -> list[Case]:
  """Return requests in every mode, and of a policy, with their tokens.

  The tokens are those of single runs.
  """
  cases = []
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.7, 0.4), minimum_depth=8)
  for settings, options in (
    ({'mode': 'full'}, {'mode': 'full'}),
    (
      {'mode': 'early_exit', 'threshold': 0.5},
      {'mode': 'early_exit', 'thresholds': 0.5},
    ),
    ({'mode': 'speculative'}, {'mode': 'speculative'}),
    ({'policy': policy.to_json()}, {'policy': policy}),
  ):
    for prompt in prompts(model, 8):
      for count in (4, 16):
        row = eejax.generate(
          model,
          [prompt],
          max_new_tokens=count,
          **options,
        ).rows[0]
        request = body(prompt, model='exits', eejax=settings)
        cases.append(Case({**request, 'max_tokens': count}, row.tokens))
  return cases


def _memory_mib(process_id: int) -> float:
  """Return the resident memory of a process."""
  pages = pathlib.Path(f'/proc/{process_id}/statm').read_text().split()[1]
  return int(pages) * os.sysconf('SC_PAGE_SIZE') / 2**20


def _under_way(url: str) -> int:
  """Return how many texts the server says it still has."""
  with urllib.request.urlopen(f'{url}/metrics') as answer:
    lines = answer.read().decode().splitlines()
  gauges = ('eejax:num_requests_running{', 'eejax:num_requests_waiting{')
  return int(
    sum(float(x.rpartition(' ')[2]) for x in lines if x.startswith(gauges))
  )


FIGURES: dict[str, figures.Measure] = {
  'server_overhead': server_overhead,
  'batch_gain': batch_gain,
  'ttft_ratio': ttft_ratio,
  'soak': soak,
}


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=5)
  parser.add_argument(
    '--requests',
    type=int,
    default=10_000,
    help='of the soak (default: 10000)',
  )
  parser.add_argument(
    '--requests-idle',
    type=int,
    default=40,
    help='one at a time, for the time to first token (default: 40)',
  )
  parser.add_argument(
    '--requests-loaded',
    type=int,
    default=80,
    help='at half load, likewise (default: 80)',
  )
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
