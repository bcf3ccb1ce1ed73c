// A PostgreSQL error as a C++ exception. Does not include PostgreSQL's headers, so that any file
// may catch it.
#pragma once

#include <exception>
#include <string>

namespace mana_ai::pg {

// The fields of an ereport(ERROR), by value: nothing in here points into a memory context.
class PgError : public std::exception {
 public:
    int sqlstate = 0;  // packed as by MAKE_SQLSTATE
    std::string message;
    std::string detail;
    std::string hint;
    // Of an error that PostgreSQL raised: its context lines.
    std::string context;
    std::string schema_name;
    std::string table_name;
    std::string column_name;
    std::string datatype_name;
    std::string constraint_name;
    std::string internal_query;
    int cursor_position = 0;    // in the client's query, from 1; 0 = none
    int internal_position = 0;  // in internal_query

    const char* what() const noexcept override { return message.c_str(); }

    // True for a cancel request, a statement timeout or an administrator's command: such an error
    // is meant for the whole backend and must be rethrown.
    bool is_interrupt() const noexcept;

    std::string sqlstate_text() const;  // five characters
};

// An error that reaches the SQL caller with this SQLSTATE, DETAIL and HINT.
PgError make_error(int sqlstate, std::string message, std::string detail = {},
                   std::string hint = {});

}  // namespace mana_ai::pg
