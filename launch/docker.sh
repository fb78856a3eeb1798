#!/usr/bin/env bash
# Build eejax's image, and run eejax in it on this machine or send it away.
#
#   launch/docker.sh --extras cuda,train --runs runs --run first --gpus all \
#     -- pretrain --gin_file=runs/pretrain.gin
#   launch/docker.sh --extras tpu,train --push \
#     --image us-docker.pkg.dev/PROJECT/eejax/eejax:tpu
#
#   --image I       name of the image (eejax)
#   --extras A,B    of eejax: cuda or tpu, train and others (train)
#   --push          send the image to its registry; nothing is run
#   --runs FOLDER   of this machine, /mnt/runs in the container (runs)
#   --run NAME      folder of the run in it
#   --gpus G        what docker's own flag takes, as in all
#   --retries N     how often a run that failed starts again (20)
#   --dry-run       print every command, create nothing
#
# A run that failed starts again and goes on from its last checkpoint, after the
# machine was started again, too. The same command goes on with a run.
set -euo pipefail

LAUNCHER=docker.sh
# shellcheck source-path=SCRIPTDIR source=launcher.sh
source "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"

MOUNT=/mnt/runs

image=eejax extras=train push='' runs=runs run='' gpus=() retries=20
while (($#)); do
  case $1 in
    --image) image=$(launcher_value "$@"); shift ;;
    --extras) extras=$(launcher_value "$@"); shift ;;
    --runs) runs=$(launcher_value "$@"); shift ;;
    --run) run=$(launcher_value "$@"); shift ;;
    --gpus) gpus=("--gpus=$(launcher_value "$@")"); shift ;;
    --retries) retries=$(launcher_value "$@"); shift ;;
    --push) push=1 ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) launcher_help "$0"; exit ;;
    --) shift; break ;;
    *) launcher_wrong "there is no flag $1 (--help lists them)." ;;
  esac
  shift
done

launcher_number --retries "$retries"
[[ $extras =~ ^[a-z]+(,[a-z]+)*$ ]] ||
  launcher_wrong "--extras must be names between commas, not '$extras'."
if [[ -n $push ]]; then
  [[ $image == */* ]] ||
    launcher_wrong "--push needs an --image with its registry, not '$image'."
else
  launcher_need --run "$run" 'the name of the run'
  launcher_name --run "$run"
  launcher_eejax "$MOUNT/$run" "$@"
fi

launcher_tool docker 'see https://docs.docker.com/engine/install'
launcher_check 'the Docker daemon does not answer; start it.' docker info

launcher_run docker build "--file=$LAUNCH_FOLDER/Dockerfile" \
  "--build-arg=EXTRAS=$extras" "--tag=$image" "$LAUNCH_ROOT"
if [[ -n $push ]]; then
  launcher_run docker push "$image"
  exit
fi

# The container of an earlier call is gone once it has ended.
going=(docker ps --quiet "--filter=name=^eejax-$run\$")
if [[ -n $DRY_RUN ]]; then
  launcher_quoted "${going[@]}"
elif [[ -n $("${going[@]}") ]]; then
  launcher_fail "the run is going on; look at it with docker logs eejax-$run."
fi
launcher_run docker rm --force "eejax-$run"
launcher_run mkdir -p "$runs"
[[ -n $DRY_RUN ]] || runs=$(cd "$runs" && pwd)
launcher_run docker run --detach "--name=eejax-$run" \
  "--restart=on-failure:$retries" --stop-timeout=120 --shm-size=8g \
  ${gpus[@]+"${gpus[@]}"} "--volume=$runs:$MOUNT" \
  "$image" "$MOUNT/$run" "${EEJAX[@]}"
launcher_run docker logs --follow "eejax-$run"
