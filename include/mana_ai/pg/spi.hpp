// Prepared statements through SPI, with results as C++ values.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::pg {

// A parameter. Text is used for every type that SQL can cast from text ($1::jsonb, $1::uuid).
struct Timestamp {
    core::Instant instant;
};
struct Null {
    uint32_t type;  // oid: a statement is planned with the types of its first call
};
using Param = std::variant<Null, std::string_view, int64_t, bool, Timestamp,
                           const std::vector<std::string>*>;  // the last one is text[]

// Null for nullopt; the string must outlive the call.
Param text_or_null(const std::optional<std::string>& text);
Param time_or_null(const std::optional<core::Instant>& instant);

struct Cell {
    bool is_null = true;
    int64_t number = 0;  // int2, int4, int8, bool, oid; timestamptz as core::Instant
    std::string text;    // every other type: its text form
};

class Row {
 public:
    explicit Row(std::vector<Cell> cells) : cells_(std::move(cells)) {}
    bool is_null(size_t column) const { return cells_.at(column).is_null; }
    int64_t number(size_t column) const { return cells_.at(column).number; }
    const std::string& text(size_t column) const { return cells_.at(column).text; }
    std::optional<std::string> optional_text(size_t column) const;
    std::optional<core::Instant> optional_instant(size_t column) const;
    std::string take_text(size_t column) { return std::move(cells_.at(column).text); }

 private:
    std::vector<Cell> cells_;
};

struct StatementResult {
    uint64_t processed = 0;
    std::vector<Row> rows;
};

// One SQL text and its plan, which the first call creates and which lives as long as the object. So
// a frequent statement is a function-local static or a member of a long-lived object. The first
// call determines the number of parameters and their types.
class Statement {
 public:
    explicit Statement(std::string sql) : sql_(std::move(sql)) {}
    ~Statement();
    Statement(const Statement&) = delete;
    Statement& operator=(const Statement&) = delete;

    // Runs inside the current transaction. Throws PgError; the caller must then roll back the
    // transaction.
    StatementResult execute(std::initializer_list<Param> params = {}, bool read_only = false);

 private:
    std::string sql_;
    void* plan_ = nullptr;  // SPIPlanPtr
};

}  // namespace mana_ai::pg
