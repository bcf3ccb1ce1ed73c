#include "mana_ai/extension/input/custom_resolver.hpp"

#include <algorithm>
#include <array>

#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_collation_d.h"
#include "utils/jsonb.h"
}

namespace mana_ai {

namespace {

constexpr std::array<std::string_view, 9> kBuiltInModules = {
    "goals",   "notes",   "tasks",   "todo",         "calendar",
    "journal", "kontext", "profile", "news-research"};

constexpr size_t kMaxOutputBytes = 1024 * 1024;

// The function's session settings. The call's own time limit counts, also while it waits for a
// lock; its messages are not logged, since they may quote users.
void prepare_session(const char* user_id) {
    pg::set_for_scope("app.current_user_id", user_id);
    pg::set_for_scope("app.current_user_space_ids", "");
    pg::set_for_scope("lock_timeout", "0");
    pg::set_for_scope("log_min_messages", "fatal");
    pg::plan_as_usual_in_scope();
    // The variable behind transaction_read_only: since PostgreSQL 16 a scope must not set it. The
    // end of the subtransaction takes it back; before that PostgreSQL refuses to.
    XactReadOnly = true;
}

// Null when the function returned null.
const Jsonb* call_function(Oid function, std::string_view user_id, const char* reference) {
    FmgrInfo info;
    fmgr_info(function, &info);
    LOCAL_FCINFO(call, 2);
    InitFunctionCallInfoData(*call, &info, 2, DEFAULT_COLLATION_OID, nullptr, nullptr);
    call->args[0].value = pg::text_datum(user_id);
    call->args[0].isnull = false;
    call->args[1].value = DirectFunctionCall1(jsonb_in, CStringGetDatum(reference));
    call->args[1].isnull = false;
    const Datum result = FunctionCallInvoke(call);
    return call->isnull ? nullptr : DatumGetJsonbP(result);
}

struct Function {
    Oid oid = InvalidOid;
    Oid owner = InvalidOid;
};

// A function that was dropped and created again may differ from the registered one.
std::optional<Function> find_function(std::string_view signature) {
    static pg::Statement select_function(R"sql(
SELECT p.oid, p.proowner FROM pg_catalog.pg_proc p
 WHERE p.oid = pg_catalog.to_regprocedure($1) AND p.prokind = 'f' AND NOT p.proretset
   AND p.prorettype = 'pg_catalog.jsonb'::pg_catalog.regtype)sql");
    const auto rows = select_function.execute({signature}, true).rows;
    if (rows.empty())
        return std::nullopt;
    return Function{static_cast<Oid>(rows.front().number(0)),
                    static_cast<Oid>(rows.front().number(1))};
}

bool is_string_or_absent(const core::Json& object, const char* key) {
    const auto member = object.find(key);
    return member == object.end() || member->is_null() || member->is_string();
}

std::variant<core::Json, ResolverFailure> checked_output(const std::string& text) {
    if (text.size() > kMaxOutputBytes)
        return ResolverFailure{"output too large"};
    auto output = core::parse_json(text);
    if (!output)
        return ResolverFailure{"invalid output"};
    if (output->is_null())
        return std::move(*output);
    if (!output->is_object() || !is_string_or_absent(*output, "title") ||
        !output->contains("content") || !(*output)["content"].is_string())
        return ResolverFailure{"invalid output"};
    return std::move(*output);
}

}  // namespace

bool is_built_in_module(std::string_view module) noexcept {
    return std::ranges::find(kBuiltInModules, module) != kBuiltInModules.end();
}

std::optional<std::string> find_resolver(std::string_view module) {
    static pg::Statement select_resolver(
        "SELECT resolver FROM mana_ai.resolvers WHERE module = $1");
    auto rows = select_resolver.execute({module}, true).rows;
    if (rows.empty())
        return std::nullopt;
    return rows.front().take_text(0);
}

std::variant<core::Json, ResolverFailure> call_resolver(std::string_view signature,
                                                        std::string_view user_id,
                                                        std::string_view module,
                                                        std::string_view table_name,
                                                        std::string_view record_id) {
    const std::string user(user_id);
    const std::string reference =
        core::dump_json({{"module", module}, {"table", table_name}, {"id", record_id}});
    const pg::ScratchMemory scratch("mana_ai resolver");
    std::string text;
    bool is_gone = false;
    bool is_too_large = false;
    auto call = [&] {
        const auto function = find_function(signature);
        is_gone = !function;
        if (is_gone)
            return false;
        const pg::RoleScope as_owner(function->owner);
        pg::guarded([&user] { prepare_session(user.c_str()); });
        const char* output = pg::guarded([&]() -> const char* {
            const Jsonb* result = call_function(function->oid, user_id, reference.c_str());
            if (result == nullptr)
                return "null";
            is_too_large = VARSIZE(result) > 2 * kMaxOutputBytes;
            return is_too_large
                       ? "null"
                       : JsonbToCString(nullptr, const_cast<JsonbContainer*>(&result->root),
                                        static_cast<int>(VARSIZE(result)));
        });
        text = output;
        return false;
    };

    std::optional<pg::PgError> error;
    const auto watched = pg::watch_call(pg::settings::resolver_timeout_us(),
                                        [&] { error = pg::in_subtransaction(call); });
    if (watched.timed_out)
        return ResolverFailure{kResolverTimeout};
    if (watched.error)
        error = watched.error;
    if (error)
        return ResolverFailure{error->sqlstate_text()};
    if (is_gone)
        return ResolverFailure{"function is gone"};
    if (is_too_large)
        return ResolverFailure{"output too large"};
    return checked_output(text);
}

void count_resolver_failure(std::string_view module, std::string_view reason) {
    static pg::Statement count(R"sql(
UPDATE mana_ai.resolvers r
   SET failures = r.failures + 1, last_failure = $2, last_failed_at = pg_catalog.clock_timestamp()
  FROM (SELECT module FROM mana_ai.resolvers WHERE module = $1 FOR UPDATE SKIP LOCKED) f
 WHERE r.module = f.module)sql");
    count.execute({module, reason});
}

}  // namespace mana_ai
