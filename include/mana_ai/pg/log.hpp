// Log lines. What goes in is never a user's text, a prompt or a key: ids, counts and words of ours.
#pragma once

#include <string>

namespace mana_ai::pg {

void log_info(const std::string& message);     // LOG
void log_warning(const std::string& message);  // WARNING
void log_debug(const std::string& message);    // DEBUG1

// An id that a client made up, fit for a log line: printable ASCII, at most 64 characters.
std::string printable(const std::string& id);

}  // namespace mana_ai::pg
