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
"""Test what the launchers would run, and what they run on clouds of stand-ins.

Golden files hold dry runs. EEJAX_WRITE_GOLDEN=1 writes them anew; read the
difference before you commit it.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from eejax.cli import main, pretrain, run_flags
from eejax.cli.gin import config as gin_config
from eejax.parallel import environment

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / 'launch'
GOLDEN = pathlib.Path(__file__).with_name('golden')

# What every launcher is asked to run.
RUN = [
  '--',
  'pretrain',
  '--gin_file=runs/pretrain.gin',
  '--gin_file=models/tiny.gin',
  "--gin.EXITS='1:norm,2:mlp'",
  '--gin.BATCH_SIZE=64',
]
PROJECT = ['--project', 'lab', '--zone', 'us-east5-a']
BUCKET = ['--bucket', 'gs://lab-runs']
TPU_VM = ['tpu_vm.sh', *PROJECT, *BUCKET, '--type', 'v6e-16', '--run', 'first']
XPK = ['xpk.sh', *PROJECT, '--cluster', 'c', '--type', 'v6e-16']
XPK += ['--image', 'registry/eejax', '--storage', 'runs', '--run', 'first']
SKY = ['sky.sh', *BUCKET, '--run', 'first', '--accelerators', 'H100:8']
SLURM = ['slurm.sbatch', '--run', '/shared/first', '--nodes', '2']
DOCKER = ['docker.sh', '--run', 'first']
JOBSET = ['jobset.py', *BUCKET, '--image', 'registry/eejax', '--run', 'first']
TPU_JOBSET = [*JOBSET, '--tpu', 'tpu-v5-lite-podslice', '--topology', '4x4']
TPU_JOBSET += ['--nodes', '4', '--chips', '4']
GPU_JOBSET = [*JOBSET, '--gpu', 'nvidia-h100-80gb', '--nodes', '2']
GPU_JOBSET += ['--chips', '8']
XM_SWEEP = ['xm_launch.py', '--run', 'runs/sweep']
XM_SWEEP += ['--sweep', 'LEARNING_RATE=1e-3,3e-3', '--sweep', 'SEED=0,1']
VERTEX = ['xm_launch.py', '--on', 'vertex', '--run', 'first', *BUCKET]
VERTEX += ['--project', 'lab', '--image', 'registry/eejax', '--gpu', 'h100=8']

DRY_RUNS = {
  'tpu_vm': [*TPU_VM, '--spot'],
  'tpu_vm_kept': [*TPU_VM, '--keep', '--name', 'mine'],
  'xpk': XPK,
  'sky': [*SKY, '--spot', '--nodes', '2'],
  'sky_tpu': ['sky.sh', *BUCKET, '--run', 'first', '--accelerators']
  + ['tpu-v6e-8', '--infra', 'gcp/us-east5'],
  'slurm': [*SLURM, '--gpus', '8', '--partition', 'gpu', '--time', '24:00:00'],
  'docker': [*DOCKER, '--gpus', 'all', '--extras', 'cuda,train'],
  'jobset_tpu': TPU_JOBSET,
  'jobset_gpu': GPU_JOBSET,
  'xm_sweep': XM_SWEEP,
  'xm_vertex': VERTEX,
}

# Programs that scripts may use wherever they run.
TOOLS = ('awk', 'basename', 'bash', 'cat', 'date', 'dirname', 'grep')
TOOLS += ('hostname', 'mkdir', 'sed', 'sleep', 'tee')

STAND_IN = """#!/bin/bash
{{ printf '%s' {name}; printf ' %q' "$@"; echo; }} >>{calls}
{behaviour}
"""


class Machine:
  """A machine whose clouds are stand-ins that write down their calls."""

  def __init__(self, folder):
    self.folder = folder
    self.bin = folder / 'bin'
    self.log = folder / 'calls'
    self.bin.mkdir()
    self.log.touch()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(shutil.which(tool))

  def add(self, name, behaviour='', *, folder=None):
    path = (folder or self.bin) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
      STAND_IN.format(name=name, calls=self.log, behaviour=behaviour)
    )
    path.chmod(0o755)

  def environment(self):
    # PyYAML and, in one test, a stand-in of XManager are Python's.
    paths = os.pathsep.join([str(self.folder / 'python'), *sys.path])
    return {
      'PATH': str(self.bin),
      'TMPDIR': str(self.folder),
      'HOME': str(self.folder),
      'PYTHONPATH': paths,
    }

  def command(self, words, arguments):
    launcher = LAUNCH / words[0]
    python = [sys.executable] if launcher.suffix == '.py' else []
    return [*python, str(launcher), *words[1:], *arguments]

  def run(self, words, arguments=RUN):
    return subprocess.run(
      self.command(words, arguments),
      capture_output=True,
      text=True,
      cwd=self.folder,
      env=self.environment(),
    )

  def calls(self):
    return self.log.read_text().splitlines()

  def named(self, *words):
    """Return the calls in which all words stand."""
    return [c for c in self.calls() if all(w in c.split() for w in words)]


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


# MARK: Dry runs


def dry_run(machine, words):
  done = machine.run([*words, '--dry-run'])
  assert done.returncode == 0, done.stderr
  text = done.stdout.replace(str(REPOSITORY), 'CHECKOUT')
  return text.replace(str(machine.folder), 'FOLDER')


@pytest.mark.parametrize('name', DRY_RUNS)
def test_dry_run_is_the_golden_one(name, machine):
  # There is no cloud's program on this machine, so that nothing can be made.
  before = sorted(machine.folder.rglob('*'))
  text = dry_run(machine, DRY_RUNS[name])
  assert sorted(machine.folder.rglob('*')) == before
  path = GOLDEN / f'{name}.txt'
  if os.environ.get('EEJAX_WRITE_GOLDEN'):
    path.write_text(text)
  assert text == path.read_text()


def test_every_golden_file_is_compared():
  assert {p.stem for p in GOLDEN.iterdir()} == set(DRY_RUNS)


def eejax_commands(text):
  """Return the command lines of eejax in a dry run, as lists of words."""
  found = []
  for line in text.splitlines():
    words = shlex.split(line, comments=True) if 'eejax pretrain' in line else []
    # A remote command is one word here, and a command line there.
    while words and 'pretrain' not in words:
      (inner,) = (word for word in words if 'eejax pretrain ' in word)
      words = shlex.split(inner.removeprefix('--env=EEJAX='))
    if words:
      found.append(words[words.index('pretrain') - 1 :])
  return found


def check_command(words):
  """Parse a command as eejax does, its gin files and bindings, too."""
  from eejax.cli.gin import configurables  # noqa: F401

  assert words[:2] == ['eejax', 'pretrain']
  parser = main.build_parser(pretrain, 'eejax pretrain')
  args = parser.parse_args(gin_config.rewrite_bindings(words[2:]))
  assert args.gin_file
  run_flags.parse(args, pretrain._SHORTHANDS, default_file='missing.gin')
  return args


@pytest.mark.parametrize('name', [n for n in DRY_RUNS if 'jobset' not in n])
def test_ends_in_one_command_of_eejax(name):
  commands = eejax_commands((GOLDEN / f'{name}.txt').read_text())
  assert commands
  for words in commands:
    args = check_command([*words] if 'sky' not in name else [*words, '--run=r'])
    assert args.gin_bindings[:2] == ["EXITS='1:norm,2:mlp'", 'BATCH_SIZE=64']
    assert args.run


@pytest.mark.parametrize('name', [n for n in DRY_RUNS if 'jobset' in n])
def test_a_jobset_ends_in_one_command_of_eejax(name):
  text = (GOLDEN / f'{name}.txt').read_text()
  (manifest,) = re.findall(r'<<END\n(.*)^END', text, re.M | re.S)
  container = container_of(yaml.safe_load(manifest))
  args = check_command(container['args'])
  assert args.run == container['command'][-1] == '/mnt/runs/first'


def container_of(jobset):
  (job,) = jobset['spec']['replicatedJobs']
  (container,) = job['template']['spec']['template']['spec']['containers']
  return container


DOCS = (REPOSITORY / 'docs' / 'launching.md').read_text()
DOCUMENTED = [
  shlex.split(line.replace('BUCKET', 'bucket'))
  for block in re.findall(r'^```sh\n(.*?)^```', DOCS, re.M | re.S)
  for line in block.splitlines()
]


@pytest.mark.parametrize('words', DOCUMENTED, ids=shlex.join)
def test_documented_commands_run_dry(words, machine):
  words = words[words[0] == 'python' :]
  where = words.index('--') if '--' in words else len(words)
  launcher = words[0].removeprefix('launch/')
  done = machine.run([launcher, *words[1:where], '--dry-run'], words[where:])
  assert done.returncode == 0, done.stderr
  for command in eejax_commands(done.stdout):
    check_command([*command, '--run=r'])


def test_every_launcher_is_documented():
  files = [p for p in LAUNCH.iterdir() if p.is_file()]
  there = {p.name for p in files if '--dry-run' in p.read_text()}
  # The last two make an environment and run nothing.
  there -= {
    'launcher.sh',
    'launcher.py',
    't5x_environment.sh',
    'gpu_compiler.sh',
  }
  assert {words[words[0] == 'python'][7:] for words in DOCUMENTED} == there


# MARK: Files that run as they are


def test_the_jobset_as_it_stands():
  container = container_of(yaml.safe_load((LAUNCH / 'jobset.yaml').read_text()))
  args = check_command(container['args'])
  assert args.run == container['command'][-1]


def sky_run(environ, folder):
  """Run what sky.yaml runs, with a stand-in of eejax; return what it saw."""
  task = yaml.safe_load((LAUNCH / 'sky.yaml').read_text())
  eejax = folder / 'home' / 'eejax-venv' / 'bin' / 'eejax'
  eejax.parent.mkdir(parents=True)
  eejax.write_text('#!/bin/bash\nprintf "%s\\n" "$@"; env | grep ^EEJAX_\n')
  eejax.chmod(0o755)
  script = task['run'].replace('/mnt/runs', str(folder))
  return subprocess.run(
    ['bash', '-c', script],
    capture_output=True,
    text=True,
    cwd=REPOSITORY,
    env={
      'PATH': os.environ['PATH'],
      'HOME': str(folder / 'home'),
      **task['envs'],
      **environ,
    },
  ).stdout.splitlines()


def test_the_sky_task_as_it_stands(tmp_path):
  words = sky_run({'SKYPILOT_NUM_NODES': '1'}, tmp_path)
  args = check_command(['eejax', *words])
  assert args.run == f'{tmp_path}/tiny'
  assert (tmp_path / 'tiny' / 'logs').is_dir()


def test_hosts_of_sky_find_one_another(tmp_path):
  nodes = {
    'SKYPILOT_NUM_NODES': '2',
    'SKYPILOT_NODE_RANK': '1',
    'SKYPILOT_NODE_IPS': '10.0.0.4\n10.0.0.5',
  }
  words = sky_run(nodes, tmp_path)
  environ = dict(w.split('=', 1) for w in words if w.startswith('EEJAX_'))
  hosts = environment.from_environment(environ)
  assert (hosts.address, hosts.rank, hosts.count) == ('10.0.0.4:8476', 1, 2)


def test_hosts_of_a_gpu_jobset_find_one_another():
  text = (GOLDEN / 'jobset_gpu.txt').read_text()
  (manifest,) = re.findall(r'<<END\n(.*)^END', text, re.M | re.S)
  jobset = yaml.safe_load(manifest)
  environ = {
    entry['name']: entry.get('value', '1')
    for entry in container_of(jobset)['env']
  }
  hosts = environment.from_environment(environ)
  # JobSet's names: SET-JOB-INDEX-POD.SET
  assert hosts.address == 'eejax-first-hosts-0-0.eejax-first:8476'
  assert (hosts.rank, hosts.count) == (1, 2)


@pytest.mark.parametrize('path', sorted(LAUNCH.glob('*.s*')), ids=str)
def test_scripts_are_bash(path):
  assert subprocess.run(['bash', '-n', path]).returncode == 0


# MARK: Wrong input


WRONG = [
  ([*TPU_VM, '--gpu'], 'no flag --gpu'),
  (['tpu_vm.sh', '--run'], '--run needs a value'),
  (['tpu_vm.sh', *PROJECT[:2]], '--zone is missing'),
  (['tpu_vm.sh', *PROJECT, '--type', 'v6e-16'], '--bucket is missing'),
  ([*TPU_VM, '--bucket', 'lab-runs'], 'gs://NAME'),
  ([*TPU_VM, '--run', 'Two Words'], "'Two Words'"),
  ([*TPU_VM, '--type', 'v9-8'], 'give --runtime-version'),
  ([*TPU_VM, '--retries', 'many'], "not 'many'"),
  (['xpk.sh', *PROJECT], '--cluster is missing'),
  ([*XPK[:-4], '--run', 'first'], '--storage is missing'),
  ([*SKY, '--bucket', 'http://x'], 's3://NAME'),
  (['slurm.sbatch', '--nodes', '2'], '--run is missing'),
  ([*SLURM, '--nodes', 'two'], "not 'two'"),
  ([*DOCKER, '--extras', 'a b'], "not 'a b'"),
  (['docker.sh', '--push'], 'with its registry'),
  (JOBSET[:-2], '--run'),
  ([*JOBSET, '--tpu', 'tpu-v6e-slice', '--chips', '4'], '--topology'),
  ([*GPU_JOBSET, '--nodes', '0'], 'at least 1'),
  ([*VERTEX, '--gpu', 'tpu_v5e=8'], 'no TPU beyond v3'),
  ([*VERTEX, '--gpu', 'h100'], "not 'h100'"),
  ([*VERTEX, '--bucket', ''], '--bucket is missing'),
  ([*XM_SWEEP, '--sweep', 'SEED'], 'NAME=A,B'),
  ([*XM_SWEEP, '--sweep', 'SEED=3'], 'once'),
]


@pytest.mark.parametrize('words, sentence', WRONG)
def test_wrong_arguments_are_named(words, sentence, machine):
  done = machine.run(words)
  assert done.returncode == 2
  assert sentence in done.stderr
  assert machine.calls() == []


@pytest.mark.parametrize('words', [TPU_VM, SLURM, TPU_JOBSET, XM_SWEEP])
@pytest.mark.parametrize(
  'arguments, sentence',
  [
    ([], 'nothing to run'),
    (['--', 'train', '--gin_file=a.gin'], "'train' is no run"),
    (['--', 'tune', '--steps=2'], '--gin_file=runs/tune.gin'),
    (['--', 'tune', '--gin_file=a.gin', '--run=b'], 'give --run before --'),
    (['--', 'tune', '--gin_file=a.gin', "--gin.RUN='b'"], 'give --run before'),
  ],
)
def test_wrong_runs_are_named(words, arguments, sentence, machine):
  done = machine.run(words, arguments)
  assert done.returncode == 2
  assert sentence in done.stderr


@pytest.mark.parametrize(
  'words, tool',
  [
    (TPU_VM, 'gcloud'),
    (XPK, 'gcloud'),
    (SKY, 'sky'),
    (SLURM, 'sbatch'),
    (DOCKER, 'docker'),
    (TPU_JOBSET, 'kubectl'),
    (VERTEX, 'gcloud'),
    (XM_SWEEP, 'eejax'),
  ],
)
def test_a_missing_tool_is_named(words, tool, machine):
  done = machine.run(words)
  assert done.returncode == 1
  assert f'{tool} is not installed' in done.stderr


MISSING = [
  (TPU_VM, 'projects describe', 'project lab'),
  (TPU_VM, 'locations describe', 'zone us-east5-a'),
  (TPU_VM, 'accelerator-types describe', 'v6e-16'),
  (TPU_VM, 'buckets describe', 'bucket gs://lab-runs'),
  (XPK, 'projects describe', 'project lab'),
  (XPK, 'clusters describe', 'cluster c'),
  (XPK, 'storage list', 'xpk storage attach runs'),
  (SKY, 'buckets describe', 'bucket gs://lab-runs'),
  (SKY, 'check', 'no cloud is set up'),
  ([*SLURM, '--partition', 'gpu'], '--partition=gpu', 'no partition gpu'),
  ([*SLURM, '--venv', '/nowhere'], 'nothing', 'no eejax in'),
  (DOCKER, 'info', 'daemon does not answer'),
  (TPU_JOBSET, 'get crd', 'has no JobSet'),
  (TPU_JOBSET, 'buckets describe', 'bucket gs://lab-runs'),
  (VERTEX, 'projects describe', 'project lab'),
  (VERTEX, 'buckets describe', 'bucket gs://lab-runs'),
]
# What makes something, in the words of these programs.
MAKES = {'create', 'apply', 'launch', 'sbatch', 'build', 'run', 'ssh', 'mkdir'}


@pytest.mark.parametrize('words, refused, sentence', MISSING)
def test_what_is_missing_is_named_first(words, refused, sentence, machine):
  fails = f'case "$*" in *"{refused}"*) exit 1 ;; esac'
  for tool in ('gcloud', 'xpk', 'sky', 'sbatch', 'sinfo', 'docker', 'kubectl'):
    machine.add(tool, fails)
  machine.add('git')
  done = machine.run(words)
  assert done.returncode == 1
  assert sentence in done.stderr
  assert [c for c in machine.calls() if MAKES & set(c.split())] == []


# MARK: TPU slices


# A queue of one: its state is a file; RUNS holds an exit code for each run,
# with what happens to the slice.
GCLOUD = """
state={folder}/state
next() {{ head=$(sed -n 1p "$1"); sed -i 1d "$1"; echo "$head"; }}
case "$*" in
  *queued-resources\\ describe*) [[ -e $state ]] && cat "$state" ;;
  *queued-resources\\ create*)
    {create}
    next {folder}/created >"$state" ;;
  *queued-resources\\ delete*) rm "$state" ;;
  *with_log.sh*)
    read -r code then <<<"$(next {folder}/runs)"
    [[ -z $then ]] || echo "$then" >"$state"
    exit "$code" ;;
esac
"""


def run_on_tpu(machine, *, created='ACTIVE', runs='0', create='', flags=()):
  (machine.bin / 'rm').symlink_to(shutil.which('rm'))
  (machine.folder / 'created').write_text(created)
  (machine.folder / 'runs').write_text(runs)
  machine.add('git')
  machine.add('gcloud', GCLOUD.format(folder=machine.folder, create=create))
  return machine.run([*TPU_VM, '--poll', '0', '--retries', '3', *flags])


def test_a_slice_is_made_used_and_deleted(machine):
  done = run_on_tpu(machine)
  assert done.returncode == 0, done.stderr
  (create,) = machine.named('queued-resources', 'create')
  assert '--accelerator-type=v6e-16' in create
  assert len(machine.named('scp')) == 1
  setup, run = machine.named('ssh')
  assert 'tpu_vm_setup.sh' in setup
  assert '--run=/mnt/runs/first' in run
  assert len(machine.named('delete')) == 1
  assert 'gs://lab-runs/first' in done.stderr


def test_after_a_pre_emption_the_same_run_goes_on(machine):
  done = run_on_tpu(
    machine, created='ACTIVE\nACTIVE\n', runs='255 SUSPENDED\n0\n'
  )
  assert done.returncode == 0, done.stderr
  assert 'pre-empted' in done.stderr
  assert len(machine.named('create')) == 2
  runs = [call for call in machine.named('ssh') if 'with_log.sh' in call]
  assert len(runs) == 2 and runs[0] == runs[1]


def test_a_queue_that_fails_is_asked_again(machine):
  done = run_on_tpu(machine, created='FAILED\nSUSPENDED\nACTIVE\n')
  assert done.returncode == 0, done.stderr
  assert len(machine.named('create')) == 3


def test_it_gives_up(machine):
  done = run_on_tpu(machine, created='FAILED\n' * 4)
  assert done.returncode == 1
  assert 'no slice lasted in 4 tries' in done.stderr
  assert machine.named('ssh') == []


def test_a_quota_is_named(machine):
  said = 'echo "ERROR: Quota limit TPUV6E exceeded. Limit: 8" >&2; exit 1'
  done = run_on_tpu(machine, create=said, flags=['--spot'])
  assert done.returncode == 1
  assert 'quota of lab in us-east5-a does not cover v6e-16' in done.stderr
  assert len(machine.named('create')) == 1
  assert machine.named('ssh') == []


def test_a_run_that_fails_is_not_run_again(machine):
  done = run_on_tpu(machine, runs='2')
  assert done.returncode == 1
  assert 'gs://lab-runs/first/logs' in done.stderr
  assert len(machine.named('delete')) == 1


def test_a_slice_that_is_there_is_used_and_kept(machine):
  (machine.folder / 'state').write_text('ACTIVE')
  done = run_on_tpu(machine, flags=['--keep'])
  assert done.returncode == 0, done.stderr
  assert machine.named('create') == machine.named('delete') == []


# MARK: Other clouds


def test_xpk_starts_a_workload(machine):
  machine.add('gcloud')
  machine.add('xpk', '[[ $2 != list ]] || echo "| runs | gcsfuse |"')
  assert machine.run(XPK).returncode == 0
  (create,) = machine.named('workload', 'create')
  assert '--restart-on-exit-codes=1' in create


def test_xpk_says_what_fails(machine):
  machine.add('gcloud')
  fails = '[[ $2 != create ]] || { echo "quota exceeded" >&2; exit 3; }'
  machine.add('xpk', f'{fails}\necho runs')
  done = machine.run(XPK)
  assert done.returncode == 3
  assert 'quota exceeded' in done.stderr


def test_sky_gets_a_task_with_the_bucket(machine):
  machine.add('gcloud')
  machine.add(
    'sky', f'[[ $1 != jobs ]] || cat "${{@: -1}}" >{machine.folder}/y'
  )
  assert machine.run(SKY).returncode == 0
  task = yaml.safe_load((machine.folder / 'y').read_text())
  assert task['file_mounts']['/mnt/runs']['source'] == 'gs://lab-runs'
  assert '--no-use-spot' in machine.calls()[-1].split()


def test_kubectl_gets_the_jobset(machine):
  machine.add('gcloud')
  machine.add('kubectl', f'[[ $1 != apply ]] || cat >{machine.folder}/y')
  assert machine.run(GPU_JOBSET).returncode == 0
  jobset = yaml.safe_load((machine.folder / 'y').read_text())
  assert jobset['spec']['failurePolicy']['maxRestarts'] == 20
  assert container_of(jobset)['image'] == 'registry/eejax'


def test_docker_builds_and_runs(machine):
  machine.add('docker')
  assert machine.run(DOCKER).returncode == 0
  (machine.folder / 'runs').rmdir()  # it was made
  words = [call.split()[1] for call in machine.calls()]
  assert words == ['info', 'build', 'ps', 'rm', 'run', 'logs']
  assert f'--volume={machine.folder}/runs:/mnt/runs' in machine.calls()[-2]


def test_docker_leaves_a_run_that_goes_on(machine):
  machine.add('docker', '[[ $1 != ps ]] || echo 3f2a')
  done = machine.run(DOCKER)
  assert done.returncode == 1
  assert 'docker logs eejax-first' in done.stderr
  assert machine.named('run') == []


def test_docker_pushes_and_runs_nothing(machine):
  machine.add('docker')
  words = ['docker.sh', '--push', '--image', 'registry/eejax']
  assert machine.run(words, []).returncode == 0
  assert machine.calls()[-1] == 'docker push registry/eejax'
  assert machine.named('run') == []


# MARK: Slurm


# Slurm runs a copy of the script.
SBATCH = """
export SLURM_JOB_ID=42
while [[ $1 == --* ]]; do
  case $1 in
    --export=ALL,*)
      IFS=, read -ra pairs <<<"${1#--export=ALL,}"
      export "${pairs[@]}" ;;
  esac
  shift
done
cat "$1" >"$HOME/slurm_script"
echo $$ >"$HOME/pid"
shift
exec bash "$HOME/slurm_script" "$@"
"""
SRUN = 'shift; exec "$@"'
EEJAX = """
trap 'echo saved; exit 1' TERM
echo "run $*"
[[ -e $HOME/waits ]] || exit "${CODE:-0}"
touch "$HOME/started"
while true; do sleep 0.05; done
"""


@pytest.fixture
def slurm(machine):
  (machine.bin / 'touch').symlink_to(shutil.which('touch'))
  machine.add('sbatch', SBATCH)
  machine.add('srun', SRUN)
  machine.add('scontrol')
  machine.add('eejax', EEJAX, folder=machine.folder / 'venv' / 'bin')
  machine.words = ['slurm.sbatch', '--run', 'runs/first', '--venv']
  machine.words += [str(machine.folder / 'venv')]
  return machine


def test_slurm_runs_in_the_folder_of_the_run(slurm):
  done = slurm.run(slurm.words)
  assert done.returncode == 0, done.stderr
  folder = slurm.folder / 'runs' / 'first'
  assert f'--run={folder}' in done.stdout
  (log,) = (folder / 'logs').iterdir()
  assert log.read_text() == done.stdout
  assert slurm.named('scontrol') == []


def test_a_job_that_fails_is_not_queued_again(slurm):
  slurm.add('eejax', 'exit 1', folder=slurm.folder / 'venv' / 'bin')
  assert slurm.run(slurm.words).returncode == 1
  assert slurm.named('scontrol') == []


def test_at_its_time_limit_a_job_saves_and_queues_again(slurm):
  (slurm.folder / 'waits').touch()
  with subprocess.Popen(
    slurm.command(slurm.words, RUN),
    stdout=subprocess.PIPE,
    text=True,
    cwd=slurm.folder,
    env=slurm.environment(),
  ) as job:
    wait_for(slurm.folder / 'started')
    pid = int((slurm.folder / 'pid').read_text())
    os.kill(pid, signal.SIGUSR1)
    out, _ = job.communicate(timeout=30)
  assert job.returncode == 1
  assert 'saved' in out
  assert slurm.calls()[-1] == 'scontrol requeue 42'
  (slurm.folder / 'waits').unlink()
  again = slurm.run(slurm.words)
  assert again.returncode == 0
  assert again.stdout.splitlines()[0] == out.splitlines()[0]


def wait_for(path):
  for _ in range(600):
    if path.exists():
      return
    time.sleep(0.05)
  raise AssertionError(f'{path} did not appear')


# MARK: Logs


def test_a_log_holds_both_streams_and_the_exit_code_stays(tmp_path):
  done = subprocess.run(
    [LAUNCH / 'with_log.sh', tmp_path / 'run', 'bash', '-c']
    + ['echo out; echo err >&2; exit 7'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 7
  (log,) = (tmp_path / 'run' / 'logs').iterdir()
  assert log.read_text() == done.stdout == 'out\nerr\n'


def test_a_signal_goes_on_to_the_command(tmp_path):
  script = (
    'trap "echo saved; exit 1" TERM; echo go; while :; do sleep 0.05; done'
  )
  with subprocess.Popen(
    [LAUNCH / 'with_log.sh', tmp_path, 'bash', '-c', script],
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'go\n'
    process.terminate()
    assert process.stdout.read() == 'saved\n'
  assert process.returncode == 1


# MARK: XManager


# What of XManager's names the launcher uses; jobs run as they do there.
XM = """
import subprocess, types
class ExperimentUnitError(RuntimeError): pass
class JobRequirements(dict): pass
def binary(spec, path): return (spec, [path])
def container(image, executor_spec): return (executor_spec, ['run', image])
class Job:
  def __init__(self, executable, executor, args):
    self.words = [*executable[1], *args]
class Unit:
  def __init__(self, job): self.job = job
  async def wait_until_complete(self):
    self.code = subprocess.run(self.job.words).returncode
    if self.code: raise ExperimentUnitError
"""
XM_LOCAL = """
from xmanager import xm
class Local:
  Spec = dict
class Vertex:
  Spec = dict
  def __init__(self, requirements): print('needs', dict(requirements))
class create_experiment:
  def __init__(self, title): self.units = []
  async def __aenter__(self): return self
  async def __aexit__(self, *error):
    if any(unit.code for unit in self.units): raise RuntimeError('non-zero')
  def package(self, specs): return specs
  async def add(self, job):
    self.units.append(xm.Unit(job))
    return self.units[-1]
"""
VERTEX_CLIENT = """
class Client:
  def __init__(self, project, location): print('client', project, location)
def set_default_client(client): pass
"""


@pytest.fixture
def xmanager(machine):
  package = machine.folder / 'python' / 'xmanager'
  (package / 'cloud').mkdir(parents=True)
  (package / '__init__.py').touch()
  (package / 'cloud' / '__init__.py').touch()
  (package / 'xm.py').write_text(XM)
  (package / 'xm_local.py').write_text(XM_LOCAL)
  (package / 'cloud' / 'vertex.py').write_text(VERTEX_CLIENT)
  return machine


def test_a_sweep_runs_every_combination(xmanager):
  xmanager.add('eejax', '[[ "$*" != *SEED=1* ]] || exit 1')
  done = xmanager.run(XM_SWEEP)
  assert done.returncode == 1
  folders = [
    f'runs/sweep/LEARNING_RATE={rate},SEED={seed}'
    for rate in ('1e-3', '3e-3')
    for seed in (0, 1)
  ]
  runs = [shlex.split(call)[-1] for call in xmanager.named('eejax')]
  assert runs == [f'--run={folder}' for folder in folders]
  assert [f for f in folders if f'{f} failed' in done.stderr] == folders[1::2]
  for folder in folders:
    assert len(list((xmanager.folder / folder / 'logs').iterdir())) == 1


def test_vertex_runs_the_image_on_gpus(xmanager):
  xmanager.add('gcloud')
  xmanager.add('run')
  done = xmanager.run(VERTEX)
  assert done.returncode == 0, done.stderr
  assert "needs {'h100': 8}" in done.stdout
  assert 'client lab us-central1' in done.stdout
  words = shlex.split(xmanager.calls()[-1])
  folder = '/gcs/lab-runs/first'
  assert words[:4] == ['run', 'registry/eejax', folder, 'eejax']
  assert words[-1] == f'--run={folder}'


def test_a_missing_xmanager_is_named(machine):
  machine.add('eejax')
  package = machine.folder / 'python' / 'xmanager'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('raise ImportError')
  done = machine.run(XM_SWEEP)
  assert done.returncode == 1
  assert 'pip install xmanager' in done.stderr
