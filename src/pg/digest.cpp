#include "mana_ai/pg/digest.hpp"

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "common/cryptohash.h"
#include "common/sha2.h"
}

namespace mana_ai::pg {

std::string sha256_hex(std::string_view text) {
    uint8 digest[PG_SHA256_DIGEST_LENGTH];
    const bool hashed = guarded([&] {
        pg_cryptohash_ctx* context = pg_cryptohash_create(PG_SHA256);
        const bool done = context != nullptr && pg_cryptohash_init(context) >= 0 &&
                          pg_cryptohash_update(context, reinterpret_cast<const uint8*>(text.data()),
                                               text.size()) >= 0 &&
                          pg_cryptohash_final(context, digest, sizeof(digest)) >= 0;
        pg_cryptohash_free(context);
        return done;
    });
    if (!hashed)
        throw make_error(ERRCODE_INTERNAL_ERROR, "could not compute a SHA-256 digest");
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    hex.reserve(2 * sizeof(digest));
    for (const uint8 byte : digest) {
        hex += kDigits[byte >> 4];
        hex += kDigits[byte & 15];
    }
    return hex;
}

}  // namespace mana_ai::pg
