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

// The same steps as PostgreSQL's convertJsonbObject and convertJsonbArray, so that the result is
// bytewise what PostgreSQL itself would store.
class ContainerBuilder {
 public:
    // `count` as the header has it; `content`: of all entries at most, with alignment.
    ContainerBuilder(uint32_t count, uint32_t kind, uint64_t entries, uint64_t content) {
        const uint64_t bound = VARHDRSZ + sizeof(uint32) + sizeof(JEntry) * entries + content;
        if (count > JB_CMASK || bound > kMaxTotal)
            ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                            errmsg("record is too large for a jsonb object")));
        result_ = static_cast<Jsonb*>(palloc(bound));
        result_->root.header = count | kind;
        entry_ = result_->root.children;
        base_ = reinterpret_cast<char*>(result_->root.children + entries);
    }

    void add(const JsonbValueRef& value) {
        const uint32_t start = offset_;
        if (needs_alignment(value.type))
            while (offset_ != INTALIGN(offset_))
                base_[offset_++] = '\0';
        if (value.size > 0)
            std::memcpy(base_ + offset_, value.bytes, value.size);
        offset_ += value.size;
        const bool with_offset = index_ % JB_OFFSET_STRIDE == 0;
        *entry_++ = value.type | (with_offset ? offset_ | JENTRY_HAS_OFF : offset_ - start);
        index_++;
    }

    Jsonb* finish() {
        SET_VARSIZE(result_, base_ - reinterpret_cast<char*>(result_) + offset_);
        return result_;
    }

 private:
    Jsonb* result_ = nullptr;
    JEntry* entry_ = nullptr;
    char* base_ = nullptr;
    uint32_t offset_ = 0;
    uint32_t index_ = 0;
};

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

namespace {

bool is_container(const JsonbValueRef& value, uint32_t kind) {
    return value.type == JENTRY_ISCONTAINER &&
           (reinterpret_cast<const JsonbContainer*>(value.bytes)->header & kind) != 0;
}

}  // namespace

bool is_object(const JsonbValueRef& value) {
    return is_container(value, JB_FOBJECT);
}

bool is_array(const JsonbValueRef& value) {
    return is_container(value, JB_FARRAY);
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
    uint64_t content = 0;
    for (uint32_t i = 0; i < count; i++)
        content += uint64_t{fields[i].key_size} + fields[i].value.size + sizeof(int32);
    ContainerBuilder builder(count, JB_FOBJECT, uint64_t{count} * 2, content);
    for (uint32_t i = 0; i < count; i++)
        builder.add(string_value(fields[i].name()));
    for (uint32_t i = 0; i < count; i++)
        builder.add(fields[i].value);
    return builder.finish();
}

Jsonb* build_array(const JsonbValueRef* values, uint32_t count) {
    uint64_t content = 0;
    for (uint32_t i = 0; i < count; i++)
        content += uint64_t{values[i].size} + sizeof(int32);
    ContainerBuilder builder(count, JB_FARRAY, count, content);
    for (uint32_t i = 0; i < count; i++)
        builder.add(values[i]);
    return builder.finish();
}

JsonbValueRef value_of(const Jsonb* container) {
    return {JENTRY_ISCONTAINER, static_cast<uint32_t>(VARSIZE(container) - VARHDRSZ),
            reinterpret_cast<const char*>(&container->root)};
}

}  // namespace mana_ai::pg
