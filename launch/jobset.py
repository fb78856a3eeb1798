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
r"""Run eejax on a GKE cluster as a JobSet: launch/jobset.yaml, filled in.

Example:
  python launch/jobset.py --image us-docker.pkg.dev/P/eejax/eejax:tpu \
    --bucket gs://BUCKET --run first --tpu tpu-v5-lite-podslice \
    --topology 4x4 --nodes 4 --chips 4 \
    -- pretrain --gin_file=runs/pretrain.gin --gin.MESH="'fsdp=-1'"
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from launcher import Launcher  # noqa: E402

MANIFEST = pathlib.Path(__file__).with_name('jobset.yaml')
MOUNT = '/mnt/runs'
# One port for jax's coordination service, the next one for joining.
PORT = 8476


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Read the flags; what stands behind `--` is eejax's."""
  parser = argparse.ArgumentParser(
    prog='jobset.py',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  flag = parser.add_argument
  flag('--image', required=True, help='of launch/docker.sh')
  flag('--bucket', required=True, help='gs://NAME, mounted at /mnt/runs')
  flag('--run', required=True, help='folder of the run in the bucket')
  kind = parser.add_mutually_exclusive_group(required=True)
  kind.add_argument('--tpu', help='as GKE names it: tpu-v5-lite-podslice')
  kind.add_argument('--gpu', help='as GKE names it: nvidia-h100-80gb')
  flag('--topology', help='of the TPU slice, as in 4x4')
  flag('--nodes', type=int, default=1, help='hosts (1)')
  flag('--chips', type=int, required=True, help='TPU chips or GPUs of a host')
  flag('--retries', type=int, default=20, help='restarts of all hosts (20)')
  flag('--service-account', default='default', help='may use the bucket')
  flag('--context', help='of kubectl; by default the current one')
  flag('--dry-run', action='store_true', help='print all, create nothing')
  flag('eejax', nargs='*', metavar='-- VERB ...', help='pretrain or tune')
  return parser.parse_args(argv)


def manifest(args: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
  """Return the JobSet for what was asked."""
  jobset = yaml.safe_load(MANIFEST.read_text())
  name = jobset['metadata']['name'] = f'eejax-{args.run}'
  jobset['spec']['failurePolicy']['maxRestarts'] = args.retries
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  job['parallelism'] = job['completions'] = args.nodes
  pod = job['template']['spec']
  pod['serviceAccountName'] = args.service_account
  pod['volumes'][0]['csi']['volumeAttributes']['bucketName'] = (
    args.bucket.removeprefix('gs://')
  )
  folder = f'{MOUNT}/{args.run}'
  (container,) = pod['containers']
  container['image'] = args.image
  container['command'][-1] = folder
  container['args'] = ['eejax', *words, f'--run={folder}']
  if args.tpu:
    pod['nodeSelector'] = {
      'cloud.google.com/gke-tpu-accelerator': args.tpu,
      'cloud.google.com/gke-tpu-topology': args.topology,
    }
    container['resources'] = {'limits': {'google.com/tpu': args.chips}}
  else:
    pod['nodeSelector'] = {'cloud.google.com/gke-accelerator': args.gpu}
    container['resources'] = {'limits': {'nvidia.com/gpu': args.chips}}
    container['env'] = _hosts(name, args.nodes)
  return jobset


def _hosts(name: str, nodes: int) -> list[dict[str, Any]]:
  """Return the variables by which the hosts find one another."""
  index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  return [
    {'name': 'EEJAX_COORDINATOR', 'value': f'{name}-hosts-0-0.{name}:{PORT}'},
    {'name': 'EEJAX_NUM_PROCESSES', 'value': str(nodes)},
    {
      'name': 'EEJAX_PROCESS_ID',
      'valueFrom': {'fieldRef': {'fieldPath': index}},
    },
  ]


def main(argv: Sequence[str]) -> None:
  """Check what is asked for, then apply the JobSet."""
  args = parse(argv)
  launcher = Launcher('jobset.py', dry_run=args.dry_run)
  launcher.check_name('--run', args.run)
  launcher.check_bucket(args.bucket)
  if args.tpu and not args.topology:
    launcher.wrong('--tpu needs the --topology of the slice, as in 4x4.')
  if min(args.nodes, args.chips) < 1:
    launcher.wrong('--nodes and --chips must be at least 1.')
  words = launcher.eejax_arguments(args.eejax)
  kubectl = ['kubectl', *([f'--context={args.context}'] * bool(args.context))]

  launcher.check_tool('kubectl', 'see https://kubernetes.io/docs/tasks/tools')
  launcher.check_tool('gcloud', 'see https://cloud.google.com/sdk/docs/install')
  launcher.check(
    'the cluster does not answer or has no JobSet; see '
    'https://jobset.sigs.k8s.io/docs/installation.',
    [*kubectl, 'get', 'crd', 'jobsets.jobset.x-k8s.io'],
  )
  launcher.check(
    f'the bucket {args.bucket} cannot be reached; make it first.',
    ['gcloud', 'storage', 'buckets', 'describe', args.bucket],
  )
  text = yaml.safe_dump(manifest(args, words), sort_keys=False, width=200)
  launcher.run([*kubectl, 'apply', '--filename=-'], text=text)


if __name__ == '__main__':
  main(sys.argv[1:])
