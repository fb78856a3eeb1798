#!/usr/bin/env bash
# Make a virtual environment that compiles for GPUs without one.
#
#   launch/gpu_compiler.sh                 into .venv-gpu-compiler
#   launch/gpu_compiler.sh FOLDER          into FOLDER
#   launch/gpu_compiler.sh --dry-run       print the commands alone
#
# It has jax's plug-in for CUDA and the assembler of NVIDIA, no driver and no
# CUDA libraries, so nothing can be run there; hence an environment of its own.
#
#   .venv-gpu-compiler/bin/python benchmarks/ahead.py --only gpu_decode_temp
#
# EEJAX_PYTHON names the Python, by default one from PATH.
set -euo pipefail

LAUNCHER=eejax
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=launcher.sh
source "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"

jax_version=0.10.2
plugin=("jax-cuda13-plugin==$jax_version" "jax-cuda13-pjrt==$jax_version"
  nvidia-cuda-nvcc nvidia-nvvm)

folder=''
while (($#)); do
  case $1 in
    --help | -h)
      launcher_help "${BASH_SOURCE[0]}"
      exit
      ;;
    --dry-run) DRY_RUN=1 ;;
    -*) launcher_wrong "$1 is no option of this script; see --help." ;;
    *)
      [[ -z $folder ]] || launcher_wrong "name one folder, not $folder and $1."
      folder=$1
      ;;
  esac
  shift
done
folder=${folder:-$EEJAX_ROOT/.venv-gpu-compiler}
python=$(eejax_find_python)

pip=("$folder/bin/python" -m pip install --disable-pip-version-check
  --root-user-action=ignore)
failed='pip could not install the compiler (its message stands above); check'
failed+=' the network and run this again.'

launcher_run "$python" -m venv "$folder" ||
  eejax_fail "$python could not make a virtual environment in $folder."
launcher_run "${pip[@]}" "jax==$jax_version" --editable "$EEJAX_ROOT" ||
  eejax_fail "$failed"
# Without what they ask for: gigabytes of libraries that only a GPU runs.
launcher_run "${pip[@]}" --no-deps "${plugin[@]}" || eejax_fail "$failed"
describe='from eejax.parallel.topologies import devices_of; devices_of("H100")'
launcher_run env JAX_PLATFORMS=cpu "$folder/bin/python" -c "$describe" ||
  eejax_fail "the compiler does not start in $folder (the error stands above)."
[[ -n $DRY_RUN ]] || echo "the compiler for GPUs is in $folder."
