// Named places at which a test makes this process die, fail or wait. Compiled in only with
// MANA_AI_FAILPOINTS (make FAILPOINTS=1); otherwise nothing is left of them.
#pragma once

namespace mana_ai::pg {

// What the setting mana_ai.failpoints says of the name is done. May throw PgError: call it where
// that is allowed, outside of guarded().
void reach_failpoint(const char* name);

}  // namespace mana_ai::pg

#ifdef MANA_AI_FAILPOINTS
#define MANA_AI_FAILPOINT(name) ::mana_ai::pg::reach_failpoint(name)
#else
#define MANA_AI_FAILPOINT(name) static_cast<void>(0)
#endif
