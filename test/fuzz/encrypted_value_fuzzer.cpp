// Any text as an encrypted value, as the plaintext of one, and as JSON.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "../client/client_side.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/crypto/encrypted_value.hpp"
#include "mana_ai/crypto/json_text.hpp"

namespace {

using namespace mana_ai::crypto;
using mana_ai::core::parse_json;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const client::Bytes key_bytes(32, 0x42);
    static const MissionDataKey key(SecretBytes::copy_of(key_bytes));
    const std::string_view text(reinterpret_cast<const char*>(data), size);

    // Without the key nobody makes a value that opens.
    require(std::holds_alternative<ValueFailure>(open_value(text, key)));
    require(std::holds_alternative<ValueFailure>(open_value("enc:1:" + std::string(text), key)));

    const bool json = is_json(text);
    const auto parsed = parse_json(text);
    require(!json || parsed);
    const std::optional<SecretBytes> decoded = decode_json_string(text);
    require(!decoded || json);
    if (json) {
        require(decoded.has_value() == parsed->is_string());
    }
    if (decoded) {
        mana_ai::core::Json expected = *parsed;
        mana_ai::core::remove_nul(expected);
        require(decoded->view() == expected.get_ref<const std::string&>());
    }

    std::string sealed = client::seal(text, key_bytes);
    const auto opened = open_value(sealed, key);
    if (const auto* failure = std::get_if<ValueFailure>(&opened)) {
        require(*failure == ValueFailure::kMalformed && !json);
    } else {
        require(json && std::get<SecretBytes>(opened).view() == text);
    }
    if (size != 0) {
        char& changed = sealed[6 + data[0] % (sealed.size() - 6)];
        changed = changed == 'A' ? 'B' : 'A';
        require(std::holds_alternative<ValueFailure>(open_value(sealed, key)));
    }
    return 0;
}
