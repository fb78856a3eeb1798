#!/usr/bin/env bash
# Run a command and keep what it prints in logs/ of the run's folder.
#
#   launch/with_log.sh RUN COMMAND ...
#
# A host and a start have a file of their own. SIGTERM and SIGINT go on to the
# command, which saves first; its exit code is the one of this script.
set -euo pipefail

if (($# < 2)); then
  echo 'with_log.sh: give the folder of the run, then a command.' >&2
  exit 2
fi
run=$1
shift

mkdir -p "$run/logs"
log=$run/logs/$(date -u +%Y%m%dT%H%M%SZ)-$(hostname)-$$.log

# tee is told of an interrupt, too, and must outlive the command.
exec 3>&1
exec > >(trap '' INT TERM HUP && exec tee "$log" >&3) 2>&1
tee=$!

"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' INT TERM

# wait returns early where a signal arrives; bash remembers the exit code.
while kill -0 "$command" 2>/dev/null; do
  wait "$command" || true
done
code=0
wait "$command" || code=$?

exec >&- 2>&-
wait "$tee" || true
exit "$code"
