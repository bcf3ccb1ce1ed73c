// How the extension's own processes are described to PostgreSQL, and started.
#pragma once

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "postmaster/bgworker.h"
}

namespace mana_ai {

// One with shared memory and a database connection that may start once recovery is over and is not
// started again when it ends. `entry_point` is a function of this library; `type` is what
// pg_stat_activity calls it.
BackgroundWorker background_worker(const char* entry_point, const char* type, const char* name);

// Starts it now; this process is signaled when it starts and ends. Null: all slots for background
// workers are in use. The handle is in TopMemoryContext, the caller's to pfree. May ereport: call
// inside guarded().
BackgroundWorkerHandle* start_background_worker(BackgroundWorker& worker);

// For functions that start a process which writes: throws PgError on a standby or in a read-only
// transaction. `function` names the caller.
void check_may_start(const char* function);

// Throws PgError if the database is in safe mode.
void check_safe_mode(Oid database);

}  // namespace mana_ai
