// Log lines. They contain ids, counts and fixed texts, never a user's text, a prompt or a key.
#pragma once

#include <string>

namespace mana_ai::pg {

void log_info(const std::string& message);     // LOG
void log_warning(const std::string& message);  // WARNING
void log_debug(const std::string& message);    // DEBUG1

// A client's id in a form for log lines: printable ASCII, at most 64 characters.
std::string printable(const std::string& id);

}  // namespace mana_ai::pg
