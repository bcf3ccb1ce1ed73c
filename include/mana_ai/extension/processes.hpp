// The background processes of the extension and how they are started (docs/architecture.md,
// "Processes"). Their entry points are exported C functions that bgworker.c finds by name.
#pragma once

#include <cstdint>

namespace mana_ai {

// Registers the launcher; called by _PG_init while the postmaster preloads the library.
void register_launcher();

// Names of entry points.
inline constexpr char kLibraryName[] = "mana_ai";
inline constexpr char kLauncherMain[] = "mana_ai_launcher_main";
inline constexpr char kWorkerMain[] = "mana_ai_worker_main";
inline constexpr char kHandTickMain[] = "mana_ai_hand_tick_main";

}  // namespace mana_ai
