#!/usr/bin/env bash
# Make a virtual environment with t5x, and with eejax from this checkout.
#
#   launch/t5x_environment.sh                 into .venv-t5x
#   launch/t5x_environment.sh FOLDER          into FOLDER
#   launch/t5x_environment.sh --dry-run       print the commands alone
#
# No package index has t5x, airio, or the jestimator that t5x imports: they
# come from their repositories, at commits that were tested together. Where
# these cannot be reached, EEJAX_T5X_SOURCES (or --sources FOLDER) names a
# folder with checkouts of them: t5x, airio and jestimator.
#
# EEJAX_PYTHON names a Python 3.12; by default python3.12 on PATH is taken.
set -euo pipefail

LAUNCHER=eejax
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=launcher.sh
source "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"

t5x_commit=cc342d419ec3e3e9c4bf1df33c82330cafdc1e16
airio_commit=69897df7d9a427b947a9f7bb4164c7782b43e601
jestimator_commit=326824a477feef6d92e6f44175000907a72899ca
# One set of versions that t5x runs with. t5x's own setup.py asks for heads of
# five repositories.
packages=(
  'jax==0.12.0.1' 'flax==0.12.12' 'optax==0.2.8' 'orbax-checkpoint==0.12.8'
  'tensorflow==2.21.0' 'tensorflow-text==2.21.1' 'tensorboard==2.21.0'
  'seqio==0.0.20' 'grain==0.2.18' 'clu==0.0.12' 'fiddle==0.3.1'
  absl-py cached_property chex gin-config
  'pytest>=8' 'beartype>=0.19'
)

folder=''
sources=${EEJAX_T5X_SOURCES:-}
while (($#)); do
  case $1 in
    --help | -h)
      launcher_help "${BASH_SOURCE[0]}"
      exit
      ;;
    --dry-run) DRY_RUN=1 ;;
    --sources)
      (($# > 1)) || launcher_wrong '--sources needs a folder.'
      sources=$2
      shift
      ;;
    -*) launcher_wrong "$1 is no option of this script; see --help." ;;
    *)
      [[ -z $folder ]] || launcher_wrong "name one folder, not $folder and $1."
      folder=$1
      ;;
  esac
  shift
done
folder=${folder:-$EEJAX_ROOT/.venv-t5x}

python=${EEJAX_PYTHON:-python3.12}
[[ $(eejax_version "$python") == 3.12 ]] ||
  eejax_fail "$python is no Python 3.12, which t5x's versions are for; name" \
    "one in EEJAX_PYTHON."

# Print where pip finds the source of $1 at commit $2.
origin() {
  local name=$1 commit=$2 owner=$3
  if [[ -n $sources ]]; then
    [[ -d $sources/$name/$name ]] ||
      eejax_fail "$sources has no checkout of $name; put one there (commit" \
        "$commit of github.com/$owner/$name)."
    echo "$sources/$name"
    return
  fi
  echo "git+https://github.com/$owner/$name@$commit"
}

t5x=$(origin t5x "$t5x_commit" google-research) || exit 1
airio=$(origin airio "$airio_commit" google) || exit 1
jestimator=$(origin jestimator "$jestimator_commit" google-research) || exit 1

pip=("$folder/bin/python" -m pip install --disable-pip-version-check
  --root-user-action=ignore)

launcher_run "$python" -m venv "$folder" ||
  eejax_fail "$python could not make a virtual environment in $folder."
launcher_run "${pip[@]}" "${packages[@]}" --editable "$EEJAX_ROOT[train]" ||
  eejax_fail "pip could not install what t5x needs (its message stands" \
    "above); check the network and run this again."
# Without what they ask for: heads of repositories, and versions long gone.
launcher_run "${pip[@]}" --no-deps "$jestimator" "$airio" "$t5x" ||
  eejax_fail 'pip could not install t5x, airio and jestimator (its message' \
    'stands above); where GitHub cannot be reached, name a folder with' \
    'checkouts of the three in EEJAX_T5X_SOURCES.'
launcher_run "$folder/bin/python" -c 'import eejax.t5x_adapter.trainer' ||
  eejax_fail "t5x does not import in $folder (the error stands above)."
[[ -n $DRY_RUN ]] || echo "t5x is in $folder; try $folder/bin/python -m" \
  't5x.train --help.'
