// explain(): the prompt that a model would get for a mission now (docs/contract/interface.md,
// Functions). Makes no call, opens nothing and writes nothing.

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/service/web_research.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/crypto/grant.hpp"
#include "mana_ai/extension/input/custom_resolver.hpp"
#include "mana_ai/extension/input/decryption.hpp"
#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/run/tool_table.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/htup_details.h"
#include "utils/jsonb.h"
}

namespace mana_ai {

namespace {

constexpr char kPlaceholder[] = "[encrypted]";

struct Subject {
    std::string user_id;
    core::Mission mission;
    std::optional<core::Agent> agent;
    core::GateDecision decision = core::GateDecision::Ran;
    std::string plan_basis_digest;
    std::optional<crypto::Grant> grant;  // if it is worth an attempt
};

struct Explanation {
    std::string system_prompt;
    std::string user_prompt;
    std::string tools;
    std::string decision;
};

Subject read_subject(const std::string& user_id, const std::string& mission_id) {
    static pg::Statement select_subject(R"sql(
SELECT CASE WHEN mana_ai.raw_size(m.record, m.clocks) <= $3 THEN mana_ai.planning_record(m.record, m.clocks) END,
       CASE WHEN mana_ai.raw_size(a.record) <= $3 THEN mana_ai.planning_agent(a.record) END,
       s.plan_basis_digest,
       (SELECT count(*) FROM mana_ai.runs r
         WHERE r.user_id = s.user_id AND r.agent_id = s.agent_id AND r.outcome = 'running'),
       (SELECT coalesce(sum(u.tokens_used), 0)::bigint FROM mana_ai.token_usage u
         WHERE u.user_id = s.user_id AND u.agent_id = s.agent_id AND u.purpose <> 'what_if'
           AND u.ts > clock_timestamp() - interval '24 hours'),
       EXISTS (SELECT FROM mana_ai.mission_research_jobs j
                WHERE j.user_id = m.user_id AND j.mission_id = m.mission_id
                  AND j.state = 'waiting'), a.agent_id,
       CASE WHEN m.space_id IS NOT NULL AND mana_ai.raw_size(m.record, m.clocks) <= $3 THEN
         mana_ai.member_hold(m.user_id, m.mission_id, m.space_id, m.record, m.clocks) END IS NOT NULL,
       a.is_deleted, a.is_ambiguous
  FROM mana_ai.mission_snapshots m
  LEFT JOIN mana_ai.mission_schedule s ON s.user_id = m.user_id AND s.mission_id = m.mission_id
  LEFT JOIN LATERAL (SELECT CASE WHEN f.record IS NOT NULL THEN s.agent_id END AS agent_id,
                            f.record, f.is_deleted, f.is_ambiguous
                       FROM mana_ai.agent_of_mission(s.user_id, s.agent_id, m.space_id) f) a ON true
 WHERE m.user_id = $1 AND m.mission_id = $2)sql");
    const auto rows = select_subject
                          .execute({std::string_view(user_id), std::string_view(mission_id),
                                    pg::settings::max_record_size()})
                          .rows;
    if (rows.empty())
        throw pg::make_error(ERRCODE_NO_DATA, "mission \"" + mission_id + "\" of user \"" +
                                                  user_id + "\" does not exist");
    const pg::Row& row = rows.front();
    Subject subject;
    subject.user_id = user_id;
    const core::Instant now = pg::now();
    core::GateInput gates{.mission = subject.mission};
    gates.record_too_large = row.is_null(0) || (!row.is_null(6) && row.is_null(1));
    if (!row.is_null(0)) {
        if (auto read = read_planning_mission(row.text(0))) {
            subject.mission = std::move(read->mission);
            gates.clock_ahead = read->newest_clock > now + kMaxClockLead;
            gates.runs_in_browser = read->browser_run_until > now;
        } else {
            gates.record_unreadable = true;
        }
    }
    if (!row.is_null(1)) {
        subject.agent = read_planning_agent(row.text(1), row.text(6));
        gates.record_unreadable |= !subject.agent.has_value();
    }
    subject.plan_basis_digest = row.text(2);
    if (grant_may_open(subject.mission, mission_id, now))
        subject.grant =
            std::get<crypto::Grant>(crypto::Grant::parse(subject.mission.grant, mission_id, now));
    gates.agent = subject.agent ? &*subject.agent : nullptr;
    gates.agent_missing = core::is_agent_missing(subject.mission, gates.agent, row.number(8) != 0,
                                                 row.number(9) != 0);
    gates.member_hold = row.number(7) != 0;
    gates.agent_running = static_cast<int>(row.number(3));
    gates.agent_tokens_24h = row.number(4);
    gates.max_unreviewed = pg::settings::max_unreviewed();
    gates.ciphertext_opened = subject.grant.has_value();
    gates.research_pending = row.number(5) != 0;
    subject.decision = core::judge_gates(gates);
    return subject;
}

struct ReadInput {
    core::ResolvedInput input;
    std::string version;
};

std::optional<ReadInput> read_built_in(const Subject& subject, const core::InputModule& module,
                                       const core::InputReference& reference) {
    auto found = read_input_record(subject.user_id, module, reference.table, reference.id);
    if (!found)
        return std::nullopt;
    std::string version = content_version(found->record);
    if (module.may_be_encrypted) {
        const auto ciphertexts = core::ciphertexts_in(found->record, module);
        if (!ciphertexts.empty() &&
            (!subject.grant || !subject.grant->allows(reference.table, reference.id)))
            return std::nullopt;
        for (std::string* text : ciphertexts)
            *text = kPlaceholder;
    }
    return ReadInput{core::render_input(reference, module, found->record), std::move(version)};
}

std::optional<ReadInput> read_by_resolver(const Subject& subject,
                                          const core::InputReference& reference) {
    const auto resolver = find_resolver(reference.module);
    if (!resolver)
        return std::nullopt;
    const pg::AdvisoryLockScope locks;
    const auto output =
        call_resolver(*resolver, subject.user_id, reference.module, reference.table, reference.id);
    const auto* json = std::get_if<core::Json>(&output);
    if (json == nullptr)
        return std::nullopt;
    auto input = core::input_from_resolver(reference, *json);
    if (!input)
        return std::nullopt;
    return ReadInput{std::move(*input), crypto::sha256_hex(core::dump_json(*json))};
}

// As in a run, an input that cannot be read is left out.
std::optional<ReadInput> read_input(const Subject& subject, const core::InputReference& reference) {
    const core::InputModule* module = core::built_in_module(reference.module);
    if (module == nullptr)
        return read_by_resolver(subject, reference);
    std::optional<ReadInput> input;
    pg::in_subtransaction([&] {
        input = read_built_in(subject, *module, reference);
        return true;
    });
    return input;
}

void hide_ciphertext(core::Mission& mission) {
    for (std::string* text : {&mission.title, &mission.objective, &mission.concept_markdown})
        if (core::is_ciphertext(*text))
            *text = kPlaceholder;
}

Explanation explain(const std::string& user_id, const std::string& mission_id) {
    Subject subject = read_subject(user_id, mission_id);
    core::Mission& mission = subject.mission;
    const core::Agent* agent = subject.agent ? &*subject.agent : nullptr;
    std::vector<core::ResolvedInput> inputs;
    std::vector<core::InputVersion> versions;
    for (const core::InputReference& reference : core::input_references(mission.inputs)) {
        auto read = read_input(subject, reference);
        if (!read)
            continue;
        inputs.push_back(std::move(read->input));
        versions.push_back({reference, std::move(read->version)});
    }
    const bool researches = core::wants_web_research(mission) || core::wants_deep_research(mission);
    if (researches)
        inputs.push_back({"__web-research__", "news-research", "web", "Web-Recherche",
                          "[fetched before the plan; explain() fetches nothing]"});
    if (subject.decision == core::GateDecision::Ran && !researches &&
        pg::settings::skip_unchanged() && core::is_recurring(mission.cadence) &&
        subject.plan_basis_digest ==
            crypto::sha256_hex(
                core::plan_basis(mission, agent, versions, pg::settings::planner_model_list())))
        subject.decision = core::GateDecision::SkippedUnchanged;
    hide_ciphertext(mission);

    Explanation explanation;
    explanation.system_prompt = core::system_prompt(agent);
    explanation.user_prompt = core::user_prompt(
        mission, inputs, pg::PostgresTimeZone(pg::settings::timezone()).to_local(pg::now()));
    const auto offered =
        core::offer(load_tools().tools, agent != nullptr ? &agent->policy : nullptr);
    explanation.tools = offered.tools_json().empty() ? "[]" : std::string(offered.tools_json());
    explanation.decision = core::name(subject.decision);
    return explanation;
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_explain);
PGDLLEXPORT Datum mana_ai_explain(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const Explanation explanation =
            explain(pg::text_argument(fcinfo, 0), pg::text_argument(fcinfo, 1));
        return pg::guarded([&] {
            Datum values[4] = {
                CStringGetTextDatum(explanation.system_prompt.c_str()),
                CStringGetTextDatum(explanation.user_prompt.c_str()),
                DirectFunctionCall1(jsonb_in, CStringGetDatum(explanation.tools.c_str())),
                CStringGetTextDatum(explanation.decision.c_str()),
            };
            bool nulls[4] = {false, false, false, false};
            return pg::row_result(fcinfo, values, nulls);
        });
    });
}

}  // extern "C"
