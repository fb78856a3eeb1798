#!/usr/bin/env bash
# Run eejax on a TPU slice of a GKE cluster that xpk looks after.
#
#   launch/xpk.sh --project P --zone us-east5-a --cluster C --type v6e-16 \
#     --image us-docker.pkg.dev/P/eejax/eejax:tpu --storage runs --run first \
#     -- pretrain --gin_file=runs/pretrain.gin --gin.MESH="'fsdp=-1'"
#
#   --project P       Google Cloud project
#   --zone Z          zone of the cluster
#   --cluster C       made by `xpk cluster create`
#   --type T          TPU type: v5litepod-8, v5p-64, v6e-16; one slice
#   --image I         of launch/docker.sh, with the extra tpu
#   --storage S       a bucket that `xpk storage attach` made known
#   --mount-point M   where S is in the containers (/mnt/runs)
#   --run NAME        folder of the run in the storage
#   --name N          of the workload (eejax-NAME)
#   --retries N       how often the workload starts again (20)
#   --priority P      of the workload: very-low to very-high (medium)
#   --spot            on spot machines, where xpk provisions them itself
#   --dry-run         print every command, create nothing
#
# A workload that is pre-empted starts again and goes on from its last
# checkpoint; one whose arguments eejax refuses does not start again.
set -euo pipefail

LAUNCHER=xpk.sh
# shellcheck source-path=SCRIPTDIR source=launcher.sh
source "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"

project='' zone='' cluster='' type='' image='' storage='' run='' name=''
mount=/mnt/runs retries=20 priority=medium spot=()
while (($#)); do
  case $1 in
    --project) project=$(launcher_value "$@"); shift ;;
    --zone) zone=$(launcher_value "$@"); shift ;;
    --cluster) cluster=$(launcher_value "$@"); shift ;;
    --type) type=$(launcher_value "$@"); shift ;;
    --image) image=$(launcher_value "$@"); shift ;;
    --storage) storage=$(launcher_value "$@"); shift ;;
    --mount-point) mount=$(launcher_value "$@"); shift ;;
    --run) run=$(launcher_value "$@"); shift ;;
    --name) name=$(launcher_value "$@"); shift ;;
    --retries) retries=$(launcher_value "$@"); shift ;;
    --priority) priority=$(launcher_value "$@"); shift ;;
    --spot) spot=(--spot) ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) launcher_help "$0"; exit ;;
    --) shift; break ;;
    *) launcher_wrong "there is no flag $1 (--help lists them)." ;;
  esac
  shift
done

launcher_need --project "$project" 'a Google Cloud project'
launcher_need --zone "$zone" 'the zone of the cluster'
launcher_need --cluster "$cluster" 'a cluster that xpk made'
launcher_need --type "$type" 'a TPU type, as in v6e-16'
launcher_need --image "$image" 'an image of launch/docker.sh'
launcher_need --storage "$storage" "a bucket's name in \`xpk storage list\`"
launcher_need --run "$run" 'the name of the run'
launcher_name --run "$run"
name=${name:-eejax-$run}
launcher_name --name "$name"
launcher_number --retries "$retries"
launcher_eejax "$mount/$run" "$@"

place=("--project=$project" "--zone=$zone")
# xpk forwards SIGTERM to the process that it starts: exec makes it this one.
command="exec bash /eejax/launch/with_log.sh $mount/$run"
command+=" $(launcher_quoted "${EEJAX[@]}")"

launcher_tool gcloud 'get it from https://cloud.google.com/sdk/docs/install'
launcher_tool xpk 'pip install xpk'
launcher_check "the project $project cannot be reached." \
  gcloud projects describe "$project"
launcher_check "there is no cluster $cluster in ${zone%-*}." \
  gcloud container clusters describe "$cluster" "--project=$project" \
  "--location=${zone%-*}"
list=(xpk storage list "${place[@]}" "--cluster=$cluster")
if [[ -n $DRY_RUN ]]; then
  launcher_quoted "${list[@]}"
else
  "${list[@]}" | grep -qw -- "$storage" || launcher_fail \
    "$cluster knows no storage $storage; name a bucket so: xpk storage attach" \
    "$storage --type=gcsfuse --bucket=BUCKET --mount-point=$mount" \
    "--auto-mount=false --readonly=false ${place[*]} --cluster=$cluster"
fi

# eejax ends with 1 when it was told to stop, or lost a host; wrong arguments
# are 2. Other codes that xpk starts again at are those of signals.
launcher_run xpk workload create "${place[@]}" "--cluster=$cluster" \
  "--workload=$name" "--tpu-type=$type" --num-slices=1 \
  "--docker-image=$image" "--storage=$storage" "--priority=$priority" \
  "--max-restarts=$retries" --restart-on-exit-codes=1 \
  --termination-grace-period-seconds=120 ${spot[@]+"${spot[@]}"} \
  "--command=$command"
