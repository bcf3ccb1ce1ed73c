#include "mana_ai/extension/run/read_set.hpp"

#include <string_view>

#include "mana_ai/extension/input/changed_reads.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

// Of all records together. The event loop stands still meanwhile.
constexpr int64_t kTimeForInputs = 50'000;

void add(ReadSetChanges& changes, const ReadRecord& read, const ReadChange& change) {
    if (change.state == ReadState::Unknown)
        changes.is_incomplete = true;
    if (change.state != ReadState::Changed)
        return;
    changes.changed.push_back({read.table, read.id, std::nullopt});
    if (change.at != kUnknownChange)
        changes.changed.back().at = change.at;
}

// Whether the plan was made of it, or of its absence.
bool counts(const ReadRecord& read) {
    return read.left_out.empty() || read.left_out == "missing";
}

ReadChange change_of_mission(const ReadRecord& read, const ClaimedMission& claimed,
                             const NewestMission& newest) {
    if (newest.version == claimed.mission_version)
        return {};
    if (read.clocks.empty() || newest.clocks.empty())
        return {ReadState::Unknown, kUnknownChange};
    return change_of_clocks(read.clocks, newest.clocks);
}

// Mostly it is the user's own, or none, and the very version that was claimed.
ReadChange change_of_agent(const ReadRecord& read, const ClaimedMission& claimed,
                           const std::optional<std::string>& space_id) {
    static pg::Statement find(R"sql(
SELECT c.at = 'infinity', c.at = '-infinity', CASE WHEN isfinite(c.at) THEN c.at END
  FROM (SELECT 1) one
  LEFT JOIN mana_ai.agent_snapshots o ON o.user_id = $1 AND o.agent_id = $2
 CROSS JOIN LATERAL (
       SELECT CASE WHEN $5::text IS NULL AND o.version IS NOT DISTINCT FROM nullif($3, 0) THEN NULL
                   ELSE mana_ai.agent_changed_since($1, $2, $5, $4) END AS at) c
 WHERE c.at IS NOT NULL)sql");
    std::optional<std::string> seen;
    if (read.left_out.empty())
        seen = read.clocks;
    const auto rows = find.execute({std::string_view(claimed.user_id), std::string_view(read.id),
                                    claimed.agent_version.value_or(0), pg::text_or_null(seen),
                                    pg::text_or_null(space_id)})
                          .rows;
    if (rows.empty())
        return {};
    const pg::Row& row = rows.front();
    return {row.number(1) != 0 ? ReadState::Unknown : ReadState::Changed,
            row.optional_instant(2).value_or(kUnknownChange)};
}

}  // namespace

ReadSetChanges changes_of_inputs(const std::string& user_id, const Lineage& lineage,
                                 TablePatience& patience) {
    ReadSetChanges changes;
    const core::Instant started = pg::monotonic_now();
    bool has_read = false;
    for (size_t i = 0; i < lineage.reads.size(); i++) {
        const ReadRecord& read = lineage.reads[i];
        if (read.role != std::string_view("input") || !counts(read))
            continue;
        SeenInput seen{user_id, read.module, read.table, read.id, read.left_out.empty(), {}};
        seen.clocks.own = read.clocks;
        if (i + 1 < lineage.reads.size() &&
            lineage.reads[i + 1].role == std::string_view("linked")) {
            seen.clocks.linked_id = lineage.reads[i + 1].id;
            seen.clocks.linked = lineage.reads[i + 1].clocks;
            seen.clocks.linked_was_read = lineage.reads[i + 1].left_out.empty();
        }
        add(changes, read, change_of_input(seen, kTimeForInputs - (pg::monotonic_now() - started)));
        has_read = true;
    }
    const core::Instant ended = pg::monotonic_now();
    if (has_read)
        patience.note(user_id, ended - started, ended);
    return changes;
}

void add_changes_of_own_records(ReadSetChanges& changes, const ClaimedMission& claimed,
                                const NewestMission& newest, const Lineage& lineage) {
    ReadSetChanges own;
    for (const ReadRecord& read : lineage.reads) {
        if (read.role == std::string_view("mission"))
            add(own, read, change_of_mission(read, claimed, newest));
        else if (read.role == std::string_view("agent"))
            add(own, read, change_of_agent(read, claimed, newest.space_id));
    }
    changes.is_incomplete |= own.is_incomplete;
    changes.changed.insert(changes.changed.begin(), own.changed.begin(), own.changed.end());
}

}  // namespace mana_ai
