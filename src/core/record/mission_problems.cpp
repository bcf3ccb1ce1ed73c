#include "mana_ai/core/record/mission_problems.hpp"

#include <algorithm>
#include <cstring>
#include <exception>

namespace mana_ai::core {

namespace {

using Type = FieldValue::Type;

bool is_there(const FieldValue& field) noexcept {
    return field.type != Type::Missing && field.type != Type::Null;
}

bool says_nothing(const FieldValue& field) noexcept {
    return !is_there(field) || (field.type == Type::String && field.text.empty());
}

void expect_text(const FieldValue& field, std::string_view name,
                 MissionProblems& problems) noexcept {
    if (is_there(field) && field.type != Type::String) {
        problems.add(name, " is not a string");
    }
}

void expect_array(const FieldValue& field, std::string_view name,
                  MissionProblems& problems) noexcept {
    if (is_there(field) && field.type != Type::Array) {
        problems.add(name, " is not an array");
    }
}

}  // namespace

bool is_fragment(const FieldValue& title, const FieldValue& objective) noexcept {
    return says_nothing(title) && says_nothing(objective);
}

void MissionProblems::add(std::string_view first, std::string_view second) noexcept {
    if (count_ == kMax) {
        return;
    }
    Text& text = texts_[count_++];
    const std::size_t head = std::min(first.size(), text.bytes.size());
    const std::size_t tail = std::min(second.size(), text.bytes.size() - head);
    std::memcpy(text.bytes.data(), first.data(), head);
    if (tail > 0) {
        std::memcpy(text.bytes.data() + head, second.data(), tail);
    }
    text.size = static_cast<std::uint8_t>(head + tail);
}

void find_mission_problems(const MissionFields& fields, Instant now,
                           MissionProblems& problems) noexcept {
    // Every client writes these into a new mission: without them, some rows are missing.
    if (is_fragment(fields.title, fields.objective)) {
        problems.add("title and objective are missing: not scheduled");
    } else if (!is_there(fields.objective)) {
        problems.add("objective is missing");
    }
    if (!is_there(fields.state)) {
        problems.add("state is missing");
    }
    if (fields.cadence.value == Cadence::Value::Missing) {
        problems.add("cadence is missing");
    }
    // The other problems do not matter while the mission is paused, done or archived.
    if (fields.state.type == Type::String && fields.state.text != "active") {
        return;
    }
    expect_text(fields.title, "title", problems);
    expect_text(fields.objective, "objective", problems);
    expect_text(fields.concept_markdown, "conceptMarkdown", problems);
    expect_text(fields.state, "state", problems);
    if (is_there(fields.next_run_at) &&
        (fields.next_run_at.type != Type::String || !parse_instant(fields.next_run_at.text))) {
        problems.add("nextRunAt is not an instant");
    }
    expect_array(fields.inputs, "inputs", problems);
    expect_array(fields.iterations, "iterations", problems);
    expect_text(fields.agent_id, "agentId", problems);
    if (fields.cadence.value == Cadence::Value::Missing) {
        return;
    }
    try {
        if (const auto text = cadence_problem(fields.cadence, now)) {
            problems.add(*text);
        }
    } catch (const std::exception&) {
        problems.add("cadence could not be read");  // out of memory
    }
}

}  // namespace mana_ai::core
