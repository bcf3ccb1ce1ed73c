// What the model may read about a mission: the mission's own texts and its inputs, opened under the
// user's grant if they are encrypted (docs/contract/inputs.md).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// May hold opened texts: wiped with the object, or earlier by wipe().
struct ReadMission {
    ReadMission() = default;
    ~ReadMission() { wipe(); }
    ReadMission(const ReadMission&) = delete;
    ReadMission& operator=(const ReadMission&) = delete;

    void wipe() noexcept;

    // Why title, objective or concept cannot be used; empty if they can.
    std::string unreadable;
    // The mission with its texts opened; nullopt if none is encrypted.
    std::optional<core::Mission> opened;
    bool objective_was_decrypted = false;
    bool anything_was_decrypted = false;  // a provider's error may then quote it

    std::vector<core::ResolvedInput> inputs;  // in the mission's order
    std::vector<core::InputVersion> versions;
    std::vector<ReadRecord> records;  // all that the mission refers to, including left-out ones
};

// Opens the mission's texts, then resolves its inputs. Every record that was opened, or refused, is
// in mana_ai.decrypt_audit before anything of it is in `read`; what cannot be audited is not used.
// An input that fails is left out. The used records are written to mana_ai.runs.inputs. Throws the
// database's error after the retries of a durable step; `read` and the other references outlive the
// task.
net::Task<void> read_mission(RunServices& services, const ClaimedMission& claimed,
                             ReadMission& read);

}  // namespace mana_ai
