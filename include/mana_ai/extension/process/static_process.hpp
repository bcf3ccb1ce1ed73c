// A process that the postmaster keeps running from the server's start, connected to no database, so
// that it does not block DROP DATABASE.
#pragma once

#include "mana_ai/pg/crash_watch.hpp"

namespace mana_ai {

// Registers it while the postmaster preloads the library. `name` is its name and backend_type; all
// are literals.
void register_static_process(const char* entry_point, const char* name, int restart_seconds);

// Its first step: stock signal handlers, and access to shared memory and shared catalogs.
void begin_static_process(const char* name, pg::crash_watch::Code code);

// After each wait: exits if the process is to end, and reads settings that have changed. Throws
// PgError.
void handle_static_signals();

}  // namespace mana_ai
