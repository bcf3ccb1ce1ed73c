// What is wrong with a mission's record as such, whether it is due or not: the texts of
// mana_ai.mission_problems. docs/contract/data.md, Mission record.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "mana_ai/core/time/cadence.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// A field of a record, as far as the rules check it. The text belongs to the record.
struct FieldValue {
    enum class Type : std::uint8_t { Missing, Null, String, Array, Other } type = Type::Missing;
    std::string_view text;  // of a string
};

// A record with neither title nor objective is not a mission: another member's edit of a shared
// mission creates such a record under their id.
bool is_fragment(const FieldValue& title, const FieldValue& objective) noexcept;

struct MissionFields {
    FieldValue title, objective, concept_markdown, state, next_run_at, inputs, iterations, agent_id;
    Cadence cadence;
};

// Texts in place, so that it can be used where nothing may own memory. English, without quotes of
// the record.
class MissionProblems {
 public:
    static constexpr std::size_t kMax = 12;

    void add(std::string_view first, std::string_view second = {}) noexcept;
    std::size_t size() const noexcept { return count_; }
    std::string_view operator[](std::size_t i) const noexcept {
        return {texts_[i].bytes.data(), texts_[i].size};
    }

 private:
    struct Text {
        std::array<char, 95> bytes;
        std::uint8_t size;
    };
    std::array<Text, kMax> texts_;
    std::size_t count_ = 0;
};

// The only place that defines what a valid mission record is.
void find_mission_problems(const MissionFields& fields, Instant now,
                           MissionProblems& problems) noexcept;

}  // namespace mana_ai::core
