// Waking the worker of this database when a transaction that concerns it commits
// (docs/architecture.md, "Wake-ups").
#pragma once

namespace mana_ai::pg {

// Called once, when the library is preloaded. Raises: call it inside guarded().
void register_wake_callback();

// Notes that the current transaction changed something that concerns the worker; when the top-level
// transaction commits, the worker's latch is set. Costs a flag; does nothing if the library was not
// preloaded. Never raises.
void wake_worker_at_commit();

// Sets the latch of this database's worker now. Never raises.
void wake_worker_now();

}  // namespace mana_ai::pg
