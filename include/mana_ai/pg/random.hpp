// Random numbers from the operating system, through PostgreSQL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mana_ai::pg {

std::string random_uuid();  // version 4, lower case with hyphens
uint32_t random_uint31();   // 1 … 2^31-1
double random_fraction();   // [0, 1)
void fill_random(void* bytes, size_t size);

}  // namespace mana_ai::pg
