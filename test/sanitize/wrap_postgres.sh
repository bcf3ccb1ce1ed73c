#!/usr/bin/env bash
# wrap_postgres.sh PG_CONFIG REPORTS: makes the postgres of a private installation one that has the sanitizers'
# runtime loaded from the start, as an instrumented library needs it. A report of the address sanitizer becomes a
# file in the folder REPORTS, which the server's user must be able to write, and ends the process with SIGABRT;
# one of undefined behaviour is in the server's log ("runtime error:").
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bindir=$("$1" --bindir)
reports=$2
runtime=$(readlink -f "$(gcc -print-file-name=libasan.so)"):$(readlink -f "$(gcc -print-file-name=libubsan.so)")

gcc -shared -fPIC -O2 -o "$bindir/gettext_shim.so" "$here/gettext_shim.c"
mv "$bindir/postgres" "$bindir/postgres.bin"
cat >"$bindir/postgres" <<END
#!/bin/bash
# By its name pg_ctl restart finds this program again. Leaks are not reported: PostgreSQL frees memory with its context or process.
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0:log_path=$reports/address"
export UBSAN_OPTIONS="print_stacktrace=1"
export LD_PRELOAD="$runtime:$bindir/gettext_shim.so\${LD_PRELOAD:+:\$LD_PRELOAD}"
exec -a "\$0" "\$(dirname "\$0")/postgres.bin" "\$@"
END
chmod 755 "$bindir/postgres"
