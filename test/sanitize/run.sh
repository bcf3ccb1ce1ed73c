#!/usr/bin/env bash
# Runs rings of tests in a server whose mana_ai.so is built with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   test/sanitize/run.sh [RING]...   control regress isolation tap, or only those; FILTER as for run_all.sh
#
# The control shows that a fault is reported. A report anywhere else is a failure.
set -euo pipefail
[ $# -gt 0 ] || set -- control regress isolation tap
# Everything is several times slower.
export MANA_AI_VARIANT=SANITIZE PG_TEST_TIMEOUT_DEFAULT=600
exec "$(dirname "$0")/../run_all.sh" "$@" reports
