#include "mana_ai/pg/settings.hpp"

#include <climits>
#include <fstream>

#include "mana_ai/net/base_url.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "pgtime.h"
#include "utils/guc.h"
#include "utils/varlena.h"
}

namespace mana_ai::pg::settings {

namespace {

constexpr char kHiddenKey[] = "********";

char* database_list = nullptr;
bool tick_enabled_value = true;
int tick_interval_ms = 60 * 1000;
char* llm_url_value = nullptr;
const char* service_key_value = "";
char* service_key_variable = nullptr;
char* service_key_file_value = nullptr;
char* planner_model_value = nullptr;
int max_concurrency_value = 64;
int llm_timeout_ms = 120 * 1000;
int max_unreviewed_value = 3;
char* timezone_value = nullptr;
int runs_retention_s = 30 * 24 * 3600;
char* proxy_value = nullptr;

bool is_header_safe(const char* text) {
    for (const char* c = text; *c != '\0'; c++)
        if (static_cast<unsigned char>(*c) < 0x21 || static_cast<unsigned char>(*c) > 0x7e)
            return false;
    return true;
}

bool check_url(const char* value, bool may_be_empty) {
    if (*value == '\0' && may_be_empty)
        return true;
    bool valid = false;
    char problem[256] = "";
    try {
        const auto text = net::check_base_url(value);
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

extern "C" {

static bool check_service_url(char** value, void**, GucSource) {
    return check_url(*value, false);
}

static bool check_proxy(char** value, void**, GucSource) {
    return check_url(*value, true);
}

// PostgreSQL logs the values that a reload changes and quotes those that are refused. So the key is
// kept beside the variable, whose own value never changes.
static bool check_service_key(char** value, void** extra, GucSource) {
    if (!is_header_safe(*value)) {
        GUC_check_errmsg("invalid value for parameter \"%s\"", "mana_ai.service_key");
        GUC_check_errdetail("The key must consist of printable ASCII characters without spaces.");
        return false;
    }
    const size_t size = strlen(*value) + 1;
#if PG_VERSION_NUM >= 160000
    char* key = static_cast<char*>(guc_malloc(LOG, size));
    char* shown = guc_strdup(LOG, kHiddenKey);
    const auto release = [](void* memory) { guc_free(memory); };
#else
    char* key = static_cast<char*>(malloc(size));
    char* shown = strdup(kHiddenKey);
    const auto release = [](void* memory) { free(memory); };
#endif
    if (key == nullptr || shown == nullptr) {
        release(key);
        release(shown);
        return false;
    }
    memcpy(key, *value, size);
    explicit_bzero(*value, size);
    release(*value);
    *value = shown;
    *extra = key;
    return true;
}

static void assign_service_key(const char*, void* extra) {
    service_key_value = static_cast<const char*>(extra);
}

static bool check_model(char** value, void**, GucSource) {
    if (**value != '\0' && is_header_safe(*value))
        return true;
    GUC_check_errdetail(
        "A model name is not empty and consists of printable ASCII characters "
        "without spaces, for example \"google/gemini-2.5-flash\".");
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

static const char* show_service_key() {
    return *service_key_value == '\0' ? "" : kHiddenKey;
}

}  // extern "C"

}  // namespace

void define(bool preloading) {
    // Postmaster-level variables can only be defined while the postmaster loads the library; in a
    // backend that loads it later nothing reads them, but a value in postgresql.conf must be known.
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
    DefineCustomStringVariable(
        "mana_ai.llm_url", "Base URL of the OpenAI-compatible model service.", nullptr,
        &llm_url_value, "http://localhost:3020", PGC_SUSET, 0, check_service_url, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.service_key",
                               "Bearer token for the services; prefer mana_ai.service_key_file.",
                               nullptr, &service_key_variable, "", PGC_SUSET,
                               GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
                               check_service_key, assign_service_key, show_service_key);
    DefineCustomStringVariable("mana_ai.service_key_file",
                               "File whose first line is the bearer token for the services.",
                               nullptr, &service_key_file_value, "", PGC_SUSET, GUC_SUPERUSER_ONLY,
                               nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.planner_model", "Model that plans missions.", nullptr,
                               &planner_model_value, "google/gemini-2.5-flash", PGC_SUSET, 0,
                               check_model, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.max_concurrency", "Missions that one worker plans at the same time.", nullptr,
        &max_concurrency_value, 64, 1, kMaxConcurrency, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.llm_timeout", "Longest time that one model call may take.",
                            nullptr, &llm_timeout_ms, 120 * 1000, 100, 3600 * 1000, PGC_SUSET,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "mana_ai.max_unreviewed",
        "Unreviewed iterations after which a mission waits for its user; 0 means no limit.",
        nullptr, &max_unreviewed_value, 3, 0, 1000, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.timezone",
                               "Time zone of cadences; empty means the server's TimeZone.", nullptr,
                               &timezone_value, "", PGC_SUSET, 0, check_timezone, nullptr, nullptr);
    DefineCustomIntVariable("mana_ai.runs_retention",
                            "How long finished runs are kept; 0 means for ever.", nullptr,
                            &runs_retention_s, 30 * 24 * 3600, 0, INT_MAX, PGC_SUSET, GUC_UNIT_S,
                            nullptr, nullptr, nullptr);
    DefineCustomStringVariable("mana_ai.proxy", "HTTP proxy for all calls; empty means none.",
                               nullptr, &proxy_value, "", PGC_SUSET, 0, check_proxy, nullptr,
                               nullptr);
#if PG_VERSION_NUM >= 150000
    MarkGUCPrefixReserved("mana_ai");
#else
    EmitWarningsOnPlaceholders("mana_ai");
#endif
}

std::string databases() {
    return database_list;
}
bool tick_enabled() {
    return tick_enabled_value;
}
int64_t tick_interval_us() {
    return int64_t{tick_interval_ms} * 1000;
}

std::string llm_url() {
    std::string url = llm_url_value;
    while (!url.empty() && url.back() == '/')
        url.pop_back();
    return url;
}

std::string planner_model() {
    return planner_model_value;
}
int max_concurrency() {
    return max_concurrency_value;
}
int64_t llm_timeout_us() {
    return int64_t{llm_timeout_ms} * 1000;
}
int max_unreviewed() {
    return max_unreviewed_value;
}

std::string timezone() {
    if (*timezone_value != '\0')
        return timezone_value;
    return pg_get_timezone_name(session_timezone);
}

int64_t runs_retention_us() {
    return int64_t{runs_retention_s} * 1'000'000;
}
std::string proxy() {
    return proxy_value;
}

std::string service_key(std::string& problem) {
    problem.clear();
    if (*service_key_value != '\0')
        return service_key_value;
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

std::string fingerprint() {
    std::string problem;
    std::string text = llm_url() + '\n' + planner_model() + '\n' + proxy() + '\n';
    std::string key = service_key(problem);
    uint8 digest[PG_SHA256_DIGEST_LENGTH];
    text += key;
    const bool hashed = guarded([&] {
        pg_cryptohash_ctx* context = pg_cryptohash_create(PG_SHA256);
        const bool done = context != nullptr && pg_cryptohash_init(context) >= 0 &&
                          pg_cryptohash_update(context, reinterpret_cast<const uint8*>(text.data()),
                                               text.size()) >= 0 &&
                          pg_cryptohash_final(context, digest, sizeof(digest)) >= 0;
        pg_cryptohash_free(context);
        return done;
    });
    explicit_bzero(text.data(), text.size());
    explicit_bzero(key.data(), key.size());
    std::string hex;
    static constexpr char kDigits[] = "0123456789abcdef";
    // Eight bytes tell a change from no change and are too few to attack the key from.
    for (int i = 0; hashed && i < 8; i++) {
        hex += kDigits[digest[i] >> 4];
        hex += kDigits[digest[i] & 15];
    }
    return hex;
}

}  // namespace mana_ai::pg::settings
