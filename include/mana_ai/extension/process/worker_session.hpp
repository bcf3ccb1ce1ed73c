// The session of a background worker: signals, connection, the settings that ALTER ROLE and ALTER
// DATABASE must not change, and the role it acts as.
#pragma once

#include <cstdint>

#include "mana_ai/pg/crash_watch.hpp"

struct dsm_segment;

namespace mana_ai {

// Attaches the shared memory of the process that started this one, for this process's lifetime.
// Raises if that process no longer exists.
dsm_segment* attach_segment_of_caller(uint32_t handle);

// Installs signal handlers (pg/termination.hpp) and connects to the database. Raises (FATAL) if the
// database does not exist.
void connect_worker(uint32_t database_oid, const char* application_name,
                    pg::crash_watch::Code code);

// For a process that reads much instead of looking up by key: turns all plan types on again, with
// custom plans.
void plan_for_reports();

// Becomes the owner of the extension; from then on each transaction requires the settings of this
// moment (pg::require_settings). False if the extension is not installed.
bool act_as_extension_owner();

// Warns of settings of older versions that are still in the configuration.
void look_for_retired_settings();

// SIGHUP: reads the configuration files and ALTER DATABASE's settings again.
bool reload_requested();
void reload_settings();

}  // namespace mana_ai
