#include "mana_ai/extension/run/past_plan.hpp"

#include "mana_ai/extension/sync/record_reader.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/text.hpp"

namespace mana_ai {

std::optional<std::vector<core::ComparedStep>> read_past_plan(const std::string& user_id,
                                                              const std::string& mission_id,
                                                              const std::string& iteration_id) {
    RecordQuery& query = record_query(attached_sync_table());
    const pg::ScratchMemory scratch("mana_ai past plan");
    const char* text = pg::guarded([&]() -> const char* {
        const RecordAddress address{pg::text_datum(user_id), pg::text_datum("ai"),
                                    pg::text_datum("aiMissions"), pg::text_datum(mission_id)};
        const ReplayedRecord replayed =
            replay_by_query(query, address, {.max_size = pg::settings::max_record_size()});
        return replayed.record == nullptr
                   ? nullptr
                   : JsonbToCString(nullptr, &replayed.record->root, VARSIZE(replayed.record));
    });
    const auto record = text != nullptr ? core::parse_json(text) : std::nullopt;
    if (!record || !record->is_object())
        return std::nullopt;
    const auto iterations = record->find("iterations");
    if (iterations == record->end() || !iterations->is_array())
        return std::nullopt;
    for (const core::Json& iteration : *iterations)
        if (iteration.is_object() && core::string_or(iteration, "id", {}) == iteration_id)
            return core::steps_of_iteration(iteration);
    return std::nullopt;
}

}  // namespace mana_ai
