#include "mana_ai/pg/jsonb_object.hpp"

#include <cstring>

extern "C" {
#include "utils/numeric.h"
}

namespace mana_ai::pg {

namespace {

constexpr uint64_t kMaxTotal = JENTRY_OFFLENMASK;

bool needs_alignment(uint32_t type) {
    return type == JENTRY_ISNUMERIC || type == JENTRY_ISCONTAINER;
}

// Calls visit(i, entry) with every entry; an object has its keys first and then its values.
template <class Visit>
void visit_entries(const JsonbContainer* container, uint32_t count, const Visit& visit) {
    const JEntry* entries = container->children;
    const auto* base = reinterpret_cast<const char*>(container->children + size_t{count});
    // Entries hold lengths, and every JB_OFFSET_STRIDE-th one the offset of its end.
    uint32_t offset = 0;
    for (uint32_t i = 0; i < count; i++) {
        const JEntry entry = entries[i];
        const uint32_t end =
            JBE_HAS_OFF(entry) ? JBE_OFFLENFLD(entry) : offset + JBE_OFFLENFLD(entry);
        const uint32_t type = entry & JENTRY_TYPEMASK;
        const uint32_t start = needs_alignment(type) ? INTALIGN(offset) : offset;
        visit(i, JsonbValueRef{type, end - start, base + start});
        offset = end;
    }
}

JsonbFields read_container(const JsonbContainer* container) {
    JsonbFields result;
    if ((container->header & JB_FOBJECT) == 0)
        return result;
    const uint32_t count = container->header & JB_CMASK;
    if (count == 0)
        return result;
    result.count = count;
    result.fields = static_cast<JsonbFieldRef*>(palloc(sizeof(JsonbFieldRef) * count));
    visit_entries(container, count * 2, [&result, count](uint32_t i, const JsonbValueRef& entry) {
        if (i < count) {
            result.fields[i].key = entry.bytes;
            result.fields[i].key_size = entry.size;
        } else {
            result.fields[i - count].value = entry;
        }
    });
    return result;
}

}  // namespace

int compare_field_names(std::string_view a, std::string_view b) {
    if (a.size() != b.size())
        return a.size() < b.size() ? -1 : 1;
    return std::memcmp(a.data(), b.data(), a.size());
}

JsonbFields read_object(const Jsonb* value) {
    return value == nullptr ? JsonbFields{} : read_container(&value->root);
}

JsonbFields read_object(const JsonbValueRef& value) {
    if (value.type != JENTRY_ISCONTAINER)
        return {};
    return read_container(reinterpret_cast<const JsonbContainer*>(value.bytes));
}

JsonbValues read_array(const JsonbValueRef& value) {
    JsonbValues result;
    if (value.type != JENTRY_ISCONTAINER)
        return result;
    const auto* container = reinterpret_cast<const JsonbContainer*>(value.bytes);
    const uint32_t count = container->header & JB_CMASK;
    if ((container->header & JB_FARRAY) == 0 || count == 0)
        return result;
    result.count = count;
    result.values = static_cast<JsonbValueRef*>(palloc(sizeof(JsonbValueRef) * count));
    visit_entries(container, count,
                  [&result](uint32_t i, const JsonbValueRef& entry) { result.values[i] = entry; });
    return result;
}

const JsonbValueRef* find_field(const JsonbFields& object, std::string_view name) {
    uint32_t low = 0;
    uint32_t high = object.count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int order = compare_field_names(object.fields[middle].name(), name);
        if (order == 0)
            return &object.fields[middle].value;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return nullptr;
}

std::optional<std::string_view> string_of(const JsonbValueRef& value) {
    if (value.type != JENTRY_ISSTRING)
        return std::nullopt;
    return std::string_view(value.bytes, value.size);
}

JsonbValueRef string_value(std::string_view text) {
    return {JENTRY_ISSTRING, static_cast<uint32_t>(text.size()), text.data()};
}

bool is_truthy(const JsonbValueRef& value) {
    switch (value.type) {
        case JENTRY_ISNULL:
        case JENTRY_ISBOOL_FALSE:
            return false;
        case JENTRY_ISSTRING:
            return value.size > 0;
        case JENTRY_ISNUMERIC: {
            const auto number =
                reinterpret_cast<Numeric>(const_cast<char*>(value.bytes));  // read only
            const Datum zero = DirectFunctionCall1(int4_numeric, Int32GetDatum(0));
            return !DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number), zero));
        }
        default:
            return true;
    }
}

Jsonb* build_object(const JsonbFieldRef* fields, uint32_t count) {
    // The same steps as PostgreSQL's convertJsonbObject, so that the result is bytewise what
    // PostgreSQL itself would store.
    uint64_t bound = VARHDRSZ + sizeof(uint32) + sizeof(JEntry) * 2 * uint64_t{count};
    for (uint32_t i = 0; i < count; i++)
        bound += uint64_t{fields[i].key_size} + fields[i].value.size + sizeof(int32);
    if (count > JB_CMASK || bound > kMaxTotal)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("record is too large for a jsonb object")));

    auto* result = static_cast<Jsonb*>(palloc(bound));
    result->root.header = count | JB_FOBJECT;
    JEntry* entry = result->root.children;
    char* const base = reinterpret_cast<char*>(result->root.children + size_t{count} * 2);
    uint32_t offset = 0;
    uint32_t index = 0;
    auto add_entry = [&](uint32_t type, uint32_t start) {
        const bool with_offset = index % JB_OFFSET_STRIDE == 0;
        *entry++ = type | (with_offset ? offset | JENTRY_HAS_OFF : offset - start);
        index++;
    };
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t start = offset;
        std::memcpy(base + offset, fields[i].key, fields[i].key_size);
        offset += fields[i].key_size;
        add_entry(JENTRY_ISSTRING, start);
    }
    for (uint32_t i = 0; i < count; i++) {
        const JsonbValueRef& value = fields[i].value;
        const uint32_t start = offset;
        if (needs_alignment(value.type))
            while (offset != INTALIGN(offset))
                base[offset++] = '\0';
        if (value.size > 0)
            std::memcpy(base + offset, value.bytes, value.size);
        offset += value.size;
        add_entry(value.type, start);
    }
    SET_VARSIZE(result, base - reinterpret_cast<char*>(result) + offset);
    return result;
}

}  // namespace mana_ai::pg
