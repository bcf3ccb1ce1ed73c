// The settings mana_ai.* (docs/configuration.md; docs/contract/interface.md, Settings).
//
// The variables belong to PostgreSQL's GUC mechanism: they change at a reload, so long-lived code
// reads them when it needs them and keeps no pointer into a string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/policy_settings.hpp"

namespace mana_ai::pg::settings {

// What is wrong with a service's base URL, as a phrase for an error's detail; nullopt = nothing.
using UrlCheck = std::optional<std::string> (*)(std::string_view url);

// Defines all settings and reserves the prefix; called once by _PG_init. `preloading` says that
// the postmaster loads the library (shared_preload_libraries).
void define(bool preloading, UrlCheck check_base_url);

std::string databases();  // comma list as configured
bool tick_enabled();
int crash_limit();  // 0 = no safe mode
int64_t tick_interval_us();
std::string llm_url();                      // without a trailing slash
std::vector<std::string> planner_models();  // the best one first; never empty
std::string planner_model_list();           // the same as one text, in one spelling
std::string service_tier();                 // empty = none is asked for
bool prompt_cache_key();
inline constexpr int kMaxConcurrency = 2000;
int max_concurrency();           // 1 to kMaxConcurrency
int max_concurrency_per_user();  // 0 = no limit
int64_t llm_timeout_us();
int llm_requests_per_minute();                        // 0 = learned
int llm_tokens_per_minute();                          // 0 = learned
int64_t llm_max_tokens();                             // 0 = not limited
std::optional<int64_t> user_tokens_per_day();         // nullopt = no limit; without user_budgets
std::optional<int64_t> total_tokens_per_day();        // likewise, of all users
std::optional<int64_t> user_web_research_per_day();   // as user_tokens_per_day()
std::optional<int64_t> user_deep_research_per_day();  // likewise
int max_unreviewed();                                 // 0 = no limit
bool report_failures();                               // to users, as failed iterations
std::string timezone();       // never empty: falls back to the server's TimeZone
int64_t runs_retention_us();  // 0 = for ever

// The transport of all calls to services.
struct Transport {
    std::string proxy;    // URL; empty = none
    std::string ca_file;  // PEM; empty = the system's

    bool operator==(const Transport&) const = default;
};
Transport transport();

bool api_service_key();  // whether calls of mana-api carry the service key
std::string api_url();   // these URLs without a trailing slash, as llm_url()
std::string research_url();
std::string auth_url();
std::string jwt_issuers();  // comma list as configured
std::string service_key_file();
std::string grant_private_key_file();  // empty = no grants
bool deep_research_enabled();
int64_t deep_research_timeout_us();
int64_t resolver_timeout_us();
int64_t sync_table_timeout_us();
bool restore_iterations();
bool replan_overtaken();
bool wake_on_change();
int64_t wake_debounce_us();
int64_t wake_min_interval_us();
int wakeups_per_user();  // in an hour; 0 = no limit
bool skip_unchanged();
int64_t audit_retention_us();  // 0 = for ever
int64_t max_record_size();     // bytes in memory
std::string compact_model();
int64_t compact_max_context_tokens();  // 0 = never compact
core::PolicyMode policy_mode();
core::StepStatus step_status();
std::string http_listen();        // "address:port"; empty = no endpoint
std::string http_cors_origins();  // comma list as configured
std::string otlp_endpoint();      // without a trailing slash; empty = no traces

// The service key: the first line of the file that mana_ai.service_key_file names. Empty if none is
// named or the file cannot be read; `problem` then says why. Never log the result.
std::string service_key(std::string& problem);

// The setting that held the key itself in 0.1.0, and the warning about a value of it in the
// configuration.
inline constexpr char kRetiredServiceKey[] = "mana_ai.service_key";
void warn_of_retired_service_key();

}  // namespace mana_ai::pg::settings
