#!/usr/bin/env bash
# run_tap.sh COMMAND [ARGUMENT]...: runs the command (prove, perl) with what TAP tests need: the server of
# PG_CONFIG first in PATH, PostgreSQL's test modules and ours, and
#
#   MANA_AI_MODEL_SERVER   the scripted model server (test/servers/model_server.cpp)
#   MANA_AI_CLIENT         a device that encrypts (test/client/mana_client.cpp)
#   MANA_AI_BIN            the folder of all test programs
#   MANA_AI_TEST_DATA      test/data
#
# Clusters and logs go to TESTDIR/tmp_check.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
pg_config=${PG_CONFIG:-pg_config}
pgxs_root=$(dirname "$("$pg_config" --pgxs)")/../..

export TESTDIR=${TESTDIR:-$top}
export TESTDATADIR=$TESTDIR/tmp_check TESTLOGDIR=$TESTDIR/tmp_check/log
mkdir -p "$TESTLOGDIR"

export MANA_AI_BIN=${MANA_AI_BIN:-$top/build/bin}
export MANA_AI_MODEL_SERVER=$MANA_AI_BIN/model_server MANA_AI_CLIENT=$MANA_AI_BIN/mana_client
export MANA_AI_TEST_DATA=$top/test/data
PATH=$("$pg_config" --bindir):$PATH
export PATH PG_CONFIG=$pg_config
export PERL5LIB=$pgxs_root/src/test/perl:$top/test/tap/lib${PERL5LIB:+:$PERL5LIB}
export PG_REGRESS=$pgxs_root/src/test/regress/pg_regress PGPORT=65432

cd "$top"
exec "$@"
