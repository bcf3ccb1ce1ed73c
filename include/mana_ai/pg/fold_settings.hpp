// Settings of the fold in batches, apart from settings.hpp, which nearly everything includes.
#pragma once

#include <cstdint>

namespace mana_ai::pg::settings {

int64_t fold_at_once();  // bytes on disk

// Whether mana_ai.database names it. Throws PgError.
bool names_database(const char* name);

}  // namespace mana_ai::pg::settings
