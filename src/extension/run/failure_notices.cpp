#include "mana_ai/extension/run/failure_notices.hpp"

#include <string_view>

#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

namespace {

// A budget recovers by itself within a day, unless other missions continue to use it up. The other
// causes are told if no device of the user has run the mission: an open device checks every minute,
// and gives a run three.
core::Instant patience_with(core::NoticeCause cause) {
    return cause == core::NoticeCause::Budget || cause == core::NoticeCause::UserBudget
               ? core::kMicrosPerDay
               : 5 * core::kMicrosPerMinute;
}

// If grants open nothing, encrypted missions run on devices only, which is normal, and another
// grant would not help.
bool grants_may_open(const std::string& user_id, core::NoticeCause cause) {
    if (cause != core::NoticeCause::Encrypted && cause != core::NoticeCause::Unopened)
        return true;
    if (pg::settings::grant_private_key_file().empty())
        return false;
    static pg::Statement find("SELECT 1 WHERE NOT mana_ai.grants_open_nothing($1)");
    return !find.execute({std::string_view(user_id)}).rows.empty();
}

}  // namespace

std::optional<core::NoticeCause> notice_cause(core::GateDecision decision) {
    switch (decision) {
        case core::GateDecision::SkippedEncrypted:
            return core::NoticeCause::Encrypted;
        case core::GateDecision::SkippedArchived:
            return core::NoticeCause::Archived;
        case core::GateDecision::SkippedBudget:
        case core::GateDecision::SkippedMissionBudget:
            return core::NoticeCause::Budget;
        case core::GateDecision::SkippedUserBudget:
        case core::GateDecision::SkippedTotalBudget:
            return core::NoticeCause::UserBudget;
        default:
            return std::nullopt;
    }
}

bool is_notice_due(const std::string& user_id, const std::string& mission_id,
                   core::NoticeCause cause, core::Instant now) {
    if (!pg::settings::report_failures() || !grants_may_open(user_id, cause))
        return false;
    static pg::Statement find(R"sql(
SELECT 1 FROM mana_ai.mission_schedule s
 WHERE s.user_id = $1 AND s.mission_id = $2 AND $4 <> ALL (coalesce(s.told, '{}'))
   AND ($5 OR (s.held_since IS NOT NULL AND s.due_at IS NOT NULL
               AND greatest(s.held_since, s.due_at) <= $3)))sql");
    return !find.execute({std::string_view(user_id), std::string_view(mission_id),
                          pg::Timestamp{now - patience_with(cause)},
                          std::string_view(core::name(cause)), cause == core::NoticeCause::Failed})
                .rows.empty();
}

void remember_told(const ClaimedMission& claimed, core::NoticeCause cause) {
    static pg::Statement remember(R"sql(
UPDATE mana_ai.mission_schedule SET told = array_append(told, $3)
 WHERE user_id = $1 AND mission_id = $2)sql");
    remember.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                      std::string_view(core::name(cause))});
}

bool says_already(const ClaimedMission& claimed, const core::FailureNotice& notice) {
    static pg::Statement find(R"sql(
SELECT 1
  FROM (SELECT e.iteration
          FROM mana_ai.mission_snapshots m, jsonb_array_elements(
                 CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                      THEN m.record -> 'iterations' ELSE '[]' END) WITH ORDINALITY AS e(iteration, place)
         WHERE m.user_id = $1 AND m.mission_id = $2 AND e.iteration ->> 'source' = 'server'
         ORDER BY e.place DESC LIMIT 1) last
 WHERE last.iteration ->> 'overallStatus' = 'failed'
   AND last.iteration #>> '{errorDetails,name}' = $3)sql");
    return !find.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                          std::string_view(notice.title)})
                .rows.empty();
}

}  // namespace mana_ai
