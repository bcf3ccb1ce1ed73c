#include "mana_ai/pg/guard.hpp"

namespace mana_ai::pg {

bool PgError::is_interrupt() const noexcept {
    return sqlstate == ERRCODE_QUERY_CANCELED || sqlstate == ERRCODE_ADMIN_SHUTDOWN ||
           sqlstate == ERRCODE_CRASH_SHUTDOWN || sqlstate == ERRCODE_CANNOT_CONNECT_NOW;
}

std::string PgError::sqlstate_text() const {
    return unpack_sql_state(sqlstate);
}

PgError make_error(int sqlstate, std::string message, std::string detail, std::string hint) {
    PgError error;
    error.sqlstate = sqlstate;
    error.message = std::move(message);
    error.detail = std::move(detail);
    error.hint = std::move(hint);
    return error;
}

namespace detail {

void throw_pending_error(MemoryContext context) {
    MemoryContextSwitchTo(context);
    ErrorData* data = CopyErrorData();
    FlushErrorState();
    PgError error;
    error.sqlstate = data->sqlerrcode;
    if (data->message != nullptr)
        error.message = data->message;
    if (data->detail != nullptr)
        error.detail = data->detail;
    if (data->hint != nullptr)
        error.hint = data->hint;
    if (data->context != nullptr)
        error.context = data->context;
    FreeErrorData(data);
    throw error;
}

namespace {

// MCXT_ALLOC_NO_OOM: this runs inside a catch block, where a longjmp would skip the exception's
// own destruction.
char* copy_text(const std::string& text) noexcept {
    if (text.empty())
        return nullptr;
    auto* copy = static_cast<char*>(
        MemoryContextAllocExtended(CurrentMemoryContext, text.size() + 1, MCXT_ALLOC_NO_OOM));
    if (copy != nullptr)
        memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

}  // namespace

void capture(const PgError& error, PendingReport& report) noexcept {
    report.failed = true;
    report.sqlstate = error.sqlstate;
    report.message = copy_text(error.message);
    report.detail = copy_text(error.detail);
    report.hint = copy_text(error.hint);
}

void capture(const char* what, PendingReport& report) noexcept {
    report.failed = true;
    report.sqlstate = ERRCODE_INTERNAL_ERROR;
    try {
        report.message = copy_text(std::string("mana_ai: ") + what);
    } catch (...) {
        report.message = nullptr;
    }
}

void capture_out_of_memory(PendingReport& report) noexcept {
    report.failed = true;
    report.sqlstate = ERRCODE_OUT_OF_MEMORY;
}

void raise(const PendingReport& report) {
    if (report.sqlstate == ERRCODE_OUT_OF_MEMORY && report.message == nullptr)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    ereport(ERROR, (errcode(report.sqlstate != 0 ? report.sqlstate : ERRCODE_INTERNAL_ERROR),
                    errmsg_internal("%s", report.message != nullptr ? report.message
                                                                    : "mana_ai: internal error"),
                    report.detail != nullptr ? errdetail_internal("%s", report.detail) : 0,
                    report.hint != nullptr ? errhint("%s", report.hint) : 0));
    pg_unreachable();
}

}  // namespace detail
}  // namespace mana_ai::pg
