#include "mana_ai/extension/process/json_row.hpp"

#include <string>
#include <vector>

#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"

namespace mana_ai {

Datum row_of_json(FunctionCallInfo fcinfo, const core::Json& values) {
    const TupleDesc descriptor = pg::guarded([fcinfo] { return pg::result_descriptor(fcinfo); });
    std::vector<std::string> texts(static_cast<size_t>(descriptor->natts));
    std::vector<char*> columns(texts.size(), nullptr);
    for (size_t i = 0; i < texts.size(); i++) {
        const char* name = NameStr(TupleDescAttr(descriptor, static_cast<int>(i))->attname);
        const auto value = values.find(name);
        if (value == values.end() || value->is_null())
            continue;
        texts[i] = value->is_string() ? value->get<std::string>() : core::dump_json(*value);
        columns[i] = texts[i].data();
    }
    return pg::guarded([&] {
        return HeapTupleGetDatum(
            BuildTupleFromCStrings(TupleDescGetAttInMetadata(descriptor), columns.data()));
    });
}

}  // namespace mana_ai
