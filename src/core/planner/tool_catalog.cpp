#include "mana_ai/core/planner/tool_catalog.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "mana_ai/core/text/ascii.hpp"

namespace mana_ai::core {

namespace {

constexpr std::size_t kMaxNameLength = 64;

constexpr int kMaxDepth = 4;

// Policies come from users: with more different sets than this the cache is cleared.
constexpr std::size_t kMaxCachedOffers = 256;

const ToolParameter* find_by_name(const std::vector<ToolParameter>& parameters,
                                  std::string_view name) noexcept {
    const auto found = std::find_if(parameters.begin(), parameters.end(),
                                    [&](const auto& p) { return p.name == name; });
    return found == parameters.end() ? nullptr : &*found;
}

bool is_valid_type(std::string_view type) noexcept {
    static constexpr std::array<std::string_view, 6> kTypes = {"string",  "number", "integer",
                                                               "boolean", "object", "array"};
    return std::find(kTypes.begin(), kTypes.end(), type) != kTypes.end();
}

bool read_enum(const Json& parameter, ToolParameter& parsed) {
    const auto member = parameter.find("enum");
    if (member == parameter.end()) {
        return true;
    }
    if (parsed.type != "string" || !member->is_array() || member->empty()) {
        return false;
    }
    for (const Json& value : *member) {
        if (!value.is_string()) {
            return false;
        }
        parsed.enum_values.push_back(value.get<std::string>());
    }
    return true;
}

bool read_item_type(const Json& parameter, ToolParameter& parsed) {
    const bool given = parameter.contains("items");
    if (parsed.type != "array") {
        return !given;
    }
    parsed.item_type = string_or(parameter, "items", "");
    return !given || is_valid_type(parsed.item_type);
}

// False: present but not a number.
bool read_number(const Json& parameter, const char* name, std::optional<double>& number) {
    const auto member = parameter.find(name);
    if (member == parameter.end()) {
        return true;
    }
    if (!member->is_number()) {
        return false;
    }
    number = member->get<double>();
    return true;
}

bool read_bounds(const Json& parameter, ToolParameter& parsed) {
    std::optional<double> shortest, longest;
    if (!read_number(parameter, "minimum", parsed.minimum) ||
        !read_number(parameter, "maximum", parsed.maximum) ||
        !read_number(parameter, "minLength", shortest) ||
        !read_number(parameter, "maxLength", longest)) {
        return false;
    }
    if ((parsed.minimum || parsed.maximum) && parsed.type != "number" && parsed.type != "integer") {
        return false;
    }
    if (!shortest && !longest) {
        return true;
    }
    constexpr double kLongest = 1e9;
    const auto is_length = [](double length) { return length >= 0 && length <= kLongest; };
    if (parsed.type != "string" || !is_length(shortest.value_or(0)) ||
        !is_length(longest.value_or(0))) {
        return false;
    }
    parsed.min_length = static_cast<std::size_t>(shortest.value_or(0));
    if (longest) {
        parsed.max_length = static_cast<std::size_t>(*longest);
    }
    return true;
}

std::optional<ToolParameter> parse_parameter(const Json& parameter, int depth);

// False if one is malformed or repeated.
bool read_parameters(const Json& array, int depth, std::vector<ToolParameter>& parsed) {
    for (const Json& element : array) {
        auto parameter = parse_parameter(element, depth);
        if (!parameter || find_by_name(parsed, parameter->name) != nullptr) {
            return false;
        }
        parsed.push_back(std::move(*parameter));
    }
    return true;
}

bool read_properties(const Json& parameter, int depth, ToolParameter& parsed) {
    const auto member = parameter.find("properties");
    if (member == parameter.end()) {
        return true;
    }
    return is_of_objects(parsed) && member->is_array() && depth < kMaxDepth &&
           read_parameters(*member, depth + 1, parsed.properties);
}

std::optional<ToolParameter> parse_parameter(const Json& parameter, int depth) {
    ToolParameter parsed;
    parsed.name = string_or(parameter, "name", "");
    parsed.type = string_or(parameter, "type", "");
    parsed.description = string_or(parameter, "description", "");
    if (!is_valid_tool_name(parsed.name) || !is_valid_type(parsed.type)) {
        return std::nullopt;
    }
    if (const auto required = parameter.find("required"); required != parameter.end()) {
        if (!required->is_boolean()) {
            return std::nullopt;
        }
        parsed.required = required->get<bool>();
    }
    if (!read_enum(parameter, parsed) || !read_item_type(parameter, parsed) ||
        !read_bounds(parameter, parsed) || !read_properties(parameter, depth, parsed)) {
        return std::nullopt;
    }
    return parsed;
}

// Ordered, so that the model reads parameters as the catalog lists them.
using OrderedJson = nlohmann::ordered_json;

constexpr char kOfNoTool[] = "Weglassen: Die Funktion braucht keine Angaben.";
constexpr char kOfUnknownObject[] =
    "Weglassen, nur ein Platzhalter: Was in das Objekt gehört, sagt seine Beschreibung.";

void add_properties(OrderedJson& schema, const std::vector<ToolParameter>& parameters,
                    const char* placeholder);

OrderedJson schema_of(const ToolParameter& parameter) {
    OrderedJson schema = {{"type", parameter.type}};
    if (!parameter.description.empty()) {
        schema["description"] = parameter.description;
    }
    // Gemini refuses an empty text among them.
    for (const std::string& value : parameter.enum_values) {
        if (!value.empty()) {
            schema["enum"].push_back(value);
        }
    }
    if (parameter.type == "array") {
        OrderedJson& items = schema["items"];
        items["type"] = parameter.item_type.empty() ? "object" : parameter.item_type;
        if (parameter.item_type == "array") {
            items["items"]["type"] = "string";  // unknown, but required
        }
    }
    if (is_of_objects(parameter)) {
        add_properties(parameter.type == "array" ? schema["items"] : schema, parameter.properties,
                       kOfUnknownObject);
    }
    return schema;
}

void add_properties(OrderedJson& schema, const std::vector<ToolParameter>& parameters,
                    const char* placeholder) {
    OrderedJson properties = OrderedJson::object();
    OrderedJson required = OrderedJson::array();
    for (const ToolParameter& parameter : parameters) {
        properties[parameter.name] = schema_of(parameter);
        if (parameter.required) {
            required.push_back(parameter.name);
        }
    }
    if (parameters.empty()) {
        properties[kNoParameter] = {{"type", "string"}, {"description", placeholder}};
    }
    schema["properties"] = std::move(properties);
    schema["required"] = std::move(required);
}

OrderedJson function_of(const Tool& tool) {
    OrderedJson parameters = {{"type", "object"}};
    add_properties(parameters, tool.parameters, kOfNoTool);
    return {{"type", "function"},
            {"function",
             {{"name", tool.name},
              {"description", tool.description},
              {"parameters", std::move(parameters)}}}};
}

bool is_offered(const Tool& tool, const Policy* policy) {
    return tool.default_policy == Decision::Propose &&
           (policy == nullptr || decide(*policy, tool.name, tool.module) != Decision::Deny);
}

}  // namespace

bool is_of_objects(const ToolParameter& parameter) noexcept {
    return parameter.type == "object" ||
           (parameter.type == "array" &&
            (parameter.item_type.empty() || parameter.item_type == "object"));
}

const ToolParameter* Tool::find_parameter(std::string_view parameter_name) const noexcept {
    return find_by_name(parameters, parameter_name);
}

bool is_valid_tool_name(std::string_view name) noexcept {
    return !name.empty() && name.size() <= kMaxNameLength &&
           std::all_of(name.begin(), name.end(),
                       [](char c) { return ascii::is_alphanumeric(c) || c == '_' || c == '-'; });
}

std::optional<Tool> parse_tool(std::string_view name, std::string_view module,
                               std::string_view description, std::string_view default_policy,
                               std::string_view parameters_json) {
    const auto policy = decision_from_name(default_policy);
    const auto parameters = parse_json(parameters_json);
    // Gemini refuses a digit or a dash at the beginning.
    const bool begins_well = !name.empty() && name[0] != '-' && (name[0] < '0' || name[0] > '9');
    if (!is_valid_tool_name(name) || !begins_well || !policy || !parameters ||
        !parameters->is_array()) {
        return std::nullopt;
    }
    Tool tool{std::string(name), std::string(module), std::string(description), *policy, {}};
    if (!read_parameters(*parameters, 1, tool.parameters)) {
        return std::nullopt;
    }
    return tool;
}

struct OfferedTools::State {
    std::shared_ptr<const std::vector<Tool>> catalog;  // keeps what the pointers point to
    std::vector<const Tool*> tools;
    std::unordered_map<std::string_view, const Tool*> by_name;
    std::string json;
};

OfferedTools::OfferedTools() : state_(std::make_shared<const State>()) {}

OfferedTools::OfferedTools(std::shared_ptr<const State> state) : state_(std::move(state)) {}

std::string_view OfferedTools::tools_json() const noexcept {
    return state_->json;
}

const std::vector<const Tool*>& OfferedTools::tools() const noexcept {
    return state_->tools;
}

const Tool* OfferedTools::find(std::string_view name) const noexcept {
    const auto found = state_->by_name.find(name);
    return found == state_->by_name.end() ? nullptr : found->second;
}

ToolCatalog::ToolCatalog(std::vector<Tool> tools) {
    std::vector<Tool> unique;
    unique.reserve(tools.size());
    for (Tool& tool : tools) {
        if (std::none_of(unique.begin(), unique.end(),
                         [&](const Tool& other) { return other.name == tool.name; })) {
            unique.push_back(std::move(tool));
        }
    }
    tools_ = std::make_shared<const std::vector<Tool>>(std::move(unique));
}

OfferedTools ToolCatalog::offer(const Policy* policy) {
    std::string key(tools_->size(), '0');
    for (std::size_t i = 0; i < tools_->size(); ++i) {
        if (is_offered((*tools_)[i], policy)) {
            key[i] = '1';
        }
    }
    if (const auto cached = offers_.find(key); cached != offers_.end()) {
        return cached->second;
    }

    auto state = std::make_shared<OfferedTools::State>();
    state->catalog = tools_;
    OrderedJson functions = OrderedJson::array();
    for (std::size_t i = 0; i < tools_->size(); ++i) {
        if (key[i] == '1') {
            const Tool& tool = (*tools_)[i];
            state->tools.push_back(&tool);
            state->by_name.emplace(tool.name, &tool);
            functions.push_back(function_of(tool));
        }
    }
    if (!functions.empty()) {
        state->json = functions.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    }
    if (offers_.size() >= kMaxCachedOffers) {
        offers_.clear();
    }
    return offers_.emplace(std::move(key), OfferedTools(std::move(state))).first->second;
}

OfferedTools offer(const std::vector<Tool>& catalog, const Policy* policy) {
    return ToolCatalog(catalog).offer(policy);
}

}  // namespace mana_ai::core
