#include "mana_ai/extension/input/custom_resolver.hpp"

#include <algorithm>
#include <array>

#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "catalog/pg_collation_d.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/timeout.h"
}

namespace mana_ai {

namespace {

constexpr std::array<std::string_view, 9> kBuiltInModules = {
    "goals",   "notes",   "tasks",   "todo",         "calendar",
    "journal", "kontext", "profile", "news-research"};

constexpr size_t kMaxOutputBytes = 1024 * 1024;
constexpr int kRepeatMs = 100;
constexpr int kLastRepeat = 50;

// What has come in since the present call began.
volatile sig_atomic_t times_up = 0;   // how often the timer has gone off
volatile sig_atomic_t swallowed = 0;  // how often its cancel was delivered, and to no effect
volatile sig_atomic_t cancels = 0;    // of operators

extern "C" {
// Ends the function as a cancel does. A function that catches every cancel takes the process with
// it: better than one that neither works nor shuts down.
static void on_timeout(void) {
    // A cancel that still waits was not swallowed: the function is in code that cannot be ended.
    if (times_up > 0 && !QueryCancelPending)
        swallowed = swallowed + 1;
    times_up = times_up + 1;
    if (swallowed > kLastRepeat)
        ProcDiePending = true;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
}

static void on_sigint(SIGNAL_ARGS) {
    // PostgreSQL's lock timeout comes as this signal, too; it is the function's own affair.
    if (!get_timeout_indicator(LOCK_TIMEOUT, false))
        cancels = cancels + 1;
    StatementCancelHandler(postgres_signal_arg);
}
}

// Limits the time of a call and notes what interrupts it. The SQLSTATE of an error would not tell:
// functions can raise any, and foreign servers have cancels of their own.
class CallWatch {
 public:
    explicit CallWatch(int64_t limit_us) {
        times_up = 0;
        swallowed = 0;
        cancels = 0;
        pg::guarded([limit_us] {
            static const TimeoutId id = RegisterTimeout(USER_TIMEOUT, on_timeout);
            timer_ = id;
            pqsignal(SIGINT, on_sigint);
#if PG_VERSION_NUM >= 150000
            // Again and again: a function may catch a cancel and go on.
            enable_timeout_every(id, GetCurrentTimestamp() + limit_us, kRepeatMs);
#else
            enable_timeout_after(id, static_cast<int>(limit_us / 1000));
#endif
        });
    }
    ~CallWatch() {
        disable_timeout(timer_, false);
        // Whoever looks at the counts serves what the function has not.
        if ((times_up > 0 || cancels > 0) && !pg::termination_requested())
            QueryCancelPending = false;
        pqsignal(SIGINT, StatementCancelHandler);
    }
    CallWatch(const CallWatch&) = delete;
    CallWatch& operator=(const CallWatch&) = delete;

 private:
    static inline TimeoutId timer_ = USER_TIMEOUT;
};

void set_for_call(const char* name, const char* value) {
    set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

// The session that the function finds. All of it is undone with the subtransaction. The worker's
// planner settings suit its own lookups by key and not a stranger's queries; and what the function
// says to the log may quote users.
void prepare_session(const char* user_id) {
    set_for_call("app.current_user_id", user_id);
    set_for_call("app.current_user_space_ids", "");
    set_for_call("search_path", "pg_catalog, pg_temp");
    // The call's own limit counts, also while it waits for a lock.
    set_for_call("lock_timeout", "0");
    set_for_call("log_min_messages", "fatal");
    set_for_call("enable_seqscan", "on");
    set_for_call("enable_hashjoin", "on");
    set_for_call("enable_mergejoin", "on");
    set_for_call("plan_cache_mode", "auto");
    // Last. Inside a subtransaction PostgreSQL refuses to take it back.
    set_for_call("transaction_read_only", "on");
}

// Null when the function returned null.
const Jsonb* call_function(Oid function, std::string_view user_id, const char* reference) {
    FmgrInfo info;
    fmgr_info(function, &info);
    LOCAL_FCINFO(call, 2);
    InitFunctionCallInfoData(*call, &info, 2, DEFAULT_COLLATION_OID, nullptr, nullptr);
    call->args[0].value =
        PointerGetDatum(cstring_to_text_with_len(user_id.data(), static_cast<int>(user_id.size())));
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

// Dropped and made anew it may be another one than was registered.
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
        pg::guarded([&user] { prepare_session(user.c_str()); });
        const pg::RoleScope as_owner(function->owner);
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
    {
        const CallWatch watch(pg::settings::resolver_timeout_us());
        try {
            error = pg::in_subtransaction(call);
        } catch (const pg::PgError& interrupt) {
            error = interrupt;
        }
    }
    if (cancels > 0 || pg::termination_requested())
        throw pg::make_error(ERRCODE_QUERY_CANCELED, "canceling a resolver due to user request");
    if (times_up > 0)
        return ResolverFailure{kResolverTimeout};
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
