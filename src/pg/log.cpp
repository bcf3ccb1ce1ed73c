#include "mana_ai/pg/log.hpp"

#include "mana_ai/pg/guard.hpp"

namespace mana_ai::pg {

namespace {

constexpr size_t kMaxIdLength = 64;

void write(int level, const std::string& message) {
    // Without the calling statement and the line of a COPY, which contain a user's row.
    guarded([level, &message] {
        ereport(level, (errmsg_internal("mana_ai: %s", message.c_str()), errhidestmt(true),
                        errhidecontext(true)));
    });
}

}  // namespace

void log_info(const std::string& message) {
    write(LOG, message);
}
void log_warning(const std::string& message) {
    write(WARNING, message);
}
void log_debug(const std::string& message) {
    write(DEBUG1, message);
}

std::string printable(const std::string& id) {
    std::string text;
    for (const char c : id) {
        if (text.size() == kMaxIdLength) {
            text += "...";
            break;
        }
        const auto byte = static_cast<unsigned char>(c);
        // A space could make an id look like another field of the line.
        text += byte > 0x20 && byte < 0x7f ? c : '?';
    }
    return text;
}

}  // namespace mana_ai::pg
