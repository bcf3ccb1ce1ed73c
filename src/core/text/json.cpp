#include "mana_ai/core/text/json.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "mana_ai/core/text/utf8.hpp"

#if NLOHMANN_JSON_VERSION_MAJOR * 1000 + NLOHMANN_JSON_VERSION_MINOR < 3011
#error "mana_ai needs nlohmann_json 3.11 or later"
#endif

// Untested on platforms with smaller pointers.
static_assert(sizeof(void*) == 8, "mana_ai needs a 64-bit platform");

namespace mana_ai::core {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

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

// How many plain bytes the text begins with. Eight at a time: prompts are long and mostly plain.
std::size_t plain_prefix(std::string_view text) noexcept {
    constexpr std::uint64_t kOnes = 0x0101010101010101;
    constexpr std::uint64_t kHighBits = 0x80 * kOnes;
    // The high bit of each byte that is zero, and perhaps of others behind the first of these.
    const auto zeros = [](std::uint64_t x) { return (x - kOnes) & ~x; };
    std::size_t at = 0;
    for (std::uint64_t word; at + sizeof word <= text.size(); at += sizeof word) {
        std::memcpy(&word, text.data() + at, sizeof word);
        const std::uint64_t below_space = (word - 0x20 * kOnes) & ~word;
        // The sum has the high bit for 0x7F; bytes above have it themselves.
        const std::uint64_t not_ascii = word | (word + kOnes);
        if (((below_space | not_ascii | zeros(word ^ ('"' * kOnes)) |
              zeros(word ^ ('\\' * kOnes))) &
             kHighBits) != 0) {
            break;
        }
    }
    while (at < text.size() && is_plain(text[at])) {
        ++at;
    }
    return at;
}

template <class Append>
void quote(std::string_view text, Append append) {
    append("\"");
    std::size_t plain = 0;  // bytes that are copied unchanged
    char buffer[7];
    for (std::size_t i = 0; i < text.size();) {
        const std::size_t length_of_plain = plain_prefix(text.substr(i));
        plain += length_of_plain;
        i += length_of_plain;
        if (i == text.size()) {
            break;
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
