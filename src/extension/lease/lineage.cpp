#include "mana_ai/extension/lease/lineage.hpp"

#include <cstdio>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

std::string text_of(const core::CivilTime& time) {
    char text[80];
    std::snprintf(text, sizeof text, "%04d-%02d-%02d %02d:%02d", time.year, time.month, time.day,
                  time.hour, time.minute);
    return text;
}

std::optional<std::string> non_empty(const std::string& text) {
    return text.empty() ? std::nullopt : std::optional(text);
}

void write_reads(const ClaimedMission& claimed, const std::vector<ReadRecord>& reads) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.run_reads (run_id, ordinal, user_id, role, module, table_name, record_id, clocks,
                               was_encrypted, left_out)
SELECT $1::uuid, r.ordinal, $2, r.role, nullif(r.module, ''), r.table_name, r.record_id,
       decode(nullif(r.clocks, ''), 'hex'), r.was_encrypted <> '', nullif(r.left_out, '')
  FROM unnest($3, $4, $5, $6, $7, $8, $9) WITH ORDINALITY
       AS r(role, module, table_name, record_id, clocks, was_encrypted, left_out, ordinal))sql");
    std::vector<std::string> roles, modules, tables, ids, clocks, encrypted, left_out;
    for (const ReadRecord& read : reads) {
        roles.emplace_back(read.role);
        modules.push_back(read.module);
        tables.push_back(read.table);
        ids.push_back(read.id);
        clocks.push_back(read.clocks);
        encrypted.emplace_back(read.was_encrypted ? "yes" : "");
        left_out.push_back(read.left_out);
    }
    insert.execute({std::string_view(claimed.run_id), std::string_view(claimed.user_id), &roles,
                    &modules, &tables, &ids, &clocks, &encrypted, &left_out});
}

// Text that was opened under a grant, and results of resolvers and research, are not stored. From a
// digest they could be found by trial with the rest of the body.
bool holds_withheld_text(const Lineage& lineage) {
    if (lineage.research != nullptr && lineage.research == std::string_view("used"))
        return true;
    for (const ReadRecord& read : lineage.reads)
        if (read.was_encrypted || (read.role == std::string_view("input") &&
                                   core::built_in_module(read.module) == nullptr))
            return true;
    return false;
}

struct KnownBeginning {
    std::string text;
    crypto::Sha256 digest;
};

// The state after what all requests with these tools begin with.
crypto::Sha256 digest_of_beginning(std::string_view beginning) {
    constexpr size_t kMaxKnown = 8;
    constexpr size_t kWorthKeeping = 1024;  // bytes
    static std::vector<KnownBeginning> known;
    for (const KnownBeginning& one : known)
        if (one.text == beginning)
            return one.digest;
    crypto::Sha256 digest;
    digest.add(beginning);
    if (beginning.size() < kWorthKeeping)
        return digest;
    if (known.size() >= kMaxKnown)
        known.clear();
    known.push_back({std::string(beginning), digest});
    return digest;
}

// Whether the two bodies differ only behind `of_run` of the first. Nothing but a compaction, which
// is a request, changes a history otherwise than by adding to it.
bool begins_alike(const SentRequest& before, const SentRequest& next) {
    return before.purpose == next.purpose && before.model == next.model &&
           before.service_tier == next.service_tier && before.max_tokens == next.max_tokens &&
           before.has_cache_key == next.has_cache_key;
}

std::string digest_of(Lineage& lineage, const SentRequest& request, const core::ChatBody& body) {
    const std::string_view text = body.text;
    const bool continues = lineage.beginning && lineage.beginning->bytes <= body.of_run &&
                           begins_alike(lineage.requests.back(), request);
    if (!continues)
        lineage.beginning = {digest_of_beginning(text.substr(0, body.of_all)), body.of_all};
    Lineage::Beginning& beginning = *lineage.beginning;
    beginning.digest.add(text.substr(beginning.bytes, body.of_run - beginning.bytes));
    beginning.bytes = body.of_run;
    return beginning.digest.hex_with(text.substr(beginning.bytes));
}

}  // namespace

void note_request(Lineage& lineage, SentRequest request, const core::ChatBody& body) {
    request.sent_at = pg::now();
    if (!holds_withheld_text(lineage)) {
        request.sha256 = digest_of(lineage, request, body);
        request.bytes = static_cast<int64_t>(body.text.size());
    }
    lineage.requests.push_back(std::move(request));
}

void write_lineage(const ClaimedMission& claimed, const Lineage& lineage) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.run_requests (run_id, ordinal, user_id, purpose, round, sha256, bytes, sent_at,
                                  model, max_tokens, service_tier, prompt_cache_key, agent_tokens,
                                  prompt_version, local_time, research)
VALUES ($1::uuid, $2, $3, $4, $5, decode(nullif($6, ''), 'hex'), $7, $8, $9, $10, $11, $12, $13, $14,
        $15::timestamp, $16))sql");
    if (lineage.requests_on_disk == 0 && !lineage.requests.empty())
        write_reads(claimed, lineage.reads);
    for (size_t i = lineage.requests_on_disk; i < lineage.requests.size(); i++) {
        const SentRequest& request = lineage.requests[i];
        const std::string local_time = text_of(lineage.local_time);
        const auto tier = non_empty(request.service_tier);
        std::optional<std::string> research;
        if (lineage.research != nullptr)
            research = lineage.research;
        insert.execute({std::string_view(claimed.run_id), static_cast<int64_t>(i + 1),
                        std::string_view(claimed.user_id), std::string_view(request.purpose),
                        int64_t{request.round}, std::string_view(request.sha256),
                        request.bytes ? pg::Param(*request.bytes) : pg::Param(pg::Null{INT8OID}),
                        pg::Timestamp{request.sent_at}, std::string_view(request.model),
                        request.max_tokens, pg::text_or_null(tier), request.has_cache_key,
                        request.agent_tokens, std::string_view(lineage.prompt_version),
                        std::string_view(local_time), pg::text_or_null(research)});
    }
}

std::string prompt_cache_key_of(const std::string& user_id, const std::string& agent_id) {
    constexpr size_t kLength = 32;
    return "mana-ai-" +
           crypto::sha256_hex("prompt cache\n" + user_id + '\n' + agent_id).substr(0, kLength);
}

std::string prompt_version_of(std::string_view tools_json) {
    constexpr size_t kLength = 12;  // enough to distinguish a few dozen versions
    return crypto::sha256_hex("layout " + std::to_string(core::kChatLayout) + core::prompt_text() +
                              std::string(tools_json))
        .substr(0, kLength);
}

}  // namespace mana_ai
