// The records that a mission refers to (docs/contract/inputs.md): read from the attached table
// under the policies for the mission's user.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/record/lww.hpp"
#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai {

// Of a record and of the one that it is linked to (clock_vector.hpp); empty = there is none.
struct RecordClocks {
    std::string own;
    std::string linked_table;
    std::string linked_id;
    std::string linked;
};

struct InputRecord {
    // An object of the fields that the module renders, as the clients wrote them, encrypted ones
    // too.
    core::Json record;
    // When any field of the record was last written; core::kOlderThanEverything if no row tells.
    core::Instant newest_clock = core::kOlderThanEverything;
    RecordClocks clocks;
};

// Last-writer-wins replay of one record in the current transaction, as the table's owner and with
// app.current_user_id set to the user: policies decide, and besides only rows of this user count.
// nullopt: there is none, it is deleted, or such a field is nested deeper than pg::to_json() takes.
// Takes at most mana_ai.sync_table_timeout. Throws PgError, for a read that took longer one with
// the SQLSTATE of pg::make_timeout_error(); nothing of the read remains then either, and the
// transaction can go on.
std::optional<InputRecord> read_input_record(const std::string& user_id,
                                             const core::InputModule& module,
                                             std::string_view table_name,
                                             std::string_view record_id);

// The record as it was when its clocks were these, read with the rights of the current role and
// under its policies. nullopt: rows of it are not there any more, or not let through.
std::optional<InputRecord> reread_input_record(const std::string& user_id,
                                               const core::InputModule& module,
                                               std::string_view table_name,
                                               std::string_view record_id,
                                               const RecordClocks& clocks);

// Differs when what rendering reads of the record does; compares ciphertext as it is stored.
std::string content_version(const core::Json& record);

}  // namespace mana_ai
