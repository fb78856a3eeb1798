# shellcheck shell=bash
# Find or make the virtual environment that the scripts here share.
#
# Source this file and call `eejax_environment EXTRA ...`; it sets PYTHON to an
# interpreter in which eejax, with these extras, is installed from this
# checkout. An active virtual environment is used as it is; otherwise .venv in
# the checkout is made once. A stamp in the environment remembers what was
# installed for which setup.cfg and Python, so that the next call is quick.
#
# EEJAX_PYTHON names the interpreter to make .venv with; by default the newest
# suitable one on PATH is taken.

EEJAX_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
EEJAX_STAMP=.eejax-installed

eejax_fail() {
  echo "eejax: $*" >&2
  exit 1
}

# Print major.minor if $1 runs and is Python 3.11 to 3.13. A pyenv shim that has
# no version behind it exists, but fails.
eejax_version() {
  "$1" -c '
import sys
version = sys.version_info[:2]
if not (3, 11) <= version <= (3, 13):
  sys.exit(1)
print("%d.%d" % version)
' 2>/dev/null
}

# Whether $1 is such a Python and can make virtual environments.
eejax_suitable() {
  eejax_version "$1" >/dev/null && "$1" -c 'import ensurepip, venv' 2>/dev/null
}

eejax_find_python() {
  local candidate
  if [[ -n ${EEJAX_PYTHON:-} ]]; then
    eejax_suitable "$EEJAX_PYTHON" ||
      eejax_fail "EEJAX_PYTHON=$EEJAX_PYTHON is not a Python 3.11 to 3.13 that" \
        "can make virtual environments."
    echo "$EEJAX_PYTHON"
    return
  fi
  for candidate in python3.13 python3.12 python3.11 python3 python; do
    if eejax_suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  eejax_fail "no Python 3.11 to 3.13 with venv and ensurepip was found; install" \
    "one (on Debian: python3 and python3-venv) or name it in EEJAX_PYTHON."
}

# Print the folder of the environment, made if there is none.
eejax_folder() {
  local folder=$EEJAX_ROOT/.venv python
  if [[ -n ${VIRTUAL_ENV:-} ]]; then
    eejax_version "$VIRTUAL_ENV/bin/python" >/dev/null ||
      eejax_fail "the active virtual environment $VIRTUAL_ENV has no working" \
        "Python 3.11 to 3.13; deactivate it, and one is made in .venv."
    echo "$VIRTUAL_ENV"
    return
  fi
  if "$folder/bin/python" -c '' 2>/dev/null &&
    ! eejax_version "$folder/bin/python" >/dev/null; then
    eejax_fail "$folder holds a Python that is not 3.11 to 3.13; remove it, and" \
      "it is made anew."
  fi
  # What an interrupted run or a removed Python left behind is made again.
  if ! "$folder/bin/python" -c '' 2>/dev/null ||
    { [[ ! -f $folder/$EEJAX_STAMP ]] &&
      ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; }; then
    # bash does not end a command substitution at a failure inside it.
    python=$(eejax_find_python) || exit 1
    echo "Making a virtual environment in $folder with $python ..." >&2
    "$python" -m venv --clear "$folder" >&2 ||
      eejax_fail "$python could not make a virtual environment in $folder."
  fi
  echo "$folder"
}

# Print a line that changes whenever eejax has to be installed anew.
eejax_key() {
  local sum
  sum=$(cat "$EEJAX_ROOT/setup.cfg" "$EEJAX_ROOT/pyproject.toml" | cksum)
  echo "$sum $(eejax_version "$1") $EEJAX_ROOT"
}

# Whether the stamp $1 holds the key $2 and every extra that follows.
eejax_is_stamped() {
  local stamp=$1 key=$2 extra
  shift 2
  [[ -f $stamp && $(head -n 1 "$stamp") == "$key" ]] || return 1
  for extra in "$@"; do
    grep -qx "$extra" "$stamp" || return 1
  done
}

eejax_environment() {
  local folder stamp key names extra
  folder=$(eejax_folder) || exit 1
  PYTHON=$folder/bin/python
  stamp=$folder/$EEJAX_STAMP
  key=$(eejax_key "$PYTHON")
  eejax_is_stamped "$stamp" "$key" "$@" && return

  names=$(IFS=,; echo "$*")
  echo "Installing eejax${names:+ with $names} into $folder; the first time" \
    "this takes some minutes ..." >&2
  "$PYTHON" -m pip install --disable-pip-version-check \
    --root-user-action=ignore --editable "$EEJAX_ROOT${names:+[$names]}" >&2 ||
    eejax_fail "pip could not install eejax (its message stands above);" \
      "check the network and run this again."
  # Extras of an older setup.cfg may lack something now, so they are forgotten.
  if ! eejax_is_stamped "$stamp" "$key"; then
    echo "$key" >"$stamp"
  fi
  for extra in "$@"; do
    grep -qx "$extra" "$stamp" || echo "$extra" >>"$stamp"
  done
}
