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
r"""Run eejax, or a sweep of runs, with XManager: here, or on Vertex AI's GPUs.

Examples:
  python launch/xm_launch.py --run=runs/sweep \
    --sweep=LEARNING_RATE=1e-3,3e-3 --sweep=SEED=0,1 \
    -- pretrain --gin_file=runs/pretrain.gin

  python launch/xm_launch.py --on=vertex --gpu=h100=8 --project=P \
    --bucket=gs://BUCKET --image=us-docker.pkg.dev/P/eejax/eejax:cuda \
    --run=first -- pretrain --gin_file=runs/pretrain.gin

Run it with Python, not with `xmanager launch`. --dry-run prints what would run,
and needs no XManager.

A sweep runs all combinations of its values, each in a folder of its own in
--run. The same command goes on with runs that were stopped. On Vertex AI the
bucket is mounted at /gcs/BUCKET. Its TPUs end with v3, on which eejax was not
tried: for TPUs take launch/tpu_vm.sh, launch/xpk.sh or launch/sky.sh.
"""

import argparse
import asyncio
import itertools
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from launcher import Launcher  # noqa: E402

WITH_LOG = pathlib.Path(__file__).resolve().with_name('with_log.sh')
# GPUs that XManager's Vertex executor knows.
GPUS = ('p4', 't4', 'l4_24th', 'p100', 'v100', 'a100', 'a100_80gib')
GPUS += ('h100', 'h200', 'b200')


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Read the flags; what stands behind `--` is eejax's."""
  parser = argparse.ArgumentParser(
    prog='xm_launch.py',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  flag = parser.add_argument
  flag('--run', required=True, help='folder of the run, or of the sweep')
  flag(
    '--sweep',
    action='append',
    default=[],
    metavar='NAME=A,B',
    help='values of a gin macro; may be given several times',
  )
  flag('--on', choices=('local', 'vertex'), default='local')
  flag('--at-once', type=int, default=1, help='local runs at a time (1)')
  flag('--eejax', default='eejax', help='the program, of a local run')
  flag('--gpu', default='', metavar='KIND=N', help='on Vertex: h100=8')
  flag('--project', help='on Vertex: a Google Cloud project')
  flag('--location', default='us-central1', help='on Vertex (us-central1)')
  flag('--bucket', default='', help='on Vertex: gs://NAME for runs')
  flag('--image', help='on Vertex: of launch/docker.sh, with the extra cuda')
  flag('--title', default='eejax', help='of the experiment')
  flag('--dry-run', action='store_true', help='print all, create nothing')
  flag('eejax_arguments', nargs='*', metavar='-- VERB ...')
  return parser.parse_args(argv)


def trials(
  args: argparse.Namespace, words: Sequence[str], launcher: Launcher
) -> list[list[str]]:
  """Return, for each run, its folder and its command line of eejax."""
  names, values = [], []
  for text in args.sweep:
    name, equals, listed = text.partition('=')
    if not re.fullmatch(r'[\w./]+', name) or not listed:
      launcher.wrong(f"--sweep must be NAME=A,B, not '{text}'.")
    names.append(name)
    values.append(listed.split(','))
  if len(set(names)) < len(names):
    launcher.wrong('a name may be swept once.')
  top = args.run
  if args.on == 'vertex':
    top = f'/gcs/{args.bucket.removeprefix("gs://")}/{args.run}'
  found = []
  for chosen in itertools.product(*values):
    pairs = [
      f'{name}={value}' for name, value in zip(names, chosen, strict=True)
    ]
    own = ','.join(pairs).replace('/', '.')
    folder = f'{top}/{own}' if own else top
    swept = [f'--gin.{pair}' for pair in pairs]
    program = args.eejax if args.on == 'local' else 'eejax'
    command = [program, *words, *swept, f'--run={folder}']
    found.append([folder, *command])
  return found


def check(args: argparse.Namespace, launcher: Launcher) -> None:
  """Name what is missing before anything is created."""
  if args.at_once < 1:
    launcher.wrong('--at-once must be at least 1.')
  if args.on == 'local':
    launcher.check_tool(
      args.eejax, 'install it, or name the program with --eejax'
    )
    return
  kind, _, count = args.gpu.partition('=')
  if kind.startswith('tpu'):
    launcher.wrong(
      'Vertex AI has no TPU beyond v3; take launch/tpu_vm.sh, launch/xpk.sh or '
      'launch/sky.sh.'
    )
  if kind not in GPUS or not count.isdigit():
    launcher.wrong(
      f"--gpu must be KIND=N, as in h100=8, not '{args.gpu}'; kinds are "
      f'{", ".join(GPUS)}.'
    )
  for name in ('project', 'bucket', 'image'):
    if not getattr(args, name):
      launcher.wrong(f'--{name} is missing; runs on Vertex AI need it.')
  launcher.check_bucket(args.bucket)
  launcher.check_name('--run', args.run)
  launcher.check_tool('gcloud', 'see https://cloud.google.com/sdk/docs/install')
  launcher.check(
    f'the project {args.project} cannot be reached.',
    ['gcloud', 'projects', 'describe', args.project],
  )
  launcher.check(
    f'the bucket {args.bucket} cannot be reached; make it first.',
    ['gcloud', 'storage', 'buckets', 'describe', args.bucket],
  )


async def launch(args: argparse.Namespace, runs: list[list[str]]) -> int:
  """Run all of them; return how many failed."""
  from xmanager import xm, xm_local

  if args.on == 'vertex':
    from xmanager.cloud import vertex

    client = vertex.Client(project=args.project, location=args.location)
    vertex.set_default_client(client)
    kind, _, count = args.gpu.partition('=')
    requirements = xm.JobRequirements(**{kind: int(count)})
    executor = xm_local.Vertex(requirements=requirements)
    spec = xm.container(args.image, executor_spec=executor.Spec())
    turns = asyncio.Semaphore(len(runs))
  else:
    executor = xm_local.Local()
    spec = xm.binary(executor.Spec(), path=str(WITH_LOG))
    turns = asyncio.Semaphore(args.at_once)
  failed = []

  async def one(experiment, executable, words: list[str]) -> None:
    async with turns:
      unit = await experiment.add(xm.Job(executable, executor, args=words))
      try:
        await unit.wait_until_complete()
      except xm.ExperimentUnitError:
        failed.append(words[0])

  try:
    async with xm_local.create_experiment(args.title) as experiment:
      (executable,) = experiment.package([spec])
      await asyncio.gather(*(one(experiment, executable, r) for r in runs))
  except RuntimeError:
    # At its end an experiment raises for local jobs that failed, too.
    if not failed:
      raise
  for folder in sorted(failed):
    print(f'xm_launch.py: {folder} failed; see its logs.', file=sys.stderr)
  return len(failed)


def main(argv: Sequence[str]) -> None:
  """Print what would run, or run it with XManager."""
  args = parse(argv[1:])
  launcher = Launcher('xm_launch.py', dry_run=args.dry_run)
  arguments = launcher.eejax_arguments(args.eejax_arguments)
  runs = trials(args, arguments, launcher)
  check(args, launcher)
  if args.dry_run:
    for words in runs:
      first = f'docker run {args.image}' if args.on == 'vertex' else WITH_LOG
      print(f'{first} {shlex.join(words)}')
    return
  try:
    from absl import flags
    from xmanager import xm_local  # noqa: F401
  except ImportError:
    launcher.fail('XManager is not installed; pip install xmanager.')
  # XManager reads flags of its own; ours are not among them.
  flags.FLAGS(argv[:1])
  if asyncio.run(launch(args, runs)):
    raise SystemExit(1)


if __name__ == '__main__':
  main(sys.argv)
