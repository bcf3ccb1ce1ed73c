// Resolvers that SQL users have registered (docs/contract/inputs.md; mana_ai.register_resolver in
// docs/contract/interface.md): looking one up, calling it, and counting its failures. Everything
// runs in the current transaction.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai {

// Why a call gave no input: "timeout", "invalid output", "output too large", "function is gone", or
// five characters of SQLSTATE. Never the function's message, which may quote a user.
struct ResolverFailure {
    std::string reason;
};

inline constexpr char kResolverTimeout[] = "timeout";

// Whether mana_ai resolves the module itself, or fills it itself.
bool is_built_in_module(std::string_view module) noexcept;

// The signature under which the module's resolver is registered; nullopt: there is none. Throws
// PgError.
std::optional<std::string> find_resolver(std::string_view module);

// Calls it with (user_id, {"module", "table", "id"}) as its owner, read-only, under the user's
// policies, for at most mana_ai.resolver_timeout, and undoes its changes of the session. Blocks the
// process during that time, with the transaction open. The result is an object with a string
// "content" and optionally a string "title"; or JSON null if the function finds no such record (SQL
// or JSON null).
//
// Throws PgError only for interrupts (an operator's cancel, a shutdown).
std::variant<core::Json, ResolverFailure> call_resolver(std::string_view signature,
                                                        std::string_view user_id,
                                                        std::string_view module,
                                                        std::string_view table_name,
                                                        std::string_view record_id);

// Counts it in mana_ai.resolvers, unless somebody else is writing that row: nothing waits for a
// statistic. Throws PgError.
void count_resolver_failure(std::string_view module, std::string_view reason);

}  // namespace mana_ai
