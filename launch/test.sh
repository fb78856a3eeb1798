#!/usr/bin/env bash
# Check style and types, then run the tests.
#
#   launch/test.sh                 everything but the slow tests
#   launch/test.sh --slow          the slow tests too
#   launch/test.sh tests/cli -x    other arguments go to pytest
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selection=(-m 'not slow')
arguments=()
for argument in "$@"; do
  if [[ $argument == --slow ]]; then
    selection=()
  else
    arguments+=("$argument")
  fi
done

eejax_environment train test
cd "$EEJAX_ROOT"

# Compiled programs are kept between runs (tests/conftest.py); old ones are
# never read again.
cache=.cache/jax
if [[ -d $cache ]] && (($(du -sk "$cache" | cut -f1) > 2000000)); then
  rm -rf "$cache"
fi

echo 'Style ...' >&2
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
echo 'Types ...' >&2
"$PYTHON" -m mypy
# Benchmarks are too slow to be run here; at least their calls shall fit.
"$PYTHON" -m mypy benchmarks --follow-imports=silent \
  --disable-error-code=arg-type \
  --disable-error-code=assignment --disable-error-code=attr-defined \
  --disable-error-code=misc --disable-error-code=operator \
  --disable-error-code=union-attr --disable-error-code=var-annotated
echo 'Tests ...' >&2
# Each worker takes the tests of whole rooms, so that few fixtures are made and
# few programs traced in both.
exec "$PYTHON" -m pytest -n "${EEJAX_TEST_WORKERS:-2}" --dist worksteal \
  --durations=15 \
  ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"}
