// Waking the worker of this database when a transaction that concerns it commits
// (docs/architecture.md, "Wake-ups").
#pragma once

namespace mana_ai::pg {

// Called once, when the library is preloaded. Raises: call it inside guarded().
void register_wake_callback();

// Remembers that the current transaction changed something that the worker should look at; when the
// top-level transaction commits, the worker's latch is set. Costs a flag; does nothing where the
// library was not preloaded (the worker's slow poll is the safety net). Never raises.
void wake_worker_at_commit();

// Sets the latch of this database's worker now. Never raises.
void wake_worker_now();

}  // namespace mana_ai::pg
