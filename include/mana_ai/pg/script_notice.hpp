// Messages to the user who runs CREATE EXTENSION.
#pragma once

namespace mana_ai::pg {

// NOTICE, also from within an extension's script: PostgreSQL raises client_min_messages to WARNING
// there, to silence the script's own statements. The session's setting before that counts. May
// ereport(ERROR): call it inside guarded().
void notice_in_script(const char* message);

}  // namespace mana_ai::pg
