#include "mana_ai/pg/spi.hpp"

#include <exception>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
}

namespace mana_ai::pg {

namespace {

constexpr size_t kMaxParams = 32;

// After an error the rollback disconnects, since the failed statement's objects are still in SPI's
// memory.
class SpiConnection {
 public:
    SpiConnection() : exceptions_(std::uncaught_exceptions()) {
        guarded([] {
            if (SPI_connect() != SPI_OK_CONNECT)
                elog(ERROR, "SPI_connect failed");
        });
    }
    ~SpiConnection() noexcept(false) {
        if (std::uncaught_exceptions() == exceptions_)
            guarded([] { SPI_finish(); });
    }
    SpiConnection(const SpiConnection&) = delete;
    SpiConnection& operator=(const SpiConnection&) = delete;

 private:
    int exceptions_;
};

struct BoundParams {
    size_t count = 0;
    Oid types[kMaxParams];
    Datum values[kMaxParams];
    char nulls[kMaxParams];
};

// Called inside guarded(): raises, owns nothing.
void bind_one(BoundParams& bound, const Param& param) {
    const size_t i = bound.count++;
    bound.nulls[i] = ' ';
    bound.values[i] = 0;
    if (const auto* null = std::get_if<Null>(&param)) {
        bound.types[i] = null->type;
        bound.nulls[i] = 'n';
    } else if (const auto* text = std::get_if<std::string_view>(&param)) {
        bound.types[i] = TEXTOID;
        bound.values[i] = text_datum(*text);
    } else if (const auto* number = std::get_if<int64_t>(&param)) {
        bound.types[i] = INT8OID;
        bound.values[i] = Int64GetDatum(*number);
    } else if (const auto* flag = std::get_if<bool>(&param)) {
        bound.types[i] = BOOLOID;
        bound.values[i] = BoolGetDatum(*flag);
    } else if (const auto* time = std::get_if<Timestamp>(&param)) {
        bound.types[i] = TIMESTAMPTZOID;
        bound.values[i] = TimestampTzGetDatum(timestamptz_from_instant(time->instant));
    } else {
        const std::vector<std::string>& items = *std::get<const std::vector<std::string>*>(param);
        auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (items.size() + 1)));
        for (size_t k = 0; k < items.size(); k++)
            elements[k] = text_datum(items[k]);
        bound.types[i] = TEXTARRAYOID;
        bound.values[i] = PointerGetDatum(construct_array(elements, static_cast<int>(items.size()),
                                                          TEXTOID, -1, false, TYPALIGN_INT));
    }
}

// Called inside guarded(). The caller owns the cell, so a longjmp leaks nothing.
void read_cell(Cell& cell, HeapTuple tuple, TupleDesc descriptor, int column) {
    bool is_null = false;
    const Datum value = SPI_getbinval(tuple, descriptor, column, &is_null);
    cell.is_null = is_null;
    if (is_null)
        return;
    switch (SPI_gettypeid(descriptor, column)) {
        case INT2OID:
            cell.number = DatumGetInt16(value);
            return;
        case INT4OID:
            cell.number = DatumGetInt32(value);
            return;
        case INT8OID:
            cell.number = DatumGetInt64(value);
            return;
        case OIDOID:
            cell.number = DatumGetObjectId(value);
            return;
        case BOOLOID:
            cell.number = DatumGetBool(value) ? 1 : 0;
            return;
        case TIMESTAMPTZOID:
            cell.number = instant_from_timestamptz(DatumGetTimestampTz(value));
            return;
        case TEXTOID: {
            cell.text = text_view(value);
            return;
        }
        default: {
            char* text = SPI_getvalue(tuple, descriptor, column);
            cell.text.assign(text);
            pfree(text);
            return;
        }
    }
}

}  // namespace

Param text_or_null(const std::optional<std::string>& text) {
    if (!text)
        return Null{TEXTOID};
    return std::string_view(*text);
}

Param time_or_null(const std::optional<core::Instant>& instant) {
    if (!instant)
        return Null{TIMESTAMPTZOID};
    return Timestamp{*instant};
}

std::optional<std::string> Row::optional_text(size_t column) const {
    if (is_null(column))
        return std::nullopt;
    return text(column);
}

std::optional<core::Instant> Row::optional_instant(size_t column) const {
    if (is_null(column))
        return std::nullopt;
    return number(column);
}

// Statics are destroyed at the process's end, when plans are no longer usable.
Statement::~Statement() {
    if (plan_ == nullptr || proc_exit_inprogress)
        return;
    try {
        guarded([this] { SPI_freeplan(static_cast<SPIPlanPtr>(plan_)); });
    } catch (const std::exception&) {
        // The plan stays until the process ends.
    }
}

StatementResult Statement::execute(std::initializer_list<Param> params, bool read_only) {
    if (params.size() > kMaxParams)
        throw make_error(ERRCODE_TOO_MANY_ARGUMENTS, "too many parameters for a statement");
    SpiConnection connection;
    StatementResult result;
    BoundParams bound;
    guarded([&] {
        for (const Param& param : params)
            bind_one(bound, param);
        if (plan_ == nullptr) {
            SPIPlanPtr plan = SPI_prepare(sql_.c_str(), static_cast<int>(bound.count), bound.types);
            if (plan == nullptr)
                elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
            SPI_keepplan(plan);
            plan_ = plan;
        }
        const int code = SPI_execute_plan(static_cast<SPIPlanPtr>(plan_), bound.values, bound.nulls,
                                          read_only, 0);
        if (code < 0)
            elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
    });
    result.processed = SPI_processed;
    if (SPI_tuptable == nullptr)
        return result;
    SPITupleTable* table = SPI_tuptable;
    const int columns = table->tupdesc->natts;
    result.rows.reserve(table->numvals);
    for (uint64 i = 0; i < table->numvals; i++) {
        std::vector<Cell> cells(columns);
        guarded([&] {
            for (int column = 0; column < columns; column++)
                read_cell(cells[column], table->vals[i], table->tupdesc, column + 1);
        });
        result.rows.emplace_back(std::move(cells));
    }
    return result;
}

}  // namespace mana_ai::pg
