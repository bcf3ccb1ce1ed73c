#include "mana_ai/pg/random.hpp"

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
    struct Bytes {
        uint8_t b[16];
    };
    Bytes bytes = random_value<Bytes>();
    bytes.b[6] = static_cast<uint8_t>((bytes.b[6] & 0x0f) | 0x40);
    bytes.b[8] = static_cast<uint8_t>((bytes.b[8] & 0x3f) | 0x80);
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    text.reserve(36);
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text += '-';
        text += kDigits[bytes.b[i] >> 4];
        text += kDigits[bytes.b[i] & 15];
    }
    return text;
}

uint32_t random_uint31() {
    return random_value<uint32_t>() % 0x7ffffffeU + 1;
}

double random_fraction() {
    return static_cast<double>(random_value<uint64_t>() >> 11) / static_cast<double>(1ULL << 53);
}

}  // namespace mana_ai::pg
