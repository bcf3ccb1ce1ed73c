#include "mana_ai/extension/run/planning_record.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/wake.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/extension/run/iteration_state.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"
#include "mana_ai/extension/sync/lww_record.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/jsonb_object.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/detoast.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"
}

namespace mana_ai {

namespace {

using pg::find_field;
using pg::JsonbFields;
using pg::JsonbValueRef;
using pg::JsonbValues;

// A text is kept one character longer than prompts show it, so that they can show the cut.
constexpr int kShort = 200;
constexpr int kId = 1000;
// Only a whole ciphertext can be opened. This limit is longer than the encrypted form of the
// longest text in prompts, with four bytes per character; a cut ciphertext does not open.
constexpr int kCiphertext = 300'000;
constexpr uint32_t kMaxGrant = 64 * 1024;
constexpr uint32_t kMaxPolicy = 64 * 1024;
// More than the references that a run uses, since some may name the same record or none.
constexpr uint32_t kInputs = 2 * core::kMaxInputs;
constexpr uint32_t kSteps = core::PromptLimits::steps_per_iteration + 1;
// How many iterations' responses of users count in a plan's basis.
constexpr uint32_t kIterationsCompared = 200;
constexpr int kMaxDigits = 30;
// A browser gives up its own run of a mission after this time.
constexpr core::Instant kLongestBrowserRun = 180 * core::kMicrosPerSecond;
// What prompts are made of.
constexpr std::array<std::string_view, 6> kMissionFields = {
    "title", "objective", "conceptMarkdown", "inputs", "iterations", "agentId"};
constexpr std::array<std::string_view, 6> kAgentFields = {"name",   "role",   "systemPrompt",
                                                          "memory", "policy", "maxTokensPerDay"};

class ObjectWriter {
 public:
    explicit ObjectWriter(StringInfo out) : out_(out) { appendStringInfoChar(out_, '{'); }

    StringInfo key(const char* name) {
        appendStringInfo(out_, "%s\"%s\":", is_first_ ? "" : ",", name);
        is_first_ = false;
        return out_;
    }
    void end() { appendStringInfoChar(out_, '}'); }

 private:
    StringInfo out_;
    bool is_first_ = true;
};

void write_text(StringInfo out, std::string_view text, int max_chars) {
    const int size = static_cast<int>(text.size());
    const int kept = text.starts_with("enc:1:")
                         ? pg_mbcliplen(text.data(), size, kCiphertext)
                         : pg_mbcharcliplen(text.data(), size, max_chars + 1);
    char* copy = pnstrdup(text.data(), kept);
    escape_json(out, copy);
    pfree(copy);
}

// Limits the digits of very large or very precise numbers.
void write_number(StringInfo out, const JsonbValueRef& value) {
    const auto number = reinterpret_cast<Numeric>(const_cast<char*>(value.bytes));  // read only
    char* text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
    const size_t size = std::strlen(text);
    const size_t point = std::strcspn(text, ".");
    if (size <= kMaxDigits)
        appendStringInfoString(out, text);
    else if (point < kMaxDigits - 1)
        appendBinaryStringInfo(out, text, kMaxDigits);
    else
        appendStringInfoString(out, text[0] == '-' ? "-1e30" : "1e30");
    pfree(text);
}

// A scalar; any container becomes an empty object.
void write_scalar(StringInfo out, const JsonbValueRef& value, int max_chars) {
    switch (value.type) {
        case JENTRY_ISSTRING:
            write_text(out, {value.bytes, value.size}, max_chars);
            break;
        case JENTRY_ISNUMERIC:
            write_number(out, value);
            break;
        case JENTRY_ISBOOL_TRUE:
            appendStringInfoString(out, "true");
            break;
        case JENTRY_ISBOOL_FALSE:
            appendStringInfoString(out, "false");
            break;
        case JENTRY_ISCONTAINER:
            appendStringInfoString(out, "{}");
            break;
        default:
            appendStringInfoString(out, "null");
            break;
    }
}

void write_member(ObjectWriter& object, const JsonbFields& from, const char* name, int max_chars) {
    if (const JsonbValueRef* value = find_field(from, name))
        write_scalar(object.key(name), *value, max_chars);
}

void write_whole(StringInfo out, const JsonbValueRef& value) {
    auto* container =
        reinterpret_cast<JsonbContainer*>(const_cast<char*>(value.bytes));  // read only
    (void)JsonbToCString(out, container, static_cast<int>(value.size));
}

void forget(JsonbFields& fields) {
    if (fields.fields != nullptr)
        pfree(fields.fields);
    fields = JsonbFields{};
}

// ---------------------------------------------------------------- the parts of a mission

// References, or ids alone; as ids.
void write_ids(StringInfo out, const JsonbValueRef& value) {
    const JsonbValues elements = pg::read_array(value);
    appendStringInfoChar(out, '[');
    for (uint32_t i = 0; i < elements.count && i < kInputs; i++) {
        if (i > 0)
            appendStringInfoChar(out, ',');
        JsonbFields members = pg::read_object(elements.values[i]);
        const JsonbValueRef* id = find_field(members, "id");
        write_scalar(out, id != nullptr ? *id : elements.values[i], core::kMaxReferencePart);
        forget(members);
    }
    appendStringInfoChar(out, ']');
}

void write_cadence(StringInfo out, const JsonbValueRef& value) {
    if (!pg::is_object(value)) {
        appendStringInfoString(out, value.type == JENTRY_ISNULL ? "null" : "0");
        return;
    }
    const JsonbFields members = pg::read_object(value);
    ObjectWriter object(out);
    for (const char* name : {"kind", "everyMinutes", "atHour", "atMinute", "dayOfWeek"})
        write_member(object, members, name, kShort);
    write_member(object, members, "expression", kId);
    const JsonbValueRef* kind = find_field(members, "kind");
    if (kind != nullptr && pg::string_of(*kind) == core::kOnChange) {
        write_member(object, members, "debounceMinutes", kShort);
        write_member(object, members, "minIntervalMinutes", kShort);
        if (const JsonbValueRef* inputs = find_field(members, "inputs"))
            write_ids(object.key("inputs"), *inputs);
    }
    object.end();
}

void write_grant(StringInfo out, const JsonbValueRef& value) {
    if (pg::is_object(value) && value.size <= kMaxGrant)
        write_whole(out, value);
    else
        write_scalar(out, value, kShort);
}

bool is_reference(const JsonbFields& members) {
    for (const char* name : {"module", "table", "id"}) {
        const JsonbValueRef* part = find_field(members, name);
        if (part == nullptr || part->type != JENTRY_ISSTRING || part->size == 0 ||
            part->size > core::kMaxReferencePart)
            return false;
    }
    return true;
}

// The last ones, as they are the newest.
void write_inputs(StringInfo out, const JsonbValueRef& value) {
    const JsonbValues elements = pg::read_array(value);
    uint32_t first = elements.count;
    for (uint32_t found = 0; first > 0 && found < kInputs; first--) {
        JsonbFields members = pg::read_object(elements.values[first - 1]);
        found += is_reference(members) ? 1 : 0;
        forget(members);
    }
    appendStringInfoChar(out, '[');
    bool is_first = true;
    for (uint32_t i = first; i < elements.count; i++) {
        JsonbFields members = pg::read_object(elements.values[i]);
        if (is_reference(members)) {
            if (!is_first)
                appendStringInfoChar(out, ',');
            is_first = false;
            ObjectWriter object(out);
            for (const char* name : {"module", "table", "id"})
                write_member(object, members, name, core::kMaxReferencePart);
            object.end();
        }
        forget(members);
    }
    appendStringInfoChar(out, ']');
}

void write_steps(StringInfo out, const JsonbValueRef& value) {
    const JsonbValues steps = pg::read_array(value);
    appendStringInfoChar(out, '[');
    for (uint32_t i = 0; i < std::min(steps.count, kSteps); i++) {
        if (i > 0)
            appendStringInfoChar(out, ',');
        if (!pg::is_object(steps.values[i])) {
            appendStringInfoString(out, "null");
            continue;
        }
        JsonbFields members = pg::read_object(steps.values[i]);
        ObjectWriter object(out);
        write_member(object, members, "status", kShort);
        write_member(object, members, "summary", core::PromptLimits::step_summary);
        if (const JsonbValueRef* intent = find_field(members, "intent");
            intent != nullptr && pg::is_object(*intent)) {
            JsonbFields call = pg::read_object(*intent);
            write_member(object, call, "toolName", kShort);
            forget(call);
        }
        object.end();
        forget(members);
    }
    appendStringInfoChar(out, ']');
    if (steps.values != nullptr)
        pfree(steps.values);
}

void write_iteration(StringInfo out, const JsonbFields& members) {
    ObjectWriter object(out);
    for (const char* name : {"id", "startedAt", "overallStatus", "source"})
        write_member(object, members, name, kShort);
    write_member(object, members, "summary", core::PromptLimits::iteration_summary);
    write_member(object, members, "userFeedback", core::PromptLimits::feedback);
    write_member(object, members, "feedback", core::PromptLimits::feedback);
    if (const JsonbValueRef* plan = find_field(members, "plan")) {
        if (pg::is_array(*plan))
            write_steps(object.key("plan"), *plan);
        else
            write_scalar(object.key("plan"), *plan, kShort);
    }
    object.end();
}

// The newest iterations, and from all of them how many wait for review, and until when a run in a
// browser has time. The browser's clock may be ahead of ours: its run did not begin after its row's
// `written_at`.
void write_iterations(ObjectWriter& object, const JsonbValueRef& value, core::Instant written_at) {
    const core::Instant now = pg::now();
    const core::Instant latest_start = std::min(written_at, now);
    std::optional<core::Instant> browser_run;
    const JsonbValues elements = pg::read_array(value);
    const uint32_t wanted =
        pg::settings::skip_unchanged() ? kIterationsCompared : core::PromptLimits::iterations;
    uint32_t first = elements.count;
    for (uint32_t found = 0; first > 0 && found < wanted; first--) {
        JsonbFields members = pg::read_object(elements.values[first - 1]);
        found += pg::is_object(elements.values[first - 1]) && !is_notice(members) ? 1 : 0;
        forget(members);
    }
    StringInfo out = object.key("iterations");
    appendStringInfoChar(out, '[');
    bool is_first = true;
    int unreviewed = 0;
    for (uint32_t i = 0; i < elements.count; i++) {
        if (!pg::is_object(elements.values[i]))
            continue;
        JsonbFields members = pg::read_object(elements.values[i]);
        unreviewed += waits_for_review(members, now) ? 1 : 0;
        if (const auto start = browser_run_start(members))
            browser_run = std::max(browser_run, std::optional(std::min(*start, latest_start)));
        if (i >= first && !is_notice(members)) {
            if (!is_first)
                appendStringInfoChar(out, ',');
            is_first = false;
            write_iteration(out, members);
        }
        forget(members);
    }
    appendStringInfoChar(out, ']');
    appendStringInfo(object.key("unreviewed"), "%d", unreviewed);
    if (browser_run)
        appendStringInfo(object.key("browserRunUntil"), "%lld",
                         static_cast<long long>(*browser_run + kLongestBrowserRun));
}

struct Clocks {
    core::Instant newest = core::kOlderThanEverything;  // of the fields that a plan changes
    core::Instant iterations_written_at = core::kEndOfIsoInstants;
    const char* vector = "";
};

Clocks read_clocks(const Jsonb* record, const bytea* clocks) {
    Clocks found;
    RecordState state;
    if (clocks == nullptr || !read_state(state, record, clocks, 0, false, {}))
        return found;
    std::optional<core::Instant> iterations;
    for (uint32_t i = 0; i < state.count; i++) {
        const std::string_view name = core::head_of(state.fields[i].field.name());
        const core::FieldClock& clock = state.fields[i].clock;
        if (name == "iterations" || name == "nextRunAt" || name == "updatedAt")
            found.newest = std::max(found.newest, clock.time);
        if (name == "iterations")
            iterations = std::max(iterations, std::optional(clock.row_time));
    }
    found.iterations_written_at = iterations.value_or(found.iterations_written_at);
    found.vector = clock_vector_of(state, read_of_mission());
    return found;
}

}  // namespace

ReadFields read_of_mission() {
    return {kMissionFields};
}

ReadFields read_of_agent() {
    return {kAgentFields};
}

bool is_too_large(Datum value) {
    return static_cast<int64_t>(toast_raw_datum_size(value)) > pg::settings::max_record_size();
}

const char* planning_record_text(Datum datum, const bytea* clocks) {
    const Jsonb* record = DatumGetJsonbP(datum);
    const JsonbFields fields = pg::read_object(record);
    const Clocks read = read_clocks(record, clocks);
    StringInfoData out;
    initStringInfo(&out);
    ObjectWriter object(&out);
    write_member(object, fields, "id", kId);
    write_member(object, fields, "title", core::PromptLimits::title);
    write_member(object, fields, "objective", core::PromptLimits::objective);
    write_member(object, fields, "conceptMarkdown", core::PromptLimits::concept_markdown);
    write_member(object, fields, "state", kShort);
    write_member(object, fields, "nextRunAt", kShort);
    write_member(object, fields, "agentId", kId);
    write_member(object, fields, "maxTokensPerDay", kShort);
    if (const JsonbValueRef* value = find_field(fields, "cadence"))
        write_cadence(object.key("cadence"), *value);
    if (const JsonbValueRef* value = find_field(fields, "grant"))
        write_grant(object.key("grant"), *value);
    if (const JsonbValueRef* value = find_field(fields, "inputs"))
        write_inputs(object.key("inputs"), *value);
    if (const JsonbValueRef* value = find_field(fields, "iterations"))
        write_iterations(object, *value, read.iterations_written_at);
    if (clocks != nullptr) {
        appendStringInfo(object.key("newestClock"), "%lld", static_cast<long long>(read.newest));
        appendStringInfo(object.key("clocks"), "\"%s\"", read.vector);
    }
    object.end();
    return out.data;
}

const char* planning_agent_text(Datum datum, const bytea* clocks) {
    const Jsonb* record = DatumGetJsonbP(datum);
    const JsonbFields fields = pg::read_object(record);
    const JsonbValueRef* policy = find_field(fields, "policy");
    if (policy != nullptr && policy->type == JENTRY_ISCONTAINER && policy->size > kMaxPolicy)
        return nullptr;
    StringInfoData out;
    initStringInfo(&out);
    ObjectWriter object(&out);
    write_member(object, fields, "name", kShort);
    write_member(object, fields, "role", core::PromptLimits::title);
    write_member(object, fields, "state", kShort);
    write_member(object, fields, "systemPrompt", core::PromptLimits::persona);
    write_member(object, fields, "memory", core::PromptLimits::memory);
    write_member(object, fields, "maxConcurrentMissions", kShort);
    write_member(object, fields, "maxTokensPerDay", kShort);
    if (policy != nullptr && pg::is_object(*policy))
        write_whole(object.key("policy"), *policy);
    else if (policy != nullptr)
        write_scalar(object.key("policy"), *policy, kShort);
    RecordState state;
    if (clocks != nullptr && read_state(state, record, clocks, 0, false, {}))
        appendStringInfo(object.key("clocks"), "\"%s\"", clock_vector_of(state, read_of_agent()));
    object.end();
    return out.data;
}

std::optional<PlanningMission> read_planning_mission(std::string_view text) {
    std::optional<core::Json> json = core::parse_json(text);
    if (!json || !json->is_object())
        return std::nullopt;
    PlanningMission read;
    const int unreviewed = json->value("unreviewed", 0);
    read.browser_run_until = json->value("browserRunUntil", core::kOlderThanEverything);
    read.newest_clock = json->value("newestClock", core::kOlderThanEverything);
    read.clocks = json->value("clocks", std::string());
    read.mission = core::parse_mission(std::move(*json));
    read.mission.unreviewed = unreviewed;
    core::Json& iterations = read.mission.iterations;
    if (pg::settings::skip_unchanged())
        read.mission.verdicts_digest = crypto::sha256_hex(core::verdicts(iterations));
    constexpr size_t kShown = core::PromptLimits::iterations;
    if (iterations.size() > kShown)
        iterations.erase(iterations.begin(),
                         iterations.end() - static_cast<std::ptrdiff_t>(kShown));
    return read;
}

std::optional<core::Agent> read_planning_agent(std::string_view text, const std::string& id,
                                               std::string* clocks) {
    const std::optional<core::Json> json = core::parse_json(text);
    if (!json || !json->is_object())
        return std::nullopt;
    core::Agent agent = core::parse_agent(*json);
    agent.id = id;
    if (clocks != nullptr)
        *clocks = json->value("clocks", std::string());
    return agent;
}

}  // namespace mana_ai

extern "C" {

// raw_size(value), raw_size(record, clocks): the uncompressed size, of the larger one, without
// reading them.
PG_FUNCTION_INFO_V1(mana_ai_raw_size);
PGDLLEXPORT Datum mana_ai_raw_size(PG_FUNCTION_ARGS) {
    Size largest = 0;
    for (int i = 0; i < PG_NARGS(); i++)
        largest = std::max(largest, toast_raw_datum_size(PG_GETARG_DATUM(i)));
    PG_RETURN_INT64(static_cast<int64>(largest));
}

// planning_record(record, clocks): what planning reads of a mission's record, as JSON.
PG_FUNCTION_INFO_V1(mana_ai_planning_record);
PGDLLEXPORT Datum mana_ai_planning_record(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo] {
            return CStringGetTextDatum(
                planning_record_text(PG_GETARG_DATUM(0), PG_GETARG_BYTEA_P(1)));
        });
    });
}

// planning_agent(record, clocks): the same of an agent's record; null when its policy is too large.
PG_FUNCTION_INFO_V1(mana_ai_planning_agent);
PGDLLEXPORT Datum mana_ai_planning_agent(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    const char* text = pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo] {
            const bytea* clocks = PG_ARGISNULL(1) ? nullptr : PG_GETARG_BYTEA_P(1);
            return planning_agent_text(PG_GETARG_DATUM(0), clocks);
        });
    });
    if (text == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(text));
}

}  // extern "C"
