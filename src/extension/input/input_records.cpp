#include "mana_ai/extension/input/input_records.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/extension/sync/record_reader.hpp"
#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/jsonb_value.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

Datum text_datum(std::string_view value) {
    return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

// The fields of the list; nullopt if one is nested too deep.
std::optional<core::Json> fields_of(const Jsonb* record, std::span<const std::string_view> names) {
    const pg::JsonbFields fields = pg::guarded([record] { return pg::read_object(record); });
    core::Json found = core::Json::object();
    for (const std::string_view name : names) {
        const pg::JsonbValueRef* value = pg::find_field(fields, name);
        if (value == nullptr)
            continue;
        auto json = pg::to_json(*value);
        if (!json)
            return std::nullopt;
        found.emplace(name, std::move(*json));
    }
    return found;
}

struct Wanted {
    std::string_view app_id;
    std::string_view table;
    std::string_view record_id;
    std::span<const std::string_view> fields;
    std::string_view further_field;  // empty = none
};

std::optional<InputRecord> read_one(const std::string& user_id, const Wanted& wanted) {
    const SyncTable table = attached_sync_table();
    RecordQuery& query = record_query(table);
    const pg::ScratchMemory scratch("mana_ai input record");
    ReplayedRecord replayed;
    std::optional<pg::PgError> error;
    // Policies and index expressions of that table are its owner's code. What they do is always
    // rolled back.
    auto read = [&] {
        const pg::RoleScope as_owner(table.owner);
        pg::guarded([&] {
            pg::set_for_scope("app.current_user_id", user_id.c_str());
            pg::set_for_scope("app.current_user_space_ids", "");
            const RecordAddress address{text_datum(user_id), text_datum(wanted.app_id),
                                        text_datum(wanted.table), text_datum(wanted.record_id)};
            replayed = replay_by_query(query, address, pg::settings::max_record_size());
        });
        return false;
    };
    const auto watched = pg::watch_call(pg::settings::sync_table_timeout_us(),
                                        [&] { error = pg::in_subtransaction(read); });
    if (watched.error)
        error = watched.error;
    if (error)
        throw watched.timed_out ? pg::make_timeout_error() : pg::as_ordinary_error(*error);
    if (replayed.record == nullptr)
        return std::nullopt;
    auto record = fields_of(replayed.record, wanted.fields);
    if (!record)
        return std::nullopt;
    if (!wanted.further_field.empty())
        if (auto further = fields_of(replayed.record, std::span(&wanted.further_field, 1)))
            record->update(*further);
    return InputRecord{std::move(*record), replayed.newest_clock};
}

// What the record has itself counts; as it was before its module kept these fields elsewhere.
void add_linked(InputRecord& input, const core::LinkedRecord& link, const std::string& user_id) {
    const std::string id(core::string_or(input.record, std::string(link.id_field).c_str(), ""));
    input.record.erase(std::string(link.id_field));
    if (id.empty() || id.size() > core::kMaxReferencePart)
        return;
    std::optional<InputRecord> linked;
    try {
        linked = read_one(user_id, {link.app_id, link.table, id, link.fields, {}});
    } catch (const pg::PgError& error) {
        // The record itself can be read, and says most of it.
        if (error.is_interrupt())
            throw;
    }
    if (!linked)
        return;
    for (const auto& [name, value] : linked->record.items())
        if (!input.record.contains(name) && !core::holds_ciphertext(value))
            input.record[name] = value;
    input.newest_clock = std::max(input.newest_clock, linked->newest_clock);
}

}  // namespace

std::optional<InputRecord> read_input_record(const std::string& user_id,
                                             const core::InputModule& module,
                                             std::string_view table_name,
                                             std::string_view record_id) {
    const std::string_view link = module.link != nullptr ? module.link->id_field : "";
    auto input = read_one(user_id, {module.app_id, table_name, record_id, module.fields, link});
    if (input && module.link != nullptr)
        add_linked(*input, *module.link, user_id);
    return input;
}

std::string content_version(const core::Json& record) {
    return crypto::sha256_hex(core::dump_json(record));
}

}  // namespace mana_ai
