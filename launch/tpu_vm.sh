#!/usr/bin/env bash
# Run eejax on a Cloud TPU slice that a queued resource provides.
#
#   launch/tpu_vm.sh --project P --zone us-east5-a --type v6e-16 \
#     --bucket gs://BUCKET --run first --spot \
#     -- pretrain --gin_file=runs/pretrain.gin --gin.MESH="'fsdp=-1'"
#
#   --project P          Google Cloud project
#   --zone Z             zone of the TPUs
#   --type T             accelerator type: v5litepod-8, v5p-64, v6e-16
#   --bucket gs://B      mounted on every host at /mnt/runs
#   --run NAME           folder of the run in the bucket
#   --name N             of the queued resource (eejax-NAME)
#   --runtime-version V  image of the hosts (the one for T)
#   --spot               cheaper, may be pre-empted
#   --retries N          how often a slice is asked for again (20)
#   --poll SECONDS       between two looks at the queue (30)
#   --keep               leave the TPU when the run has ended
#   --dry-run            print every command, create nothing
#
# A slice that is pre-empted, or that the queue fails to provide, is deleted and
# asked for again; the run goes on from its last checkpoint. The same command
# goes on with a run, or with a slice that is already there.
set -euo pipefail

LAUNCHER=tpu_vm.sh
# shellcheck source-path=SCRIPTDIR source=launcher.sh
source "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"

MOUNT=/mnt/runs

project='' zone='' type='' bucket='' run='' name='' version='' keep=''
spot=() retries=20 poll=30
while (($#)); do
  case $1 in
    --project) project=$(launcher_value "$@"); shift ;;
    --zone) zone=$(launcher_value "$@"); shift ;;
    --type) type=$(launcher_value "$@"); shift ;;
    --bucket) bucket=$(launcher_value "$@"); shift ;;
    --run) run=$(launcher_value "$@"); shift ;;
    --name) name=$(launcher_value "$@"); shift ;;
    --runtime-version) version=$(launcher_value "$@"); shift ;;
    --retries) retries=$(launcher_value "$@"); shift ;;
    --poll) poll=$(launcher_value "$@"); shift ;;
    --spot) spot=(--spot) ;;
    --keep) keep=1 ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) launcher_help "$0"; exit ;;
    --) shift; break ;;
    *) launcher_wrong "there is no flag $1 (--help lists them)." ;;
  esac
  shift
done

# MARK: What is asked for

runtime_of() {
  case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) launcher_wrong "which image suits --type $1 is not known;" \
      'give --runtime-version.' ;;
  esac
}

launcher_need --project "$project" 'a Google Cloud project'
launcher_need --zone "$zone" 'a zone that has TPUs, as in us-east5-a'
launcher_need --type "$type" 'an accelerator type, as in v6e-16'
launcher_need --bucket "$bucket" 'a bucket for the run, gs://NAME'
launcher_need --run "$run" 'the name of the run'
launcher_bucket "$bucket"
launcher_name --run "$run"
name=${name:-eejax-$run}
launcher_name --name "$name"
launcher_number --retries "$retries"
launcher_number --poll "$poll"
[[ -n $version ]] || version=$(runtime_of "$type")
folder=$MOUNT/$run
launcher_eejax "$folder" "$@"

place=("--project=$project" "--zone=$zone")
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
archive=${TMPDIR:-/tmp}/$name.tar.gz
setup="mkdir -p eejax && tar -xzf $name.tar.gz -C eejax"
setup+=" && bash eejax/launch/tpu_vm_setup.sh ${bucket#gs://} $MOUNT"
remote="cd eejax && export PATH=\"\$HOME/eejax-venv/bin:\$PATH\""
remote+=" && bash launch/with_log.sh $folder $(launcher_quoted "${EEJAX[@]}")"

# MARK: Before anything is created

launcher_tool gcloud 'get it from https://cloud.google.com/sdk/docs/install'
launcher_tool git 'install it with the packages of your system'
launcher_check "the project $project cannot be reached." \
  gcloud projects describe "$project"
launcher_check "there are no TPUs in the zone $zone for $project." \
  gcloud compute tpus locations describe "$zone" "--project=$project"
launcher_check "the zone $zone has no TPU of the type $type." \
  gcloud compute tpus accelerator-types describe "$type" "${place[@]}"
launcher_check "the bucket $bucket cannot be reached; make it first." \
  gcloud storage buckets describe "$bucket" "--project=$project"

# MARK: The slice

# Print the state of the queued resource, NONE where there is none.
state() {
  "${queue[@]}" describe "$name" "${place[@]}" \
    '--format=value(state.state)' 2>/dev/null || echo NONE
}

create() {
  local said
  if [[ -n $DRY_RUN ]]; then
    launcher_quoted "${queue[@]}" create "$name" "${place[@]}" \
      "--node-id=$name" "--accelerator-type=$type" \
      "--runtime-version=$version" ${spot[@]+"${spot[@]}"}
    return
  fi
  said=$("${queue[@]}" create "$name" "${place[@]}" "--node-id=$name" \
    "--accelerator-type=$type" "--runtime-version=$version" \
    ${spot[@]+"${spot[@]}"} 2>&1) && return
  case $said in
    *[Qq]uota*)
      launcher_fail "the quota of $project in $zone does not cover $type" \
        "${spot[*]}; ask for more of it, or take another zone or type." ;;
    *) launcher_fail "the queued resource was refused: ${said##*$'\n'}" ;;
  esac
}

delete() {
  launcher_run "${queue[@]}" delete "$name" "${place[@]}" --force --quiet
}

# Wait for the slice. Returns 1 where it has to be asked for again.
wait_until_active() {
  local now before=
  while true; do
    now=$(state)
    [[ $now == "$before" ]] || launcher_say "$name is ${now:-NONE}."
    before=$now
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDED | NONE) return 1 ;;
    esac
    sleep "$poll"
  done
}

# MARK: The run

on_all_hosts() {
  launcher_run "${vm[@]}" ssh "$name" "${place[@]}" --worker=all \
    "--command=$1"
}

run_once() {
  launcher_run "${vm[@]}" scp "$archive" "$name:" "${place[@]}" \
    --worker=all && on_all_hosts "$setup" && on_all_hosts "$remote"
}

launcher_run git -C "$LAUNCH_ROOT" archive --format=tar.gz \
  "--output=$archive" HEAD

if [[ -n $DRY_RUN ]]; then
  create
  echo "# until it is ACTIVE, every $poll s; where it is FAILED or SUSPENDED" \
    'it is deleted and created again:'
  launcher_quoted "${queue[@]}" describe "$name" "${place[@]}" \
    '--format=value(state.state)'
  run_once
  [[ -n $keep ]] || delete
  exit
fi

trap 'launcher_say "$name was left as it is; the same command goes on."
  exit 130' INT TERM

for ((attempt = 0; attempt <= retries; attempt++)); do
  case $(state) in
    NONE) create ;;
    FAILED | SUSPENDED) delete && create ;;
  esac
  if ! wait_until_active; then
    sleep "$poll"
    continue
  fi
  if run_once; then
    [[ -n $keep ]] || delete
    launcher_say "the run has ended; it is in $bucket/$run."
    exit
  fi
  if [[ $(state) == ACTIVE ]]; then
    [[ -n $keep ]] || delete
    launcher_fail "the run failed on a slice that is still there; its logs are" \
      "in $bucket/$run/logs."
  fi
  launcher_say "$name was pre-empted; asking for it again."
done
launcher_fail "no slice lasted in $((retries + 1)) tries; the same command goes" \
  'on from the last checkpoint.'
