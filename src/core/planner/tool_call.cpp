#include "mana_ai/core/planner/tool_call.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

// A second undo would remove a drink that the user meant to keep.
constexpr std::string_view kOncePerPlan = "undo_drink";

// The longest quote of the model's text in an answer to it, in characters.
constexpr std::size_t kMaxQuoted = 80;
constexpr std::size_t kMaxNamedParameters = 10;

constexpr std::string_view kAccepted =
    "Der Schritt ist im Plan vermerkt. Er wird auf dem Gerät der Nutzerin oder des Nutzers "
    "ausgeführt, nicht jetzt; ein Ergebnis gibt es hier nicht.";

std::string in_quotes(std::string_view text) {
    return "„" + cut_utf8(text, kMaxQuoted) + "“";
}

std::string joined(const std::vector<std::string>& names) {
    std::string list;
    for (const std::string& name : names) {
        list += list.empty() ? "" : ", ";
        list += name;
    }
    return list;
}

bool is_blank(std::string_view text) noexcept {
    static constexpr std::array<std::string_view, 11> kSpaces = {
        " ",        "\t",           "\n",           "\v",           "\f",          "\r",
        "\xC2\xA0", "\xE2\x80\x8B", "\xE2\x80\xAF", "\xE3\x80\x80", "\xEF\xBB\xBF"};
    while (!text.empty()) {
        const auto space = std::find_if(kSpaces.begin(), kSpaces.end(), [&](auto candidate) {
            return text.starts_with(candidate);
        });
        if (space == kSpaces.end()) {
            return false;
        }
        text.remove_prefix(space->size());
    }
    return true;
}

bool is_empty(const Json& value) {
    return value.is_null() ||
           (value.is_string() && is_blank(value.get_ref<const std::string&>())) ||
           (value.is_structured() && value.empty());
}

bool has_type(const Json& value, std::string_view type) {
    if (type == "string") {
        return value.is_string();
    }
    if (type == "number") {
        return value.is_number();
    }
    if (type == "integer") {
        return value.is_number_integer() ||
               (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
    }
    if (type == "boolean") {
        return value.is_boolean();
    }
    return type == "object" ? value.is_object() : value.is_array();
}

const char* expected_type(std::string_view type) noexcept {
    if (type == "string") {
        return "ein Text in Anführungszeichen";
    }
    if (type == "number") {
        return "eine JSON-Zahl ohne Anführungszeichen";
    }
    if (type == "integer") {
        return "eine ganze JSON-Zahl ohne Anführungszeichen";
    }
    if (type == "boolean") {
        return "true oder false ohne Anführungszeichen";
    }
    return type == "object" ? "ein JSON-Objekt {…}, nicht als Text"
                            : "ein JSON-Array […], nicht als Text";
}

std::string given_type(const Json& value) {
    switch (value.type()) {
        case Json::value_t::null:
            return "null";
        case Json::value_t::string:
            return "der Text " + in_quotes(value.get_ref<const std::string&>());
        case Json::value_t::boolean:
            return value.get<bool>() ? "true" : "false";
        case Json::value_t::number_integer:
        case Json::value_t::number_unsigned:
        case Json::value_t::number_float:
            return "die Zahl " + dump_json(value);
        case Json::value_t::object:
            return "ein Objekt";
        case Json::value_t::array:
            return "ein Array";
        default:
            return "etwas anderes";
    }
}

// What is wrong with the arguments of one call, sentence by sentence.
class Findings {
 public:
    void add(const char* reason, const std::string& sentence) {
        if (reason_ == nullptr) {
            reason_ = reason;
        }
        text_ += text_.empty() ? "" : " ";
        text_ += sentence;
    }

    bool empty() const noexcept { return reason_ == nullptr; }
    const char* reason() const noexcept { return reason_; }
    const std::string& text() const noexcept { return text_; }

 private:
    const char* reason_ = nullptr;
    std::string text_;
};

void check_array_items(const ToolParameter& parameter, const Json& value, Findings& findings) {
    for (std::size_t i = 0; i < value.size(); ++i) {
        if (!has_type(value[i], parameter.item_type)) {
            findings.add("wrong-type", "In " + in_quotes(parameter.name) + " muss jedes Element " +
                                           expected_type(parameter.item_type) + " sein; Element " +
                                           std::to_string(i + 1) + " ist " + given_type(value[i]) +
                                           ".");
            return;
        }
    }
}

// As JavaScript counts a text, without the space around it.
std::size_t length_of(std::string_view text) noexcept {
    const auto first = text.find_first_not_of(" \t\n\v\f\r");
    if (first == std::string_view::npos) {
        return 0;
    }
    text = text.substr(first, text.find_last_not_of(" \t\n\v\f\r") - first + 1);
    std::size_t units = 0;
    for (const char byte : text) {
        const auto value = static_cast<unsigned char>(byte);
        units += is_continuation(byte) ? 0 : value >= 0xF0U ? 2 : 1;
    }
    return units;
}

// "zwischen 1 und 5", "mindestens 1", "höchstens 5".
std::string span_of(const std::string& least, const std::string& most) {
    if (least.empty()) {
        return "höchstens " + most;
    }
    return most.empty() ? "mindestens " + least : "zwischen " + least + " und " + most;
}

void check_bounds(const ToolParameter& parameter, const Json& value, Findings& findings) {
    const auto text_of = [](const std::optional<double>& bound) {
        if (!bound) {
            return std::string();
        }
        const bool is_whole = std::trunc(*bound) == *bound && std::abs(*bound) < 1e15;
        return dump_json(is_whole ? Json(static_cast<std::int64_t>(*bound)) : Json(*bound));
    };
    if (value.is_number()) {
        const auto number = value.get<double>();
        if ((parameter.minimum && number < *parameter.minimum) ||
            (parameter.maximum && number > *parameter.maximum)) {
            findings.add("out-of-range",
                         "Parameter " + in_quotes(parameter.name) + " muss " +
                             span_of(text_of(parameter.minimum), text_of(parameter.maximum)) +
                             " sein; angegeben ist " + given_type(value) + ".");
        }
    } else if (value.is_string() && (parameter.min_length > 0 || parameter.max_length)) {
        const std::size_t length = length_of(value.get_ref<const std::string&>());
        if (length < parameter.min_length ||
            (parameter.max_length && length > *parameter.max_length)) {
            findings.add(
                "out-of-range",
                "Der Text von " + in_quotes(parameter.name) + " muss " +
                    span_of(parameter.min_length > 0 ? std::to_string(parameter.min_length) : "",
                            parameter.max_length ? std::to_string(*parameter.max_length) : "") +
                    " Zeichen lang sein; angegeben sind " + std::to_string(length) + ".");
        }
    }
}

void check_value(const ToolParameter& parameter, const Json& value, Findings& findings) {
    if (!has_type(value, parameter.type)) {
        findings.add("wrong-type", "Parameter " + in_quotes(parameter.name) + " muss " +
                                       expected_type(parameter.type) + " sein; angegeben ist " +
                                       given_type(value) + ".");
        return;
    }
    if (!parameter.item_type.empty()) {
        check_array_items(parameter, value, findings);
    }
    check_bounds(parameter, value, findings);
    const auto& allowed = parameter.enum_values;
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(),
                                      value.get_ref<const std::string&>()) == allowed.end()) {
        findings.add("not-in-enum",
                     "Parameter " + in_quotes(parameter.name) + " muss einer dieser Werte sein: " +
                         joined(allowed) + "; angegeben ist " + given_type(value) +
                         (parameter.required ? "." : ". Ist keiner gemeint, lass ihn weg."));
    }
}

// Removes the placeholder that a schema has only because providers require a property.
void drop_placeholder(const ToolParameter& parameter, Json& value) {
    const auto drop = [](Json& object) {
        if (!object.is_object()) {
            return;
        }
        if (const auto found = object.find(kNoParameter);
            found != object.end() && found->is_string()) {
            object.erase(found);
        }
    };
    if (!is_of_objects(parameter) || !parameter.properties.empty()) {
        return;
    }
    if (value.is_array()) {
        std::for_each(value.begin(), value.end(), drop);
    }
    drop(value);
}

// The tool's parameters from the arguments, checked.
Json checked_params(const Tool& tool, Json& arguments, Findings& findings) {
    Json params = Json::object();
    for (const ToolParameter& parameter : tool.parameters) {
        const auto given = arguments.find(parameter.name);
        if (given != arguments.end()) {
            drop_placeholder(parameter, *given);
        }
        if (given == arguments.end()) {
            if (parameter.required) {
                findings.add("missing-parameter",
                             "Pflichtparameter " + in_quotes(parameter.name) + " fehlt.");
            }
        } else if (parameter.required && is_empty(*given)) {
            findings.add("missing-parameter",
                         "Pflichtparameter " + in_quotes(parameter.name) + " ist leer.");
        } else if (!given->is_null()) {
            check_value(parameter, *given, findings);
            params[parameter.name] = std::move(*given);
        }
    }
    return params;
}

// A note about arguments that the tool does not have; empty if there are none.
std::string note_on_unknown(const Tool& tool, const Json& arguments) {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : arguments.items()) {
        if (tool.parameters.empty() && key == kNoParameter) {
            continue;
        }
        if (tool.find_parameter(key) == nullptr) {
            if (unknown.size() == kMaxNamedParameters) {
                unknown.emplace_back("…");
                break;
            }
            unknown.push_back(in_quotes(key));
        }
    }
    if (unknown.empty()) {
        return {};
    }
    std::vector<std::string> known;
    for (const ToolParameter& parameter : tool.parameters) {
        known.push_back(parameter.name);
    }
    return " Unbekannte Parameter wurden weggelassen: " + joined(unknown) +
           (known.empty() ? ". Die Funktion hat keine Parameter."
                          : ". Erlaubt sind: " + joined(known) + ".");
}

ToolVerdict rejected(const char* reason, std::string message) {
    return {false, std::move(message), Json::object(), reason};
}

}  // namespace

ToolVerdict judge_tool_call(const OfferedTools& offered, const ToolCallRequest& call,
                            const std::vector<PlanStep>& plan_so_far) {
    const Tool* tool = offered.find(call.name);
    if (tool == nullptr) {
        return rejected("not-offered", "Die Funktion " + in_quotes(call.name) +
                                           " gibt es hier nicht. Verwende nur die angebotenen "
                                           "Funktionen, genau so geschrieben.");
    }
    if (plan_so_far.size() >= kMaxPlanSteps) {
        return rejected("plan-full", "Der Plan hat schon " + std::to_string(kMaxPlanSteps) +
                                         " Schritte, mehr sind nicht möglich. Schließe jetzt mit "
                                         "einer Zusammenfassung ab.");
    }
    auto arguments =
        is_blank(call.arguments) ? std::optional<Json>(Json::object()) : parse_json(call.arguments);
    if (!arguments) {
        return rejected("bad-json", "Die Argumente von " + tool->name +
                                        " sind kein gültiges JSON. Erwartet wird ein JSON-Objekt "
                                        "mit den Parametern der Funktion.");
    }
    if (!arguments->is_object()) {
        return rejected("bad-json", "Die Argumente von " + tool->name +
                                        " müssen ein JSON-Objekt sein; angegeben ist " +
                                        given_type(*arguments) + ".");
    }
    remove_nul(*arguments);
    const std::string note = note_on_unknown(*tool, *arguments);
    Findings findings;
    Json params = checked_params(*tool, *arguments, findings);
    if (!findings.empty()) {
        return rejected(findings.reason(), findings.text() + note);
    }
    if (tool->name == kOncePerPlan &&
        std::any_of(plan_so_far.begin(), plan_so_far.end(),
                    [](const PlanStep& step) { return step.tool_name == kOncePerPlan; })) {
        return rejected("duplicate", std::string(kOncePerPlan) +
                                         " steht schon im Plan und ist nur einmal möglich.");
    }
    return {true, std::string(kAccepted) + note, std::move(params), ""};
}

std::string tool_answer(const ToolVerdict& verdict) {
    // Written as text to put success first, which a model reads better.
    return std::string(R"({"success":)") + (verdict.accepted ? "true" : "false") +
           R"(,"message":)" + dump_json(neutralise_tags(verdict.message)) + "}";
}

}  // namespace mana_ai::core
