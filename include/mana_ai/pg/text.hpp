// Values of type text, as views and made of views. These functions may ereport: call them inside
// guarded().
#pragma once

#include <string_view>

#include "mana_ai/pg/compat.hpp"

namespace mana_ai::pg {

// Points into the value, which is not compressed or stored elsewhere.
inline std::string_view text_view(const text* value) {
    return {VARDATA_ANY(value), static_cast<size_t>(VARSIZE_ANY_EXHDR(value))};
}

// Points into the value; if that is compressed or stored elsewhere, into a copy in the current
// memory context.
inline std::string_view text_view(Datum value) {
    return text_view(DatumGetTextPP(value));
}

// A copy in the current memory context.
inline Datum text_datum(std::string_view value) {
    return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

inline bool same_text(Datum a, Datum b) {
    return text_view(a) == text_view(b);
}

}  // namespace mana_ai::pg
