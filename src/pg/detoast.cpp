#include "mana_ai/pg/detoast.hpp"

#include "mana_ai/core/text/pglz.hpp"
#include "mana_ai/pg/compat.hpp"

extern "C" {
#include "access/detoast.h"
#include "access/toast_compression.h"
#include "access/toast_internals.h"
}

namespace mana_ai::pg {

varlena* detoast(Datum value) {
    auto* const given = reinterpret_cast<varlena*>(DatumGetPointer(value));
    varlena* stored = given;
    if (VARATT_IS_EXTERNAL_ONDISK(stored))
        stored = detoast_external_attr(stored);
    if (VARATT_IS_COMPRESSED(stored) &&
        TOAST_COMPRESS_METHOD(stored) == TOAST_PGLZ_COMPRESSION_ID) {
        const Size size = TOAST_COMPRESS_EXTSIZE(stored);
        auto* result = static_cast<varlena*>(palloc(size + VARHDRSZ));
        const std::string_view compressed(reinterpret_cast<char*>(stored) + VARHDRSZ_COMPRESSED,
                                          VARSIZE(stored) - VARHDRSZ_COMPRESSED);
        if (core::expand_pglz(compressed, VARDATA(result), size)) {
            SET_VARSIZE(result, size + VARHDRSZ);
            if (stored != given)
                pfree(stored);
            return result;
        }
        pfree(result);  // PostgreSQL says what is wrong with it
    }
    return pg_detoast_datum(stored);
}

varlena* detoast_copy(Datum value) {
    const auto* stored = reinterpret_cast<const varlena*>(DatumGetPointer(value));
    return VARATT_IS_EXTENDED(stored) ? detoast(value)
                                      : pg_detoast_datum_copy(const_cast<varlena*>(stored));
}

}  // namespace mana_ai::pg
