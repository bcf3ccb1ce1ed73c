// The records that a mission refers to (docs/contract/inputs.md): read from the attached table
// under the policies for the mission's user.
#pragma once

#include <cstdint>
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
    bool linked_was_read = true;  // false: it may be there, but could not be read
};

struct InputRecord {
    // An object of the fields that the module renders, as the clients wrote them, including
    // encrypted ones.
    core::Json record;
    // When any field of the record was last written; core::kOlderThanEverything if unknown.
    core::Instant newest_clock = core::kOlderThanEverything;
    RecordClocks clocks;
};

// Last-writer-wins replay of one record in the current transaction, as the table's owner and with
// app.current_user_id set to the user: only rows of this user that the policies allow count.
// nullopt: it does not exist, is deleted, or such a field is nested deeper than pg::to_json()
// accepts. Takes at most limit_us, and at most mana_ai.sync_table_timeout for each of the two
// reads. Throws PgError; after a timeout one with the SQLSTATE of pg::make_timeout_error(). The
// read is then undone, and the transaction can continue.
std::optional<InputRecord> read_input_record(const std::string& user_id,
                                             const core::InputModule& module,
                                             std::string_view table_name,
                                             std::string_view record_id,
                                             int64_t limit_us = INT64_MAX);

// The record as it was when its clocks were these, read with the privileges of the current role and
// under its policies. nullopt: some of its rows no longer exist, or the policies hide them.
std::optional<InputRecord> reread_input_record(const std::string& user_id,
                                               const core::InputModule& module,
                                               std::string_view table_name,
                                               std::string_view record_id,
                                               const RecordClocks& clocks);

// Differs if the fields that rendering reads differ; compares ciphertext as it is stored.
std::string content_version(const core::Json& record);

}  // namespace mana_ai
