#include "mana_ai/extension/input_records.hpp"

#include "mana_ai/extension/record_reader.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "utils/guc.h"
}

namespace mana_ai {

namespace {

Datum text_datum(std::string_view value) {
    return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

}  // namespace

std::optional<InputRecord> read_input_record(const std::string& user_id, std::string_view app_id,
                                             std::string_view table_name,
                                             std::string_view record_id) {
    const SyncTable table = attached_sync_table();
    RecordQuery& query = record_query(table);
    const pg::ScratchMemory scratch("mana_ai input record");
    std::string text;
    core::Instant newest_clock = core::kOlderThanEverything;
    // Always rolled back: role and setting are so restored, whatever happens.
    const auto error = pg::in_subtransaction([&] {
        const pg::RoleScope as_owner(table.owner);
        const char* found = pg::guarded([&]() -> const char* {
            set_config_option("app.current_user_id", user_id.c_str(), PGC_USERSET, PGC_S_SESSION,
                              GUC_ACTION_LOCAL, true, 0, false);
            const RecordAddress address{text_datum(user_id), text_datum(app_id),
                                        text_datum(table_name), text_datum(record_id)};
            const ReplayedRecord replayed = replay_by_query(table, query, address);
            if (replayed.record == nullptr)
                return nullptr;
            newest_clock = replayed.newest_clock;
            return JsonbToCString(nullptr, &replayed.record->root,
                                  static_cast<int>(VARSIZE(replayed.record)));
        });
        if (found != nullptr)
            text = found;
        return false;
    });
    if (error)
        throw *error;
    if (text.empty())
        return std::nullopt;
    auto record = core::parse_json(text);
    if (!record)
        return std::nullopt;
    return InputRecord{std::move(*record), newest_clock};
}

}  // namespace mana_ai
