// One level of a jsonb object or array: reading its entries, and making a new object of borrowed
// ones.
//
// Nested values are never parsed: they are copied as bytes, which the format allows because all
// offsets inside a container are relative to its start. The functions may ereport(ERROR): call them
// inside guarded(). Memory comes from the current context.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace mana_ai::pg {

// A value inside another jsonb. Valid as long as that is.
struct JsonbValueRef {
    uint32_t type = JENTRY_ISNULL;  // JENTRY_IS… bits without length
    uint32_t size = 0;              // of bytes, without alignment padding
    const char* bytes = nullptr;    // aligned for numerics and containers
};

struct JsonbFieldRef {
    const char* key = nullptr;
    uint32_t key_size = 0;
    JsonbValueRef value;

    std::string_view name() const { return {key, key_size}; }
};

// Fields in jsonb's own order (shorter names first, then bytewise).
struct JsonbFields {
    JsonbFieldRef* fields = nullptr;
    uint32_t count = 0;
};

struct JsonbValues {
    JsonbValueRef* values = nullptr;
    uint32_t count = 0;
};

// <0, 0, >0 in jsonb's order of field names.
int compare_field_names(std::string_view a, std::string_view b);

// The fields of an object; none for any other value, or for nullptr.
JsonbFields read_object(const Jsonb* value);
JsonbFields read_object(const JsonbValueRef& value);

// The elements of an array; none for any other value.
JsonbValues read_array(const JsonbValueRef& value);

const JsonbValueRef* find_field(const JsonbFields& object, std::string_view name);

std::optional<std::string_view> string_of(const JsonbValueRef& value);  // nullopt: not a string
JsonbValueRef string_value(std::string_view text);                      // borrows the text

bool is_object(const JsonbValueRef& value);
bool is_array(const JsonbValueRef& value);

// Whether JavaScript treats it as true: not null, false, 0 or "".
bool is_truthy(const JsonbValueRef& value);

// A new object of fields that are in jsonb's order and distinct.
Jsonb* build_object(const JsonbFieldRef* fields, uint32_t count);

Jsonb* build_array(const JsonbValueRef* values, uint32_t count);

// As a value inside another one; borrows it.
JsonbValueRef value_of(const Jsonb* container);

}  // namespace mana_ai::pg
