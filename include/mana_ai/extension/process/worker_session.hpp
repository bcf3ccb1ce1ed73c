// The session of a background worker: signals, connection, the settings it must not inherit from
// whatever ALTER ROLE or ALTER DATABASE says, and the role it acts as.
#pragma once

#include <cstdint>

#include "mana_ai/pg/crash_watch.hpp"

struct dsm_segment;

namespace mana_ai {

// Attaches the shared memory of whoever started this process, for as long as the process lives.
// Raises when the starter is gone.
dsm_segment* attach_segment_of_caller(uint32_t handle);

// Installs signal handlers (pg/termination.hpp) and connects to the database. Raises (FATAL) when
// the database is not there.
void connect_worker(uint32_t database_oid, const char* application_name,
                    pg::crash_watch::Code code);

// For a process that reads a lot at once instead of looking up by key: the planner has its whole
// choice again, with plans for the values at hand.
void plan_for_reports();

// Becomes the owner of the extension; from then on each transaction asks for the settings of this
// moment (pg::require_settings). False when the extension is not installed.
bool act_as_extension_owner();

// Warns of settings of older versions that stand in the configuration still.
void look_for_retired_settings();

// SIGHUP: reads the configuration files and ALTER DATABASE's settings again.
bool reload_requested();
void reload_settings();

}  // namespace mana_ai
