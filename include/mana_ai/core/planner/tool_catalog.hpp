// The tools that a model may call, and the part of them that one mission is offered.
// docs/contract/tick.md, Tools offered.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mana_ai/core/record/policy.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

struct ToolParameter {
    std::string name;
    std::string type;  // "string", "number", "integer", "boolean", "object" or "array"
    std::string description;
    bool required = false;
    std::vector<std::string> enum_values;  // empty = any value; only with type "string"
    std::string item_type;  // type of an array's elements; empty = unknown, not checked
    // Of an object, or of each object of an array. They are in the schema; calls are not checked
    // against them.
    std::vector<ToolParameter> properties;
    // The clients' limits for numbers and, counted as JavaScript does, for texts. Models read them
    // in the description, since some providers refuse these keywords in a schema.
    std::optional<double> minimum;
    std::optional<double> maximum;
    std::size_t min_length = 0;
    std::optional<std::size_t> max_length;

    bool operator==(const ToolParameter&) const = default;
};

struct Tool {
    std::string name;
    std::string module;
    std::string description;
    Decision default_policy = Decision::Deny;
    std::vector<ToolParameter> parameters;

    const ToolParameter* find_parameter(std::string_view parameter_name) const noexcept;

    bool operator==(const Tool&) const = default;
};

// Whether it is an object, or an array of objects.
bool is_of_objects(const ToolParameter& parameter) noexcept;

// Gemini refuses a whole request because of one function with an object without properties, and
// other providers because of a function without an object. So this parameter is in the schema of a
// tool without parameters, and of an object whose properties the catalog does not list; it is
// dropped from calls.
inline constexpr char kNoParameter[] = "none";

// Whether providers take it as the name of a function: [A-Za-z0-9_-]{1,64}.
bool is_valid_tool_name(std::string_view name) noexcept;

// Reads a row of mana_ai.tools. `parameters_json` is an array of
// {name, type, required?, description?, enum?, items?, properties?}; `items` is the element type of
// an array. Without it the schema says "object", since OpenAI and Gemini refuse arrays without an
// element type. `properties` is again such an array, at most four levels deep. nullopt: a name that
// providers refuse, an unknown policy or type, a repeated parameter, or JSON of another shape.
std::optional<Tool> parse_tool(std::string_view name, std::string_view module,
                               std::string_view description, std::string_view default_policy,
                               std::string_view parameters_json);

// The tools of one request with their serialized form. A cheap, immutable handle: copies share one
// state.
class OfferedTools {
 public:
    OfferedTools();  // offers nothing

    // The `tools` member of a request, serialized; empty if nothing is offered.
    std::string_view tools_json() const noexcept;

    // In catalog order. The pointers live as long as this handle or a copy of it.
    const std::vector<const Tool*>& tools() const noexcept;

    // nullptr if no such tool is offered.
    const Tool* find(std::string_view name) const noexcept;

 private:
    struct State;
    explicit OfferedTools(std::shared_ptr<const State> state);

    std::shared_ptr<const State> state_;

    friend class ToolCatalog;
};

// All enabled tools. Missions whose policies deny the same tools share one offer, so that the tools
// are serialized once per such set and not once per mission. Not thread-safe.
class ToolCatalog {
 public:
    // Of tools with the same name only the first counts.
    explicit ToolCatalog(std::vector<Tool> tools = {});

    const std::vector<Tool>& tools() const noexcept { return *tools_; }

    // Tools whose default policy is `propose`, without those that the policy denies. Null = no
    // agent, nothing is denied. Reading tools (default policy `auto`) are never offered, whatever
    // the agent's policy says: the server could only invent their results.
    OfferedTools offer(const Policy* policy);

 private:
    std::shared_ptr<const std::vector<Tool>> tools_;
    std::unordered_map<std::string, OfferedTools> offers_;  // by a bitmap of the offered tools
};

// The same without a cache, on a copy of the catalog.
OfferedTools offer(const std::vector<Tool>& catalog, const Policy* policy);

}  // namespace mana_ai::core
