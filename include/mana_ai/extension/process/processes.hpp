// The background processes of the extension and how they are started (docs/architecture.md,
// "Processes"). Their entry points are exported C functions that bgworker.c finds by name.
#pragma once

#include <cstdint>

namespace mana_ai {

// Registers the launcher; called by _PG_init while the postmaster preloads the library.
void register_launcher();

// Registers the HTTP endpoint if mana_ai.http_listen is set; same caller.
void register_http_endpoint();

// Names of entry points.
inline constexpr char kLibraryName[] = "mana_ai";
inline constexpr char kLauncherMain[] = "mana_ai_launcher_main";
inline constexpr char kWorkerMain[] = "mana_ai_worker_main";
inline constexpr char kHandTickMain[] = "mana_ai_hand_tick_main";
inline constexpr char kWhatIfMain[] = "mana_ai_what_if_main";
inline constexpr char kHttpMain[] = "mana_ai_http_main";
inline constexpr char kQueryMain[] = "mana_ai_query_main";

}  // namespace mana_ai
