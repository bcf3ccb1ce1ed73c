#include "mana_ai/pg/settings.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <climits>
#include <fstream>

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/fold_settings.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "pgtime.h"
#include "utils/guc.h"
#include "utils/varlena.h"
}

namespace mana_ai::pg::settings {

namespace {

using core::PolicyMode;
using core::StepStatus;

// Each may cost a run its retries, and the lease outlasts the longest run.
constexpr int kMaxPlannerModels = 8;

char* database_list = nullptr;
bool tick_enabled_value = true;
int tick_interval_ms = 60 * 1000;
int crash_limit_value = 3;
char* llm_url_value = nullptr;
char* service_key_file_value = nullptr;
char* planner_model_value = nullptr;
char* service_tier_value = nullptr;
bool prompt_cache_key_value = false;
int max_concurrency_value = 64;
int max_concurrency_per_user_value = 0;
int llm_requests_per_minute_value = 0;
int llm_tokens_per_minute_value = 0;
int llm_timeout_ms = 120 * 1000;
int llm_max_tokens_value = 16'384;
int user_tokens_per_day_value = 10'000'000;
int total_tokens_per_day_value = 0;
int user_web_research_per_day_value = 200;
int user_deep_research_per_day_value = 10;
int max_unreviewed_value = 3;
bool report_failures_value = true;
char* timezone_value = nullptr;
int runs_retention_s = 30 * 24 * 3600;
char* proxy_value = nullptr;
char* ca_file_value = nullptr;
char* api_url_value = nullptr;
bool api_service_key_value = false;
char* research_url_value = nullptr;
char* auth_url_value = nullptr;
char* jwt_issuers_value = nullptr;
char* grant_private_key_file_value = nullptr;
bool deep_research_enabled_value = false;
int deep_research_timeout_ms = 90 * 60 * 1000;
int resolver_timeout_ms = 500;
int sync_table_timeout_ms = 5000;
bool skip_unchanged_value = false;
bool replan_overtaken_value = false;
bool wake_on_change_value = false;
int wake_debounce_s = 300;
int wake_min_interval_s = 3600;
int wakeups_per_user_value = 20;
bool restore_iterations_value = true;
int audit_retention_s = 0;
int max_record_size_kb = 2048;
int fold_at_once_kb = 64 * 1024;
char* compact_model_value = nullptr;
int compact_max_context_tokens_value = 1'000'000;
int policy_mode_value = static_cast<int>(PolicyMode::Enforce);
int step_status_value = static_cast<int>(StepStatus::Planned);
char* http_listen_value = nullptr;
char* http_cors_origins_value = nullptr;
char* otlp_endpoint_value = nullptr;

const config_enum_entry kPolicyModes[] = {
    {name(PolicyMode::Off), static_cast<int>(PolicyMode::Off), false},
    {name(PolicyMode::LogOnly), static_cast<int>(PolicyMode::LogOnly), false},
    {name(PolicyMode::Enforce), static_cast<int>(PolicyMode::Enforce), false},
    {nullptr, 0, false},
};

const config_enum_entry kStepStatuses[] = {
    {name(StepStatus::Planned), static_cast<int>(StepStatus::Planned), false},
    {name(StepStatus::Staged), static_cast<int>(StepStatus::Staged), false},
    {name(StepStatus::ByPolicy), static_cast<int>(StepStatus::ByPolicy), false},
    {nullptr, 0, false},
};

std::string without_trailing_slash(const char* value) {
    std::string url = value;
    while (!url.empty() && url.back() == '/')
        url.pop_back();
    return url;
}

bool is_header_safe(const char* text) {
    for (const char* c = text; *c != '\0'; c++)
        if (static_cast<unsigned char>(*c) < 0x21 || static_cast<unsigned char>(*c) > 0x7e)
            return false;
    return true;
}

UrlCheck url_check = nullptr;

bool check_url(const char* value, bool may_be_empty) {
    if (*value == '\0' && may_be_empty)
        return true;
    bool valid = false;
    char problem[256] = "";
    try {
        const auto text = url_check(value);
        valid = !text.has_value();
        if (text)
            strlcpy(problem, text->c_str(), sizeof(problem));
    } catch (...) {
        strlcpy(problem, "could not be checked", sizeof(problem));
    }
    if (!valid)
        GUC_check_errdetail("The URL %s.", problem);
    return valid;
}

// 0: none.
std::optional<int64_t> limit_of(int value) {
    return value == 0 ? std::nullopt : std::optional<int64_t>(value);
}

extern "C" {

static bool check_service_url(char** value, void**, GucSource) {
    return check_url(*value, false);
}

static bool check_optional_url(char** value, void**, GucSource) {
    return check_url(*value, true);
}

static bool check_issuers(char** value, void**, GucSource) {
    char* copy = pstrdup(*value);
    List* issuers = NIL;
    if (!SplitGUCList(copy, ',', &issuers)) {
        GUC_check_errdetail("List syntax is invalid: issuers of tokens, separated by commas.");
        return false;
    }
    list_free(issuers);
    return true;
}

// As browsers send them: scheme, host and port, in lower case. There is no wildcard.
bool is_origin(const char* text) {
    if (!check_url(text, false) || strchr(text, '*') != nullptr)
        return false;
    for (const char* c = text; *c != '\0'; c++)
        if (*c >= 'A' && *c <= 'Z')
            return false;
    return strchr(strstr(text, "://") + 3, '/') == nullptr;
}

static bool check_origins(char** value, void**, GucSource) {
    char* copy = pstrdup(*value);
    List* origins = NIL;
    bool valid = SplitGUCList(copy, ',', &origins);
    if (!valid)
        GUC_check_errdetail("List syntax is invalid: origins, separated by commas.");
    ListCell* cell = nullptr;
    foreach (cell, origins) {
        const char* origin = static_cast<const char*>(lfirst(cell));
        if (valid && !is_origin(origin)) {
            valid = false;
            GUC_check_errdetail(
                "\"%s\" is no origin: a scheme, a host and, if it is not the scheme's own, a "
                "port, in lower case, such as https://mana.example.",
                origin);
        }
    }
    list_free(origins);
    return valid;
}

// An address literal and a port: names could resolve to more than the operator meant to open.
static bool check_listen(char** value, void**, GucSource) {
    if (**value == '\0')
        return true;
    char address[INET6_ADDRSTRLEN + 3] = "";
    unsigned char parsed[sizeof(in6_addr)];
    const char* colon = strrchr(*value, ':');
    const char* begin = *value;
    int family = AF_INET;
    bool valid = colon != nullptr && static_cast<size_t>(colon - begin) < sizeof(address);
    if (valid) {
        size_t length = static_cast<size_t>(colon - begin);
        if (length >= 2 && begin[0] == '[' && begin[length - 1] == ']') {
            family = AF_INET6;
            begin++;
            length -= 2;
        }
        memcpy(address, begin, length);
        address[length] = '\0';
        char* end = nullptr;
        const long port = strtol(colon + 1, &end, 10);
        valid = inet_pton(family, address, parsed) == 1 && colon[1] >= '0' && colon[1] <= '9' &&
                *end == '\0' && port >= 1 && port <= 65535;
    }
    if (!valid)
        GUC_check_errdetail(
            "An address and a port are expected, for example \"127.0.0.1:3067\" or "
            "\"[::1]:3067\".");
    return valid;
}

static bool check_model(char** value, void**, GucSource) {
    if (**value != '\0' && is_header_safe(*value))
        return true;
    GUC_check_errdetail(
        "A model name is not empty and consists of printable ASCII characters "
        "without spaces, for example \"google/gemini-2.5-flash\".");
    return false;
}

// Names have no commas, so quotes are not supported.
static bool check_models(char** value, void**, GucSource) {
    int names = 0;
    bool is_name = false;  // the last character was part of one
    bool has_ended = false;
    bool valid = true;
    for (const char* c = *value; valid; c++) {
        if (*c == ',' || *c == '\0') {
            valid = is_name || has_ended;
            names++;
            is_name = has_ended = false;
            if (*c == '\0')
                break;
        } else if (*c == ' ') {
            has_ended |= is_name;
            is_name = false;
        } else {
            valid = !has_ended && static_cast<unsigned char>(*c) > 0x20 &&
                    static_cast<unsigned char>(*c) < 0x7f;
            is_name = true;
        }
    }
    if (valid && names <= kMaxPlannerModels)
        return true;
    GUC_check_errdetail(
        "One to %d model names are expected, separated by commas. A name is not empty and consists "
        "of printable ASCII characters without spaces, for example \"google/gemini-2.5-flash\".",
        kMaxPlannerModels);
    return false;
}

static bool check_tier(char** value, void**, GucSource) {
    if (is_header_safe(*value) && strlen(*value) <= 40)
        return true;
    GUC_check_errdetail(
        "A service tier consists of at most 40 printable ASCII characters without spaces, for "
        "example \"flex\"; empty means the standard one.");
    return false;
}

static bool check_timezone(char** value, void**, GucSource) {
    if (**value == '\0' || pg_tzset(*value) != nullptr)
        return true;
    GUC_check_errdetail(
        "\"%s\" is not a time zone that PostgreSQL knows; see the view "
        "pg_timezone_names.",
        *value);
    return false;
}

static bool check_databases(char** value, void**, GucSource) {
    char* copy = pstrdup(*value);
    List* names = NIL;
    if (!SplitGUCList(copy, ',', &names)) {
        GUC_check_errdetail("List syntax is invalid: database names, separated by commas.");
        return false;
    }
    list_free(names);
    return true;
}

}  // extern "C"

}  // namespace

void warn_of_retired_service_key() {
    ereport(WARNING,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("mana_ai: setting \"%s\" is no longer used", kRetiredServiceKey),
             errdetail("PostgreSQL shows and logs the values of settings that no library has "
                       "defined yet, so the key must be considered exposed."),
             errhint("Have the services issue a new key, write it into a file that only the server "
                     "can read, name the file in mana_ai.service_key_file, and remove \"%s\" from "
                     "the configuration (postgresql.conf, ALTER SYSTEM, ALTER DATABASE, ALTER "
                     "ROLE).",
                     kRetiredServiceKey)));
}

void define(bool preloading, UrlCheck check_base_url) {
    url_check = check_base_url;

    // Postmaster-level variables can only be defined while the postmaster loads the library. In a
    // backend that loads it later nothing reads them, but they must be defined for postgresql.conf.
    const GucContext restart = preloading ? PGC_POSTMASTER : PGC_SIGHUP;

    DefineCustomStringVariable(
        "mana_ai.database", "Databases that get a background worker, separated by commas.", nullptr,
        &database_list, "mana_sync", restart, GUC_LIST_INPUT, check_databases, nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.tick_enabled",
                             "Whether the background worker plans missions that are due.", nullptr,
                             &tick_enabled_value, true, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.tick_interval",
                            "Time between two full passes of the background worker.", nullptr,
                            &tick_interval_ms, 60 * 1000, 100, 24 * 3600 * 1000, PGC_SUSET,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.crash_limit",
        "Crashes within ten minutes that put a database into safe mode; 0 means never.", nullptr,
        &crash_limit_value, 3, 0, 20, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable(
        "mana_ai.llm_url", "Base URL of the OpenAI-compatible model service.", nullptr,
        &llm_url_value, "http://localhost:3025", PGC_SUSET, 0, check_service_url, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.service_key_file",
                               "File whose first line is the bearer token for the services.",
                               nullptr, &service_key_file_value, "", PGC_SUSET, GUC_SUPERUSER_ONLY,
                               nullptr, nullptr, nullptr);
    DefineCustomStringVariable(
        "mana_ai.planner_model",
        "Models that plan missions, the best one first, separated by commas.",
        "The next one is asked when those before it are away or cannot do it.",
        &planner_model_value, "google/gemini-2.5-flash", PGC_SUSET, GUC_LIST_INPUT, check_models,
        nullptr, nullptr);
    DefineCustomStringVariable(
        "mana_ai.service_tier",
        "Tier that models are asked to answer at, such as flex; empty means the standard one.",
        "Table mana_ai.agent_options has other tiers for single agents.", &service_tier_value, "",
        PGC_SUSET, 0, check_tier, nullptr, nullptr);
    DefineCustomBoolVariable(
        "mana_ai.prompt_cache_key",
        "Whether requests name what their prompts have in common, for caches of providers.",
        nullptr, &prompt_cache_key_value, false, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.max_concurrency", "Missions that one worker plans at the same time.", nullptr,
        &max_concurrency_value, 64, 1, kMaxConcurrency, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.max_concurrency_per_user",
        "Missions of one user that are planned at the same time; 0 means no limit.", nullptr,
        &max_concurrency_per_user_value, 0, 0, kMaxConcurrency, PGC_SUSET, 0, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable(
        "mana_ai.llm_requests_per_minute",
        "Calls of one model in a minute; 0 means as many as its service proves to take.", nullptr,
        &llm_requests_per_minute_value, 0, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.llm_tokens_per_minute",
        "Tokens that calls of one model may use in a minute; 0 means as many as its service "
        "proves to take.",
        nullptr, &llm_tokens_per_minute_value, 0, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable("mana_ai.llm_timeout", "Longest time that one model call may take.",
                            nullptr, &llm_timeout_ms, 120 * 1000, 100, 3600 * 1000, PGC_SUSET,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.llm_max_tokens",
        "Longest reply that a model may make, in tokens; 0 leaves that to the model.", nullptr,
        &llm_max_tokens_value, 16'384, 0, 1'000'000, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.user_tokens_per_day",
        "Tokens that the missions of one user may use in 24 hours; 0 means no limit.",
        "Table mana_ai.user_budgets has other limits for single users.", &user_tokens_per_day_value,
        10'000'000, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.total_tokens_per_day",
        "Tokens that all missions of a database may use in 24 hours; 0 means no limit.", nullptr,
        &total_tokens_per_day_value, 0, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.user_web_research_per_day",
        "How often the missions of one user may research on the web in 24 hours; 0 means no limit.",
        "Table mana_ai.user_budgets has other limits for single users.",
        &user_web_research_per_day_value, 200, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.user_deep_research_per_day",
        "How often the missions of one user may order long research in 24 hours; 0 means no limit.",
        "Table mana_ai.user_budgets has other limits for single users.",
        &user_deep_research_per_day_value, 10, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.max_unreviewed",
        "Plans that no device has dealt with after which a mission waits; 0 means no limit.",
        nullptr, &max_unreviewed_value, 3, 0, 1000, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.report_failures",
                             "Whether users are told, by a failed iteration, why a mission does "
                             "not run.",
                             nullptr, &report_failures_value, true, PGC_SUSET, 0, nullptr, nullptr,
                             nullptr);
    DefineCustomStringVariable("mana_ai.timezone",
                               "Time zone of cadences; empty means the server's TimeZone.", nullptr,
                               &timezone_value, "", PGC_SUSET, 0, check_timezone, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.runs_retention",
                            "How long finished runs are kept; 0 means for ever.", nullptr,
                            &runs_retention_s, 30 * 24 * 3600, 0, INT_MAX, PGC_SUSET, GUC_UNIT_S,
                            nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.proxy", "HTTP proxy for all calls; empty means none.",
                               nullptr, &proxy_value, "", PGC_SUSET, 0, check_optional_url, nullptr,
                               nullptr);
    DefineCustomStringVariable(
        "mana_ai.ca_file",
        "File of the certificates (PEM) that https services are verified with; empty means the "
        "system's.",
        nullptr, &ca_file_value, "", PGC_SUSET, GUC_SUPERUSER_ONLY, nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.api_url", "Base URL of mana-api, for web research.",
                               nullptr, &api_url_value, "http://localhost:3060", PGC_SUSET, 0,
                               check_service_url, nullptr, nullptr);
    DefineCustomBoolVariable(
        "mana_ai.api_service_key", "Whether calls of mana-api carry the service key.", nullptr,
        &api_service_key_value, false, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.research_url",
                               "Base URL of mana-research, for research that takes long.", nullptr,
                               &research_url_value, "http://localhost:3068", PGC_SUSET, 0,
                               check_service_url, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.auth_url",
                               "Base URL of mana-auth, whose keys sign the tokens of users.",
                               nullptr, &auth_url_value, "http://localhost:3001", PGC_SUSET, 0,
                               check_service_url, nullptr, nullptr);
    DefineCustomStringVariable(
        "mana_ai.jwt_issuers",
        "Issuers of users' tokens in addition to mana_ai.auth_url, separated by commas.", nullptr,
        &jwt_issuers_value, "", PGC_SUSET, GUC_LIST_INPUT, check_issuers, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.grant_private_key_file",
                               "PEM file with the RSA key that users wrap mission keys for; empty "
                               "means that nothing encrypted is read.",
                               nullptr, &grant_private_key_file_value, "", PGC_SUSET,
                               GUC_SUPERUSER_ONLY, nullptr, nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.deep_research_enabled",
                             "Whether missions may order research that takes long and costs "
                             "credits.",
                             nullptr, &deep_research_enabled_value, false, PGC_SUSET, 0, nullptr,
                             nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.deep_research_timeout",
                            "Time after which unfinished research counts as failed.", nullptr,
                            &deep_research_timeout_ms, 90 * 60 * 1000, 1000, 24 * 3600 * 1000,
                            PGC_SUSET, GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.resolver_timeout",
                            "Longest time that a registered resolver may take for one input.",
                            nullptr, &resolver_timeout_ms, 500, 10, 10 * 1000, PGC_SUSET,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.sync_table_timeout",
                            "Longest time that triggers, policies and defaults of mana-sync's "
                            "table may take for one plan that is written or one record that is "
                            "read.",
                            nullptr, &sync_table_timeout_ms, 5000, 100, 60 * 1000, PGC_SUSET,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.restore_iterations",
                             "Whether plans, and what was done with them, are restored if a device "
                             "overwrites them with an older copy.",
                             nullptr, &restore_iterations_value, true, PGC_SUSET, 0, nullptr,
                             nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.replan_overtaken",
                             "Whether a mission is planned once more when what the plan was made "
                             "of changed meanwhile.",
                             nullptr, &replan_overtaken_value, false, PGC_SUSET, 0, nullptr,
                             nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.wake_on_change",
                             "Whether recurring missions are planned sooner when one of their "
                             "inputs changes.",
                             nullptr, &wake_on_change_value, false, PGC_SUSET, 0, nullptr, nullptr,
                             nullptr);
    DefineCustomIntVariable("mana_ai.wake_debounce",
                            "How long inputs must not have changed before a mission is planned "
                            "for that.",
                            nullptr, &wake_debounce_s, 300, 0, 86400, PGC_SUSET, GUC_UNIT_S,
                            nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.wake_min_interval",
                            "The shortest time between a mission's plan and one for changed "
                            "inputs.",
                            nullptr, &wake_min_interval_s, 3600, 1, 604800, PGC_SUSET, GUC_UNIT_S,
                            nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.wakeups_per_user",
                            "How many missions of a user are planned in an hour because inputs "
                            "have changed; 0 = no limit.",
                            nullptr, &wakeups_per_user_value, 20, 0, 100000, PGC_SUSET, 0, nullptr,
                            nullptr, nullptr);
    DefineCustomBoolVariable("mana_ai.skip_unchanged",
                             "Whether a recurring mission is put off without a model call when "
                             "nothing that it reads has changed.",
                             nullptr, &skip_unchanged_value, false, PGC_SUSET, 0, nullptr, nullptr,
                             nullptr);
    DefineCustomIntVariable(
        "mana_ai.max_record_size",
        "Largest record of a mission, an agent or an input that is read for planning.", nullptr,
        &max_record_size_kb, 2048, 64, 64 * 1024, PGC_SUSET, GUC_UNIT_KB, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable("mana_ai.fold_at_once",
                            "Largest log, or new part of it, whose history is folded in one "
                            "transaction; the worker folds a larger one in batches.",
                            nullptr, &fold_at_once_kb, 64 * 1024, 0, INT_MAX, PGC_SUSET,
                            GUC_UNIT_KB, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.audit_retention",
                            "How long mana_ai.decrypt_audit is kept; 0 means for ever.", nullptr,
                            &audit_retention_s, 0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_S, nullptr,
                            nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.compact_model",
                               "Model that summarises conversations that grow too long.", nullptr,
                               &compact_model_value, "google/gemini-2.5-flash-lite", PGC_SUSET, 0,
                               check_model, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.compact_max_context_tokens",
        "Tokens of a run of which 92 percent start a summary of its conversation; 0 means never.",
        nullptr, &compact_max_context_tokens_value, 1'000'000, 0, INT_MAX, PGC_SUSET, 0, nullptr,
        nullptr, nullptr);
    DefineCustomEnumVariable("mana_ai.policy_mode",
                             "What happens to tool calls that carry an injection marker.", nullptr,
                             &policy_mode_value, static_cast<int>(PolicyMode::Enforce),
                             kPolicyModes, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomEnumVariable("mana_ai.step_status",
                             "What devices may do with the steps of a new plan.",
                             "planned: carry them out; staged: wait for the user; by-policy: as "
                             "the agent's policy says.",
                             &step_status_value, static_cast<int>(StepStatus::Planned),
                             kStepStatuses, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.http_listen",
                               "Address and port of the HTTP endpoint; empty means none.", nullptr,
                               &http_listen_value, "", restart, 0, check_listen, nullptr, nullptr);
    DefineCustomStringVariable(
        "mana_ai.http_cors_origins",
        "Origins whose pages may read the audit from the HTTP endpoint, separated by commas.",
        nullptr, &http_cors_origins_value, "", PGC_SIGHUP, GUC_LIST_INPUT, check_origins, nullptr,
        nullptr);
    DefineCustomStringVariable(
        "mana_ai.otlp_endpoint", "Base URL of the collector that gets traces; empty means none.",
        nullptr, &otlp_endpoint_value, "", PGC_SUSET, 0, check_optional_url, nullptr, nullptr);
#ifdef MANA_AI_FAILPOINTS
    define_failpoint_setting();
#endif
    // PostgreSQL reports unknown names under our prefix. This one gets a more specific warning,
    // without its value, which was a secret.
    if (GetConfigOption(kRetiredServiceKey, true, false) != nullptr)
        warn_of_retired_service_key();
    compat::reserve_setting_prefix("mana_ai");
}

std::string databases() {
    return database_list;
}
bool names_database(const char* name) {
    return guarded([name] {
        List* names = NIL;
        bool found = false;
        if (SplitGUCList(pstrdup(database_list), ',', &names)) {
            ListCell* cell = nullptr;
            foreach (cell, names)
                found |= strcmp(static_cast<const char*>(lfirst(cell)), name) == 0;
        }
        list_free(names);
        return found;
    });
}
bool tick_enabled() {
    return tick_enabled_value;
}
int crash_limit() {
    return crash_limit_value;
}
int64_t tick_interval_us() {
    return int64_t{tick_interval_ms} * 1000;
}

std::string llm_url() {
    return without_trailing_slash(llm_url_value);
}
bool api_service_key() {
    return api_service_key_value;
}
std::string api_url() {
    return without_trailing_slash(api_url_value);
}
std::string research_url() {
    return without_trailing_slash(research_url_value);
}
std::string auth_url() {
    return without_trailing_slash(auth_url_value);
}
std::string jwt_issuers() {
    return jwt_issuers_value;
}
std::string service_key_file() {
    return service_key_file_value;
}
std::string grant_private_key_file() {
    return grant_private_key_file_value;
}
bool deep_research_enabled() {
    return deep_research_enabled_value;
}
int64_t deep_research_timeout_us() {
    return int64_t{deep_research_timeout_ms} * 1000;
}
int64_t resolver_timeout_us() {
    return int64_t{resolver_timeout_ms} * 1000;
}
int64_t sync_table_timeout_us() {
    return int64_t{sync_table_timeout_ms} * 1000;
}
bool restore_iterations() {
    return restore_iterations_value;
}
bool replan_overtaken() {
    return replan_overtaken_value;
}

bool wake_on_change() {
    return wake_on_change_value;
}
int64_t wake_debounce_us() {
    return int64_t{wake_debounce_s} * 1'000'000;
}
int64_t wake_min_interval_us() {
    return int64_t{wake_min_interval_s} * 1'000'000;
}
int wakeups_per_user() {
    return wakeups_per_user_value;
}

bool skip_unchanged() {
    return skip_unchanged_value;
}
int64_t audit_retention_us() {
    return int64_t{audit_retention_s} * 1'000'000;
}
int64_t fold_at_once() {
    return int64_t{fold_at_once_kb} * 1024;
}
int64_t max_record_size() {
    return int64_t{max_record_size_kb} * 1024;
}
std::string compact_model() {
    return compact_model_value;
}
int64_t compact_max_context_tokens() {
    return compact_max_context_tokens_value;
}
PolicyMode policy_mode() {
    return static_cast<PolicyMode>(policy_mode_value);
}
StepStatus step_status() {
    return static_cast<StepStatus>(step_status_value);
}
std::string http_listen() {
    return http_listen_value;
}
std::string http_cors_origins() {
    return http_cors_origins_value;
}
std::string otlp_endpoint() {
    return without_trailing_slash(otlp_endpoint_value);
}

std::vector<std::string> planner_models() {
    std::vector<std::string> names(1);
    for (const char* c = planner_model_value; *c != '\0'; c++) {
        if (*c == ',')
            names.emplace_back();
        else if (*c != ' ')
            names.back() += *c;
    }
    return names;
}
std::string planner_model_list() {
    std::string list;
    for (const std::string& name : planner_models())
        list += (list.empty() ? "" : ",") + name;
    return list;
}
std::string service_tier() {
    return service_tier_value;
}
bool prompt_cache_key() {
    return prompt_cache_key_value;
}
int max_concurrency() {
    return max_concurrency_value;
}
int max_concurrency_per_user() {
    return max_concurrency_per_user_value;
}
int llm_requests_per_minute() {
    return llm_requests_per_minute_value;
}
int llm_tokens_per_minute() {
    return llm_tokens_per_minute_value;
}
int64_t llm_timeout_us() {
    return int64_t{llm_timeout_ms} * 1000;
}
int64_t llm_max_tokens() {
    return llm_max_tokens_value;
}
std::optional<int64_t> user_tokens_per_day() {
    return limit_of(user_tokens_per_day_value);
}
std::optional<int64_t> total_tokens_per_day() {
    return limit_of(total_tokens_per_day_value);
}
std::optional<int64_t> user_web_research_per_day() {
    return limit_of(user_web_research_per_day_value);
}
std::optional<int64_t> user_deep_research_per_day() {
    return limit_of(user_deep_research_per_day_value);
}
int max_unreviewed() {
    return max_unreviewed_value;
}

bool report_failures() {
    return report_failures_value;
}

std::string timezone() {
    if (*timezone_value != '\0')
        return timezone_value;
    return pg_get_timezone_name(session_timezone);
}

int64_t runs_retention_us() {
    return int64_t{runs_retention_s} * 1'000'000;
}

Transport transport() {
    return Transport{proxy_value, ca_file_value};
}

std::string service_key(std::string& problem) {
    problem.clear();
    if (*service_key_file_value == '\0')
        return {};
    std::ifstream file(service_key_file_value);
    std::string key;
    if (!file || !std::getline(file, key)) {
        problem = "could not read the file that mana_ai.service_key_file names";
        return {};
    }
    while (!key.empty() && (key.back() == '\r' || key.back() == ' ' || key.back() == '\t'))
        key.pop_back();
    if (!is_header_safe(key.c_str())) {
        explicit_bzero(key.data(), key.size());
        problem = "the first line of the file that mana_ai.service_key_file names is not a key";
        return {};
    }
    return key;
}

}  // namespace mana_ai::pg::settings
