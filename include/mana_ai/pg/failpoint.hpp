// Named places at which a test makes this process crash, fail or wait. Compiled only with
// MANA_AI_FAILPOINTS (make FAILPOINTS=1).
//
// The setting mana_ai.failpoints says what happens where: "NAME=ACTION[@N|@once], ..."
//
//   kill        SIGKILL to this process
//   segv        a segmentation fault
//   error[:XX]  an ERROR with this SQLSTATE (default XX000)
//   throw       a C++ exception
//   sleep:MS    a pause that nothing interrupts
//
// @N acts only the Nth time that this process reaches it; @once only once in the life of the
// cluster, until the test removes DATA_DIRECTORY/mana_ai_failpoint.NAME. Each action is logged.
#pragma once

#ifdef MANA_AI_FAILPOINTS

#include "mana_ai/pg/failpoint_names.hpp"

namespace mana_ai::pg {

void define_failpoint_setting();

// May throw: call it where that is allowed.
void reach_failpoint(const char* name);

}  // namespace mana_ai::pg

#define MANA_AI_FAILPOINT(name)                                                                \
    do {                                                                                       \
        static_assert(::mana_ai::pg::is_failpoint(name), "not in failpoint_names.hpp: " name); \
        ::mana_ai::pg::reach_failpoint(name);                                                  \
    } while (false)

#else
#define MANA_AI_FAILPOINT(name) static_cast<void>(0)
#endif
