#include "mana_ai/crypto/json_text.hpp"

#include <bitset>
#include <charconv>
#include <cstdint>
#include <system_error>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::crypto {

namespace {

constexpr bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

// Reads a text from front to back. Each function moves past what it names and returns true, or
// returns false, after which the position is undefined.
class Scanner {
 public:
    explicit Scanner(std::string_view text) noexcept : rest_(text) {}

    bool at_end() const noexcept { return rest_.empty(); }
    char next() const noexcept { return rest_.empty() ? '\0' : rest_.front(); }

    bool take(char expected) noexcept {
        if (next() != expected || rest_.empty()) {
            return false;
        }
        rest_.remove_prefix(1);
        return true;
    }

    void skip_space() noexcept {
        while (!rest_.empty() &&
               (next() == ' ' || next() == '\t' || next() == '\n' || next() == '\r')) {
            rest_.remove_prefix(1);
        }
    }

    bool word(std::string_view expected) noexcept {
        if (!rest_.starts_with(expected)) {
            return false;
        }
        rest_.remove_prefix(expected.size());
        return true;
    }

    bool number() noexcept {
        const std::string_view start = rest_;
        (void)take('-');
        if (!take('0') && !digits()) {
            return false;
        }
        if (take('.') && !digits()) {
            return false;
        }
        if (take('e') || take('E')) {
            (void)(take('+') || take('-'));
            if (!digits()) {
                return false;
            }
        }
        double value = 0;
        const char* end = rest_.data();
        return std::from_chars(start.data(), end, value).ec == std::errc();
    }

    // A string with its quotes; passes its code points to `sink`.
    template <typename Sink>
    bool string(Sink&& sink) noexcept {
        if (!take('"')) {
            return false;
        }
        while (!rest_.empty()) {
            char32_t code_point = 0;
            const char c = next();
            if (c == '"') {
                return take('"');
            }
            if (c == '\\' ? !escape(code_point) : !utf8(code_point)) {
                return false;
            }
            sink(code_point);
        }
        return false;
    }

 private:
    bool digits() noexcept {
        if (!is_digit(next())) {
            return false;
        }
        while (is_digit(next())) {
            rest_.remove_prefix(1);
        }
        return true;
    }

    // One well-formed UTF-8 sequence except control characters.
    bool utf8(char32_t& code_point) noexcept {
        const core::CodePoint c = core::first_code_point(rest_);
        rest_.remove_prefix(c.length);
        code_point = c.value;
        return c.value >= 0x20 && !c.is_invalid();
    }

    bool hex4(char32_t& unit) noexcept {
        if (rest_.size() < 4) {
            return false;
        }
        std::uint16_t value = 0;
        const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + 4, value, 16);
        if (error != std::errc() || end != rest_.data() + 4) {
            return false;
        }
        unit = value;
        rest_.remove_prefix(4);
        return true;
    }

    bool escape(char32_t& code_point) noexcept {
        if (rest_.size() < 2) {
            return false;
        }
        const char letter = rest_[1];
        rest_.remove_prefix(2);
        switch (letter) {
            case '"':
            case '\\':
            case '/':
                code_point = static_cast<unsigned char>(letter);
                return true;
            case 'b':
                code_point = '\b';
                return true;
            case 'f':
                code_point = '\f';
                return true;
            case 'n':
                code_point = '\n';
                return true;
            case 'r':
                code_point = '\r';
                return true;
            case 't':
                code_point = '\t';
                return true;
            case 'u':
                break;
            default:
                return false;
        }
        if (!hex4(code_point)) {
            return false;
        }
        if (code_point >= 0xD800 && code_point <= 0xDBFF) {
            char32_t low = 0;
            if (!word("\\u") || !hex4(low) || low < 0xDC00 || low > 0xDFFF) {
                return false;
            }
            code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
            return true;
        }
        return code_point < 0xDC00 || code_point > 0xDFFF;
    }

    std::string_view rest_;
};

void append_utf8(std::uint8_t*& to, char32_t code_point) noexcept {
    const auto put = [&](char32_t byte) { *to++ = static_cast<std::uint8_t>(byte); };
    if (code_point < 0x80) {
        put(code_point);
    } else if (code_point < 0x800) {
        put(0xC0 | code_point >> 6);
        put(0x80 | (code_point & 0x3F));
    } else if (code_point < 0x10000) {
        put(0xE0 | code_point >> 12);
        put(0x80 | (code_point >> 6 & 0x3F));
        put(0x80 | (code_point & 0x3F));
    } else {
        put(0xF0 | code_point >> 18);
        put(0x80 | (code_point >> 12 & 0x3F));
        put(0x80 | (code_point >> 6 & 0x3F));
        put(0x80 | (code_point & 0x3F));
    }
}

// A value that contains no other, or nothing at all.
bool scalar(Scanner& scanner) noexcept {
    switch (scanner.next()) {
        case '"':
            return scanner.string([](char32_t) {});
        case 't':
            return scanner.word("true");
        case 'f':
            return scanner.word("false");
        case 'n':
            return scanner.word("null");
        default:
            return scanner.number();
    }
}

// The name and the colon before a member's value.
bool member_name(Scanner& scanner) noexcept {
    scanner.skip_space();
    if (!scanner.string([](char32_t) {})) {
        return false;
    }
    scanner.skip_space();
    return scanner.take(':');
}

}  // namespace

bool is_json(std::string_view text) noexcept {
    Scanner scanner(text);
    std::bitset<core::kMaxJsonDepth> is_object;  // of the open brackets, outermost first
    std::size_t depth = 0;
    for (;;) {
        // Here a value must begin.
        scanner.skip_space();
        const bool object = scanner.next() == '{';
        if (object || scanner.next() == '[') {
            if (depth == core::kMaxJsonDepth) {
                return false;
            }
            (void)scanner.take(scanner.next());
            scanner.skip_space();
            if (!scanner.take(object ? '}' : ']')) {
                is_object[depth++] = object;
                if (object && !member_name(scanner)) {
                    return false;
                }
                continue;
            }
        } else if (!scalar(scanner)) {
            return false;
        }
        // Here a value has ended, and possibly some of the values that contain it.
        for (scanner.skip_space(); depth > 0; scanner.skip_space()) {
            if (scanner.take(',')) {
                break;
            }
            if (!scanner.take(is_object[depth - 1] ? '}' : ']')) {
                return false;
            }
            --depth;
        }
        if (depth == 0) {
            return scanner.at_end();
        }
        if (is_object[depth - 1] && !member_name(scanner)) {
            return false;
        }
    }
}

std::optional<SecretBytes> decode_json_string(std::string_view json) {
    Scanner scanner(json);
    scanner.skip_space();
    // No escape is shorter than its character.
    SecretBytes decoded(json.size());
    std::uint8_t* end = decoded.data();
    const bool complete = scanner.string([&](char32_t code_point) {
        if (code_point != 0) {
            append_utf8(end, code_point);
        }
    });
    scanner.skip_space();
    if (!complete || !scanner.at_end()) {
        return std::nullopt;
    }
    decoded.truncate(static_cast<std::size_t>(end - decoded.data()));
    return decoded;
}

}  // namespace mana_ai::crypto
