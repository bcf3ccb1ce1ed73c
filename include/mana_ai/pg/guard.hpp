// The border between C++ and PostgreSQL's longjmp (docs/architecture.md, "Two kinds of errors").
//
// guarded(f)      calls PostgreSQL from C++: an ereport(ERROR) inside f becomes a PgError.
// entry_point(f)  calls C++ from PostgreSQL: every exception inside f becomes an ereport(ERROR),
//                 after all objects of f have been destroyed.
//
// f of guarded() must own nothing with a destructor while it calls PostgreSQL: the longjmp lands
// inside guarded() and skips the frames above it. No other file uses PG_TRY.
#pragma once

#include <csetjmp>
#include <exception>
#include <new>
#include <type_traits>
#include <utility>

#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

namespace detail {

// Takes the pending error out of PostgreSQL's error stack; the caller is back in `context`.
[[noreturn]] void throw_pending_error(MemoryContext context);

// The report of an exception after every C++ object of the entry point has been destroyed.
struct PendingReport {
    bool failed = false;
    int sqlstate = 0;
    char* message = nullptr;
    char* detail = nullptr;
    char* hint = nullptr;
    char* context = nullptr;
    char* schema_name = nullptr;
    char* table_name = nullptr;
    char* column_name = nullptr;
    char* datatype_name = nullptr;
    char* constraint_name = nullptr;
    char* internal_query = nullptr;
    int cursor_position = 0;
    int internal_position = 0;
};

void capture(const PgError& error, PendingReport& report) noexcept;
void capture(const char* what, PendingReport& report) noexcept;
void capture_out_of_memory(PendingReport& report) noexcept;
[[noreturn]] void raise(const PendingReport& report);

// Restores PostgreSQL's handler stack whichever way C++ leaves the scope.
class HandlerScope {
 public:
    explicit HandlerScope(sigjmp_buf* handler)
        : exception_stack_(PG_exception_stack), context_stack_(error_context_stack) {
        PG_exception_stack = handler;
    }
    ~HandlerScope() { restore(); }
    HandlerScope(const HandlerScope&) = delete;
    HandlerScope& operator=(const HandlerScope&) = delete;
    void restore() {
        PG_exception_stack = exception_stack_;
        error_context_stack = context_stack_;
    }

 private:
    sigjmp_buf* exception_stack_;
    ErrorContextCallback* context_stack_;
};

}  // namespace detail

// Runs f, which may raise; throws PgError instead. Exceptions of f pass through. The result must be
// trivially destructible (a Datum, a pointer, a bool): anything else belongs outside of f.
template <class F>
auto guarded(F&& f) -> std::invoke_result_t<F> {
    using Result = std::invoke_result_t<F>;
    static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>);
    const MemoryContext context = CurrentMemoryContext;
    sigjmp_buf handler;
    detail::HandlerScope scope(&handler);
    if (sigsetjmp(handler, 0) == 0)
        return std::forward<F>(f)();
    scope.restore();
    detail::throw_pending_error(context);
}

// Runs the body of an extern "C" function. Result is what the function returns to PostgreSQL.
template <class F>
auto entry_point(F&& f) -> std::invoke_result_t<F> {
    using Result = std::invoke_result_t<F>;
    detail::PendingReport report;
    try {
        return std::forward<F>(f)();
    } catch (const PgError& error) {
        detail::capture(error, report);
    } catch (const std::bad_alloc&) {
        detail::capture_out_of_memory(report);
    } catch (const std::exception& error) {
        detail::capture(error.what(), report);
    } catch (...) {
        detail::capture("unknown C++ exception", report);
    }
    static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>);
    detail::raise(report);
}

// CHECK_FOR_INTERRUPTS() for C++ code: throws PgError for a cancel. A termination request ends the
// process from within, as everywhere in PostgreSQL.
inline void check_for_interrupts() {
    if (INTERRUPTS_PENDING_CONDITION())
        guarded([] { CHECK_FOR_INTERRUPTS(); });
}

}  // namespace mana_ai::pg
