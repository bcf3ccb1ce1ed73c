#include "mana_ai/pg/jsonb_value.hpp"

#include <string>
#include <utility>

#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
}

namespace mana_ai::pg {

namespace {

std::optional<core::Json> convert(const JsonbValueRef& value, std::size_t depth);

core::Json convert_number(const JsonbValueRef& value) {
    const char* digits = guarded([&value] {
        const auto number = reinterpret_cast<Numeric>(const_cast<char*>(value.bytes));  // read only
        return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
    });
    return core::parse_json(digits).value_or(core::Json());
}

std::optional<core::Json> convert_array(const JsonbValueRef& value, std::size_t depth) {
    const JsonbValues elements = guarded([&value] { return read_array(value); });
    core::Json array = core::Json::array();
    array.get_ref<core::Json::array_t&>().reserve(elements.count);
    for (uint32_t i = 0; i < elements.count; i++) {
        auto element = convert(elements.values[i], depth);
        if (!element)
            return std::nullopt;
        array.push_back(std::move(*element));
    }
    return array;
}

std::optional<core::Json> convert_object(const JsonbValueRef& value, std::size_t depth) {
    const JsonbFields members = guarded([&value] { return read_object(value); });
    core::Json object = core::Json::object();
    for (uint32_t i = 0; i < members.count; i++) {
        auto member = convert(members.fields[i].value, depth);
        if (!member)
            return std::nullopt;
        object.emplace(members.fields[i].name(), std::move(*member));
    }
    return object;
}

// `depth` of what contains the value.
std::optional<core::Json> convert(const JsonbValueRef& value, std::size_t depth) {
    switch (value.type) {
        case JENTRY_ISSTRING:
            return core::Json(std::string(value.bytes, value.size));
        case JENTRY_ISNUMERIC:
            return convert_number(value);
        case JENTRY_ISBOOL_TRUE:
            return core::Json(true);
        case JENTRY_ISBOOL_FALSE:
            return core::Json(false);
        case JENTRY_ISCONTAINER:
            break;
        default:
            return core::Json();
    }
    if (depth >= core::kMaxJsonDepth)
        return std::nullopt;
    const auto* container = reinterpret_cast<const JsonbContainer*>(value.bytes);
    return (container->header & JB_FOBJECT) != 0 ? convert_object(value, depth + 1)
                                                 : convert_array(value, depth + 1);
}

}  // namespace

std::optional<core::Json> to_json(const JsonbValueRef& value) {
    return convert(value, 0);
}

}  // namespace mana_ai::pg
