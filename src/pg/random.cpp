#include "mana_ai/pg/random.hpp"

#include <array>

#include "mana_ai/core/text/hex.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

void fill_random(void* bytes, size_t size) {
    if (!pg_strong_random(bytes, size))
        throw make_error(ERRCODE_INTERNAL_ERROR, "could not generate random values");
}

namespace {

template <class T>
T random_value() {
    T value;
    fill_random(&value, sizeof(value));
    return value;
}

}  // namespace

std::string random_uuid() {
    auto bytes = random_value<std::array<uint8_t, 16>>();
    bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | 0x40);
    bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);
    std::string text;
    text.reserve(36);
    core::append_hex(text, bytes);
    for (const size_t dash : {8, 13, 18, 23})
        text.insert(dash, 1, '-');
    return text;
}

uint32_t random_uint31() {
    return random_value<uint32_t>() % 0x7ffffffeU + 1;
}

double random_fraction() {
    return static_cast<double>(random_value<uint64_t>() >> 11) / static_cast<double>(1ULL << 53);
}

}  // namespace mana_ai::pg
