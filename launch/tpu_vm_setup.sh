#!/usr/bin/env bash
# Prepare a host of a TPU slice: mount a bucket, install eejax. It may run again
# on a host that is ready. launch/tpu_vm.sh runs it on every host.
#
#   launch/tpu_vm_setup.sh BUCKET MOUNT
set -euo pipefail

bucket=$1
mount=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  source="https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main"
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
    sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $source" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq
  sudo apt-get install -qq -y gcsfuse
fi
if ! mountpoint -q "$mount"; then
  sudo mkdir -p "$mount"
  sudo chown "$(id -u):$(id -g)" "$mount"
  gcsfuse --implicit-dirs "$bucket" "$mount"
fi

# The hosts' own Python may be too old for eejax; uv brings one.
python3 -m pip install --quiet --user uv
uv=$HOME/.local/bin/uv
[[ -x $HOME/eejax-venv/bin/python ]] ||
  "$uv" venv --quiet --python 3.12 "$HOME/eejax-venv"
"$uv" pip install --quiet --python "$HOME/eejax-venv/bin/python" \
  --editable "$root[tpu,train]"
