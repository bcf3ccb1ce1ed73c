#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "postgres_ext.h"
}

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

namespace {

std::string text_of(const char* text) {
    return text != nullptr ? text : "";
}

// Null if there is no memory for the copy: its error must not jump past the C++ frames that handle
// the first one. Ends the error state.
ErrorData* take_error_data() {
    ErrorData* volatile copy = nullptr;
    sigjmp_buf handler;
    HandlerScope scope(&handler);
    if (sigsetjmp(handler, 0) == 0)
        copy = CopyErrorData();
    scope.restore();
    FlushErrorState();
    return copy;
}

}  // namespace

void throw_pending_error(MemoryContext context) {
    MemoryContextSwitchTo(context);
    ErrorData* data = take_error_data();
    MemoryContextSwitchTo(context);
    if (data == nullptr)
        throw make_error(ERRCODE_OUT_OF_MEMORY, "out of memory");
    PgError error;
    error.sqlstate = data->sqlerrcode;
    error.message = text_of(data->message);
    error.detail = text_of(data->detail);
    error.hint = text_of(data->hint);
    error.context = text_of(data->context);
    error.schema_name = text_of(data->schema_name);
    error.table_name = text_of(data->table_name);
    error.column_name = text_of(data->column_name);
    error.datatype_name = text_of(data->datatype_name);
    error.constraint_name = text_of(data->constraint_name);
    error.internal_query = text_of(data->internalquery);
    error.cursor_position = data->cursorpos;
    error.internal_position = data->internalpos;
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
    report.context = copy_text(error.context);
    report.schema_name = copy_text(error.schema_name);
    report.table_name = copy_text(error.table_name);
    report.column_name = copy_text(error.column_name);
    report.datatype_name = copy_text(error.datatype_name);
    report.constraint_name = copy_text(error.constraint_name);
    report.internal_query = copy_text(error.internal_query);
    report.cursor_position = error.cursor_position;
    report.internal_position = error.internal_position;
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

namespace {

int name_field(int field, const char* name) {
    return name != nullptr ? err_generic_string(field, name) : 0;
}

}  // namespace

void raise(const PendingReport& report) {
    if (report.sqlstate == ERRCODE_OUT_OF_MEMORY && report.message == nullptr)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    // Our callers have added to the context when the error was first raised. The handler that
    // catches it restores the stack.
    if (report.context != nullptr)
        error_context_stack = nullptr;
    ereport(ERROR,
            (errcode(report.sqlstate != 0 ? report.sqlstate : ERRCODE_INTERNAL_ERROR),
             errmsg_internal(
                 "%s", report.message != nullptr ? report.message : "mana_ai: internal error"),
             report.detail != nullptr ? errdetail_internal("%s", report.detail) : 0,
             report.hint != nullptr ? errhint("%s", report.hint) : 0,
             report.context != nullptr ? errcontext_msg("%s", report.context) : 0,
             name_field(PG_DIAG_SCHEMA_NAME, report.schema_name),
             name_field(PG_DIAG_TABLE_NAME, report.table_name),
             name_field(PG_DIAG_COLUMN_NAME, report.column_name),
             name_field(PG_DIAG_DATATYPE_NAME, report.datatype_name),
             name_field(PG_DIAG_CONSTRAINT_NAME, report.constraint_name),
             report.internal_query != nullptr ? internalerrquery(report.internal_query) : 0,
             internalerrposition(report.internal_position), errposition(report.cursor_position)));
    pg_unreachable();
}

}  // namespace detail
}  // namespace mana_ai::pg
