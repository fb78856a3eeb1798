#!/usr/bin/env bash
# Make a virtual environment if there is none, install eejax into it, and run
# `eejax quickstart` with the arguments given here.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# The core without extras is enough, but for models in GGUF files.
case " $* " in
  *' smollm2 '* | *'=smollm2 '* | *.gguf*) eejax_environment gguf ;;
  *) eejax_environment ;;
esac
exec "$PYTHON" -m eejax quickstart "$@"
