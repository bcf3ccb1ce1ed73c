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
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

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

std::optional<InputRecord> input_of(const ReplayedRecord& replayed, const Wanted& wanted) {
    if (replayed.record == nullptr)
        return std::nullopt;
    auto record = fields_of(replayed.record, wanted.fields);
    if (!record)
        return std::nullopt;
    if (!wanted.further_field.empty())
        if (auto further = fields_of(replayed.record, std::span(&wanted.further_field, 1)))
            record->update(*further);
    InputRecord input{std::move(*record), replayed.newest_clock, {}};
    if (replayed.clocks != nullptr)
        input.clocks.own = replayed.clocks;
    return input;
}

std::optional<InputRecord> read_one(const std::string& user_id, const Wanted& wanted,
                                    int64_t limit_us) {
    constexpr int64_t kShortest = 1000;  // what timers of every version can measure
    if (limit_us < kShortest)
        throw pg::make_timeout_error();
    const SyncTable table = attached_sync_table();
    RecordQuery& query = record_query(table);
    const pg::ScratchMemory scratch("mana_ai input record");
    ReplayedRecord replayed;
    std::optional<pg::PgError> error;
    const ReadFields clocked{wanted.fields, wanted.further_field};
    // Policies and index expressions of that table are its owner's code. Their effects are always
    // rolled back.
    auto read = [&] {
        const pg::RoleScope as_owner(table.owner);
        pg::guarded([&] {
            pg::set_for_scope("app.current_user_id", user_id.c_str());
            pg::set_for_scope("app.current_user_space_ids", "");
            const RecordAddress address{pg::text_datum(user_id), pg::text_datum(wanted.app_id),
                                        pg::text_datum(wanted.table),
                                        pg::text_datum(wanted.record_id)};
            replayed = replay_by_query(
                query, address, {.max_size = pg::settings::max_record_size(), .clocked = &clocked});
        });
        return false;
    };
    const auto watched = pg::watch_call(std::min(limit_us, pg::settings::sync_table_timeout_us()),
                                        [&] { error = pg::in_subtransaction(read); });
    if (watched.error)
        error = watched.error;
    if (error)
        throw watched.timed_out ? pg::make_timeout_error() : pg::as_ordinary_error(*error);
    return input_of(replayed, wanted);
}

// The same as it was when its clocks were these, for the current role.
std::optional<InputRecord> reread_one(const std::string& user_id, const Wanted& wanted,
                                      const std::string& clocks) {
    RecordQuery& query = record_query(attached_sync_table());
    const pg::ScratchMemory scratch("mana_ai input record");
    const ReplayedRecord replayed = pg::guarded([&] {
        ClockBounds bounds;
        if (!read_clock_vector(clocks, bounds))
            return ReplayedRecord{};
        const RecordAddress address{pg::text_datum(user_id), pg::text_datum(wanted.app_id),
                                    pg::text_datum(wanted.table), pg::text_datum(wanted.record_id)};
        return replay_by_query(query, address,
                               {.max_size = pg::settings::max_record_size(), .bounds = &bounds});
    });
    return replayed.lost > 0 ? std::nullopt : input_of(replayed, wanted);
}

void merge_linked(core::Json& record, const core::Json& linked) {
    for (const auto& [name, value] : linked.items())
        if (!record.contains(name) && !core::holds_ciphertext(value))
            record[name] = value;
}

// Fields in the record itself take precedence, from before its module kept them elsewhere.
void add_linked(InputRecord& input, const core::LinkedRecord& link, const std::string& user_id,
                int64_t limit_us) {
    const std::string id(core::string_or(input.record, std::string(link.id_field).c_str(), ""));
    input.record.erase(std::string(link.id_field));
    if (id.empty() || id.size() > core::kMaxReferencePart)
        return;
    std::optional<InputRecord> linked;
    try {
        linked = read_one(user_id, {link.app_id, link.table, id, link.fields, {}}, limit_us);
    } catch (const pg::PgError& error) {
        // The record itself can be read, and has most of the content.
        if (error.is_interrupt())
            throw;
        input.clocks.linked_table = link.table;
        input.clocks.linked_id = id;
        input.clocks.linked_was_read = false;
    }
    if (!linked)
        return;
    merge_linked(input.record, linked->record);
    input.clocks.linked_table = link.table;
    input.clocks.linked_id = id;
    input.clocks.linked = std::move(linked->clocks.own);
    input.newest_clock = std::max(input.newest_clock, linked->newest_clock);
}

}  // namespace

std::optional<InputRecord> read_input_record(const std::string& user_id,
                                             const core::InputModule& module,
                                             std::string_view table_name,
                                             std::string_view record_id, int64_t limit_us) {
    const std::string_view link = module.link != nullptr ? module.link->id_field : "";
    const core::Instant started = pg::monotonic_now();
    auto input =
        read_one(user_id, {module.app_id, table_name, record_id, module.fields, link}, limit_us);
    if (input && module.link != nullptr)
        add_linked(*input, *module.link, user_id, limit_us - (pg::monotonic_now() - started));
    return input;
}

std::optional<InputRecord> reread_input_record(const std::string& user_id,
                                               const core::InputModule& module,
                                               std::string_view table_name,
                                               std::string_view record_id,
                                               const RecordClocks& clocks) {
    const core::LinkedRecord* link = module.link;
    const std::string_view link_field = link != nullptr ? link->id_field : "";
    auto input = reread_one(
        user_id, {module.app_id, table_name, record_id, module.fields, link_field}, clocks.own);
    if (!input || link == nullptr)
        return input;
    input->record.erase(std::string(link_field));
    if (clocks.linked_id.empty() || !clocks.linked_was_read)
        return input;
    const auto linked = reread_one(
        user_id, {link->app_id, link->table, clocks.linked_id, link->fields, {}}, clocks.linked);
    if (!linked)
        return std::nullopt;
    merge_linked(input->record, linked->record);
    return input;
}

std::string content_version(const core::Json& record) {
    return crypto::sha256_hex(core::dump_json(record));
}

}  // namespace mana_ai
