#!/usr/bin/env bash
# Run eejax on a cloud through SkyPilot, as a managed job of launch/sky.yaml.
#
#   launch/sky.sh --bucket gs://B --run first --accelerators H100:8 --spot \
#     -- pretrain --gin_file=runs/pretrain.gin --gin.MESH="'fsdp=-1'"
#
#   --bucket U          gs://NAME, s3://NAME or r2://NAME, mounted at /mnt/runs
#   --run NAME          folder of the run in the bucket
#   --accelerators A    H100:8, tpu-v6e-8
#   --nodes N           machines, each with these accelerators (1)
#   --infra I           where, as in gcp/us-east5 (what is cheapest)
#   --spot              cheaper, may be pre-empted
#   --dry-run           print every command, create nothing
#
# SkyPilot starts the job again after a pre-emption, and the run goes on from
# its last checkpoint. The same command goes on with a run.
set -euo pipefail

LAUNCHER=sky.sh
# shellcheck source-path=SCRIPTDIR source=launcher.sh
source "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"

bucket='' run='' accelerators='' nodes=1 infra=() spot=(--no-use-spot)
while (($#)); do
  case $1 in
    --bucket) bucket=$(launcher_value "$@"); shift ;;
    --run) run=$(launcher_value "$@"); shift ;;
    --accelerators) accelerators=$(launcher_value "$@"); shift ;;
    --nodes) nodes=$(launcher_value "$@"); shift ;;
    --infra) infra=("--infra=$(launcher_value "$@")"); shift ;;
    --spot) spot=(--use-spot) ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) launcher_help "$0"; exit ;;
    --) shift; break ;;
    *) launcher_wrong "there is no flag $1 (--help lists them)." ;;
  esac
  shift
done

launcher_need --bucket "$bucket" 'a bucket for the run'
launcher_need --run "$run" 'the name of the run'
launcher_need --accelerators "$accelerators" 'what to run on, as in H100:8'
[[ $bucket =~ ^(gs|s3|r2)://[a-z0-9][a-z0-9._-]+$ ]] ||
  launcher_wrong "--bucket must be gs://NAME, s3://NAME or r2://NAME," \
    "not '$bucket'."
launcher_name --run "$run"
launcher_number --nodes "$nodes"
launcher_eejax "/mnt/runs/$run" "$@"
# sky.yaml adds the folder of the run.
unset 'EEJAX[-1]'

extras=cuda,train
[[ $accelerators != tpu* ]] || extras=tpu,train

launcher_tool sky "pip install 'skypilot[gcp]', or another cloud's extra"
case $bucket in
  gs://*)
    launcher_tool gcloud 'get it from https://cloud.google.com/sdk/docs/install'
    launcher_check "the bucket $bucket cannot be reached; make it first." \
      gcloud storage buckets describe "$bucket"
    ;;
  s3://*)
    launcher_tool aws 'get it from https://aws.amazon.com/cli'
    launcher_check "the bucket $bucket cannot be reached; make it first." \
      aws s3api head-bucket "--bucket=${bucket#s3://}"
    ;;
esac
launcher_check 'no cloud is set up; `sky check` says why.' sky check

# The bucket stands in the file, for sky has no flag for it. The file is made
# anew at every call, beside nothing else.
task=${TMPDIR:-/tmp}/eejax-$run.yaml
fill=(sed "s|gs://BUCKET|$bucket|" "$LAUNCH_FOLDER/sky.yaml")
if [[ -n $DRY_RUN ]]; then
  echo "$(launcher_quoted "${fill[@]}") >$(launcher_quoted "$task")"
else
  "${fill[@]}" >"$task"
fi
cd "$LAUNCH_ROOT"
launcher_run sky jobs launch --yes "--name=eejax-$run" \
  "--gpus=$accelerators" "--num-nodes=$nodes" "${spot[@]}" \
  ${infra[@]+"${infra[@]}"} "--env=RUN=$run" "--env=EXTRAS=$extras" \
  "--env=EEJAX=$(launcher_quoted "${EEJAX[@]}")" "$task"
