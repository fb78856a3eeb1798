# shellcheck shell=bash
# What the launchers in this folder share: flags, checks, and commands that are
# printed where --dry-run is given, else run.
#
# Source this file and set LAUNCHER to the launcher's name, for its messages.
# Wrong arguments end with exit code 2, failures with 1, as eejax's own do.

LAUNCH_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAUNCH_ROOT=$(dirname "$LAUNCH_FOLDER")
DRY_RUN=

launcher_wrong() {
  echo "$LAUNCHER: $*" >&2
  exit 2
}

launcher_fail() {
  echo "$LAUNCHER: $*" >&2
  exit 1
}

launcher_say() {
  echo "$LAUNCHER: $*" >&2
}

# Print the comment block at the head of the file $1, for --help.
launcher_help() {
  awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$1"
}

# Print the value of the flag $1, the next word $2, if it is one.
launcher_value() {
  [[ $# -gt 1 && $2 != --* ]] || launcher_wrong "$1 needs a value."
  printf '%s' "$2"
}

# Refuse an empty value: launcher_need FLAG VALUE WHAT
launcher_need() {
  [[ -n $2 ]] || launcher_wrong "$1 is missing; give $3."
}

# Refuse a value that is no whole number: launcher_number FLAG VALUE
launcher_number() {
  [[ $2 =~ ^[0-9]+$ ]] || launcher_wrong "$1 must be a number, not '$2'."
}

# Refuse a name that a cloud would: launcher_name FLAG VALUE
launcher_name() {
  [[ $2 =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    launcher_wrong "$1 '$2' must have 1 to 40 lower-case letters, digits and" \
      'dashes, and begin with a letter.'
}

# Refuse a missing program, unless nothing is run: launcher_tool NAME FROM
launcher_tool() {
  [[ -n $DRY_RUN ]] || command -v "$1" >/dev/null ||
    launcher_fail "$1 is not installed; $2."
}

# Print a command as a shell would read it.
launcher_quoted() {
  local word line=
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+=" $word"
    elif [[ $word == *\'* && $word != *[\"\$\`\\!]* ]]; then
      line+=" \"$word\""
    else
      line+=" '${word//\'/\'\\\'\'}'"
    fi
  done
  printf '%s\n' "${line# }"
}

# Run a command; with --dry-run print it.
launcher_run() {
  if [[ -n $DRY_RUN ]]; then
    launcher_quoted "$@"
  else
    "$@"
  fi
}

# Run a command that changes nothing and say $1 where it fails; with --dry-run
# print the command: launcher_check SENTENCE COMMAND ...
launcher_check() {
  local sentence=$1
  shift
  if [[ -n $DRY_RUN ]]; then
    launcher_quoted "$@"
    return
  fi
  "$@" >/dev/null || launcher_fail "$sentence"
}

# Check that a bucket can be reached: launcher_bucket gs://NAME
launcher_bucket() {
  [[ $1 =~ ^gs://[a-z0-9][a-z0-9._-]+$ ]] ||
    launcher_wrong "--bucket must be gs://NAME, not '$1'."
}

# Set EEJAX to one command of eejax in the run folder $1, made of the words
# after --: launcher_eejax RUN VERB ARGUMENTS ...
launcher_eejax() {
  local run=$1 word gin_file=
  shift
  (($#)) || launcher_wrong 'nothing to run; end with' \
    '-- pretrain --gin_file=runs/pretrain.gin (or tune).'
  [[ $1 != eejax ]] || shift
  case ${1:-} in
    pretrain | tune) ;;
    *) launcher_wrong "'${1:-}' is no run; give pretrain or tune." ;;
  esac
  for word in "$@"; do
    case $word in
      --gin_file | --gin_file=*) gin_file=1 ;;
      --run | --run=* | --gin.RUN=*)
        launcher_wrong "give --run before --, not with eejax's arguments."
        ;;
    esac
  done
  [[ -n $gin_file ]] ||
    launcher_wrong "a run needs its gin file: --gin_file=runs/$1.gin."
  EEJAX=(eejax "$@" "--run=$run")
}
