#include "mana_ai/core/text/json.hpp"

#include <algorithm>

#if NLOHMANN_JSON_VERSION_MAJOR * 1000 + NLOHMANN_JSON_VERSION_MINOR < 3011
#error "mana_ai needs nlohmann_json 3.11 or later"
#endif

// Untested on platforms with smaller pointers.
static_assert(sizeof(void*) == 8, "mana_ai needs a 64-bit platform");

namespace mana_ai::core {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::string_view kEllipsis = "\xE2\x80\xA6";     // U+2026

// Whether brackets outside strings nest deeper than allowed. A scan of the text before parsing is
// cheaper than a parser callback per value.
bool nests_too_deep(std::string_view text) noexcept {
    std::size_t depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') {
                ++i;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > kMaxJsonDepth) {
                return true;
            }
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return false;
}

bool has_nul(std::string_view text) noexcept {
    return text.find('\0') != std::string_view::npos;
}

}  // namespace

// Unicode 15, table 3-7.
std::size_t utf8_sequence_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const auto continues = [&](std::size_t from, std::size_t count) {
        for (std::size_t i = from; i < from + count; ++i) {
            if ((byte(i) & 0xC0) != 0x80) {
                return false;
            }
        }
        return true;
    };
    const unsigned char lead = byte(0);
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (text.size() < length || !continues(1, length - 1)) {
        return 0;
    }
    const unsigned char second = byte(1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
        (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
        return 0;
    }
    return length;
}

std::optional<Json> parse_json(std::string_view text) noexcept {
    try {
        // The parser treats a NUL byte as the end of its input and would ignore the rest.
        if (has_nul(text) || nests_too_deep(text)) {
            return std::nullopt;
        }
        Json value = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
        if (value.is_discarded()) {
            return std::nullopt;
        }
        return value;
    } catch (...) {
        return std::nullopt;
    }
}

std::string dump_json(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

// The JSON escape of a byte; null: the byte itself.
const char* escape_of(char c, char (&buffer)[7]) noexcept {
    switch (c) {
        case '"':
            return "\\\"";
        case '\\':
            return "\\\\";
        case '\b':
            return "\\b";
        case '\f':
            return "\\f";
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
        case '\t':
            return "\\t";
        default:
            break;
    }
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20) {
        return nullptr;
    }
    static constexpr char kDigits[] = "0123456789abcdef";
    const char text[] = {'\\', 'u', '0', '0', kDigits[byte >> 4], kDigits[byte & 15], '\0'};
    std::copy(std::begin(text), std::end(text), std::begin(buffer));
    return buffer;
}

// The common case: bytes that need no escape inside a JSON string.
bool is_plain(char c) noexcept {
    return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

template <class Append>
void quote(std::string_view text, Append append) {
    append("\"");
    std::size_t plain = 0;  // bytes that are copied unchanged
    char buffer[7];
    for (std::size_t i = 0; i < text.size();) {
        if (is_plain(text[i])) {
            ++plain;
            ++i;
            continue;
        }
        const std::size_t length = utf8_sequence_length(text.substr(i));
        const char* instead = length == 0   ? kReplacement.data()
                              : length == 1 ? escape_of(text[i], buffer)
                                            : nullptr;
        if (instead != nullptr) {
            append(text.substr(i - plain, plain));
            append(instead);
            plain = 0;
            i += 1;
        } else {
            plain += length;
            i += length;
        }
    }
    append(text.substr(text.size() - plain));
    append("\"");
}

}  // namespace

std::string json_string(std::string_view text) {
    std::size_t size = 0;
    quote(text, [&size](std::string_view part) { size += part.size(); });
    std::string quoted;
    quoted.reserve(size);
    quote(text, [&quoted](std::string_view part) { quoted += part; });
    return quoted;
}

void remove_nul(Json& value) {
    if (value.is_string()) {
        auto& text = value.get_ref<std::string&>();
        std::erase(text, '\0');
    } else if (value.is_array()) {
        for (Json& element : value) {
            remove_nul(element);
        }
    } else if (value.is_object()) {
        bool rename = false;
        for (auto& [key, member] : value.items()) {
            rename = rename || has_nul(key);
            remove_nul(member);
        }
        if (rename) {
            Json cleaned = Json::object();
            for (auto& [key, member] : value.items()) {
                std::string new_key = key;
                std::erase(new_key, '\0');
                cleaned[new_key] = std::move(member);
            }
            value = std::move(cleaned);
        }
    }
}

std::string repair_utf8(std::string_view text) {
    std::string repaired;
    repaired.reserve(text.size());
    std::size_t copied = 0;  // everything before it is in `repaired`, or dropped
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = utf8_sequence_length(text.substr(at));
        if (length > 0 && text[at] != '\0') {
            at += length;
            continue;
        }
        repaired += text.substr(copied, at - copied);
        if (length == 0) {
            repaired += kReplacement;
        }
        copied = ++at;
    }
    repaired += text.substr(copied);
    return repaired;
}

std::string cut_utf16(std::string_view text, std::size_t max_units) {
    std::size_t units = 0;
    std::size_t kept = 0;  // bytes that leave room for the ellipsis
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = std::max<std::size_t>(utf8_sequence_length(text.substr(at)), 1);
        units += length == 4 ? 2 : 1;
        if (units > max_units) {
            std::string cut;
            cut.reserve(kept + kEllipsis.size());
            cut += text.substr(0, kept);
            return max_units == 0 ? std::string() : cut.append(kEllipsis);
        }
        at += length;
        if (units < max_units) {
            kept = at;
        }
    }
    return std::string(text);
}

std::string cut_utf8(std::string_view text, std::size_t max_chars) {
    if (max_chars == 0) {
        return {};
    }
    std::string kept;
    // One buffer, since growing would leave copies of a possibly secret text in memory.
    kept.reserve(std::min(text.size(), 4 * std::min(max_chars, text.size())) + kEllipsis.size());
    std::size_t end_before_last = 0;  // where the ellipsis would have to go
    std::size_t copied = 0;           // everything before it is in `kept`
    std::size_t at = 0;
    for (std::size_t count = 0; at < text.size(); ++count) {
        if (count == max_chars) {
            kept += text.substr(copied, at - copied);
            kept.resize(end_before_last);
            kept += kEllipsis;
            return kept;
        }
        end_before_last = kept.size() + (at - copied);
        const std::size_t length = utf8_sequence_length(text.substr(at));
        if (length == 0) {
            kept += text.substr(copied, at - copied);
            kept += kReplacement;
            copied = at + 1;
        }
        at += std::max<std::size_t>(length, 1);
    }
    kept += text.substr(copied);
    return kept;
}

std::string_view string_or(const Json& object, const char* key, std::string_view fallback) {
    if (!object.is_object()) {
        return fallback;
    }
    const auto member = object.find(key);
    if (member == object.end() || !member->is_string()) {
        return fallback;
    }
    return member->get_ref<const std::string&>();
}

}  // namespace mana_ai::core
