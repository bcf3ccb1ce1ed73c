// What a run records about the records that it read: the audit of decryptions and the list of
// inputs (docs/contract/inputs.md, Mission key grant). Ids and fixed reasons, never any content.
// Everything runs in the current transaction and throws PgError.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

enum class DecryptStatus { Ok, Failed, ScopeViolation };

// The words of mana_ai.decrypt_audit.status.
const char* name(DecryptStatus status) noexcept;

struct DecryptRecord {
    std::string table_name;
    std::string record_id;
    DecryptStatus status = DecryptStatus::Failed;
    std::string reason;  // empty = none
};

// Appends a row per attempt, in this order. Unless its transaction commits, what was decrypted must
// not be used.
void record_decrypts(const ClaimedMission& claimed, const std::vector<DecryptRecord>& records);

// Records in the run's row what it is based on: an array of {module, table, id, clock, used,
// reason}, where clock is the ISO instant of the newest field or null, and reason a text only if
// `used` is false.
void record_inputs(const ClaimedMission& claimed, const core::Json& inputs);

// Adds one more to that list.
void record_further_input(const ClaimedMission& claimed, const core::Json& input);

// Deletes at most `limit` rows older than mana_ai.audit_retention; true = there is more.
bool delete_expired_audit(core::Instant now, int64_t limit);

}  // namespace mana_ai
