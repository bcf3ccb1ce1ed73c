#include "mana_ai/core/record/mission_input.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <tuple>
#include <utility>

#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/text/json_member.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/core/text/words.hpp"

namespace mana_ai::core {

namespace {

// ---------------------------------------------------------------- references

bool is_usable_part(std::string_view part) {
    return !part.empty() && part.size() <= kMaxReferencePart &&
           std::none_of(part.begin(), part.end(),
                        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }) &&
           repair_utf8(part) == part;
}

// ---------------------------------------------------------------- text that may be secret

// Collects text up to a limit of characters, in one buffer of its final size, so that no copy of a
// secret remains on the heap.
class CutText {
 public:
    explicit CutText(std::size_t max_chars)
        : max_chars_(max_chars), max_bytes_(4 * (max_chars + 1)) {
        buffer_.reserve(max_bytes_);
    }
    CutText(const CutText&) = delete;
    CutText& operator=(const CutText&) = delete;
    ~CutText() { wipe(buffer_); }

    // This many bytes hold at least one character more than the limit, so that the cut is visible.
    void append(std::string_view text) {
        buffer_.append(text.substr(0, max_bytes_ - buffer_.size()));
    }

    std::size_t size() const noexcept { return buffer_.size(); }
    void rewind(std::size_t size) { buffer_.resize(size); }

    std::string cut() {
        std::erase(buffer_, '\0');
        return cut_utf8(buffer_, max_chars_);
    }

 private:
    std::size_t max_chars_;
    std::size_t max_bytes_;
    std::string buffer_;
};

void append_number(CutText& text, const Json& number) {
    std::array<char, 32> digits;
    char* const begin = digits.data();
    char* const end = begin + digits.size();
    std::to_chars_result result{};
    if (number.is_number_unsigned()) {
        result = std::to_chars(begin, end, number.get<std::uint64_t>());
    } else if (number.is_number_integer()) {
        result = std::to_chars(begin, end, number.get<std::int64_t>());
    } else {
        result = std::to_chars(begin, end, number.get<double>());
    }
    text.append({begin, static_cast<std::size_t>(result.ptr - begin)});
}

// Without its NUL bytes, which cut() removes. jsonb has none, so nothing is copied for it.
bool becomes_ciphertext(std::string_view text) {
    return text.find('\0') == std::string_view::npos ? is_ciphertext(text)
                                                     : is_ciphertext(repair_utf8(text));
}

// Appends the readable form of the value, on one line unless it is a string. False, and nothing
// appended, if it is empty.
bool append_value(CutText& text, const Json& value) {
    if (value.is_string()) {
        const std::string_view plain = trimmed(value.get_ref<const std::string&>());
        if (plain.empty() || becomes_ciphertext(plain)) {
            return false;
        }
        text.append(plain);
        return true;
    }
    if (value.is_number()) {
        append_number(text, value);
        return true;
    }
    if (value.is_boolean()) {
        text.append(value.get<bool>() ? "ja" : "nein");
        return true;
    }
    if (!value.is_structured()) {
        return false;
    }
    bool any = false;
    for (auto member = value.begin(); member != value.end(); ++member) {
        const std::size_t before = text.size();
        if (any) {
            text.append(member->is_structured() ? "; " : ", ");
        }
        if (value.is_object()) {
            text.append(member.key());
            text.append(": ");
        }
        if (append_value(text, *member)) {
            any = true;
        } else {
            text.rewind(before);
        }
    }
    return any;
}

bool append_member(CutText& text, const Json& object, std::string_view key) {
    const Json* const value = member(object, key);
    return value != nullptr && append_value(text, *value);
}

// One line "Label: value" if there is such a member that is not empty.
void append_line(CutText& text, const Json& record, std::string_view label, std::string_view key) {
    const std::size_t before = text.size();
    if (before > 0) {
        text.append("\n");
    }
    text.append(label);
    text.append(": ");
    if (!append_member(text, record, key)) {
        text.rewind(before);
    }
}

// ---------------------------------------------------------------- the modules of the page

void render_goal(CutText& text, const Json& record) {
    static const Json nothing = Json::object();
    const Json* const target = member(record, "target");
    const Json& aim = target != nullptr && target->is_object() ? *target : nothing;

    text.append("Fortschritt: ");
    if (!append_member(text, record, "currentValue")) {
        text.append("?");
    }
    text.append(" / ");
    // The target may also be a plain number.
    if (!append_member(text, aim, "value") &&
        (target == nullptr || target->is_object() || !append_value(text, *target))) {
        text.append("?");
    }
    const std::size_t before = text.size();
    text.append(", Zeitraum: ");
    if (!append_member(text, aim, "period") && !append_member(text, record, "period")) {
        text.rewind(before);
    }
}

void render_content(CutText& text, const Json& record) {
    append_member(text, record, "content");
}

bool is_space_context(const Json& record) {
    const Json* const flag = member(record, "isSpaceContext");
    return flag != nullptr && flag->is_boolean() && flag->get<bool>();
}

// A space has at most one note that is its context.
void render_note(CutText& text, const Json& record) {
    if (is_space_context(record)) {
        text.append("Dauerhafter Kontext dieses Bereichs:\n");
    }
    render_content(text, record);
}

void render_task(CutText& text, const Json& record) {
    append_line(text, record, "Status", "status");
    if (const Json* const done = member(record, "isCompleted");
        text.size() == 0 && done != nullptr && done->is_boolean()) {
        text.append(done->get<bool>() ? "Status: erledigt" : "Status: offen");
    }
    append_line(text, record, "Titel", "title");
    append_line(text, record, "Beschreibung", "description");
    append_line(text, record, "Fällig", "dueDate");
}

void render_event(CutText& text, const Json& record) {
    append_line(text, record, "Titel", "title");
    append_line(text, record, "Beginn", "startDate");
    append_line(text, record, "Ende", "endDate");
    append_line(text, record, "Ganztägig", "allDay");
    append_line(text, record, "Ort", "location");
}

void render_profile(CutText& text, const Json& record) {
    append_line(text, record, "Über mich", "about");
    append_line(text, record, "Interessen", "interests");
    append_line(text, record, "Tagesablauf", "routine");
    append_line(text, record, "Ernährung", "nutrition");
    append_line(text, record, "Freizeit", "leisure");
    append_line(text, record, "Ziele", "goals");
    append_line(text, record, "Soziales", "social");
    append_line(text, record, "Weiteres", "freeform");
}

using Names = std::string_view;
constexpr Names kGoalFields[] = {"title", "currentValue", "target", "period"};
constexpr Names kTitleAndContent[] = {"title", "content"};
constexpr Names kNoteFields[] = {"title", "content", "isSpaceContext"};
constexpr Names kTaskFields[] = {"title", "status", "isCompleted", "description", "dueDate"};
constexpr Names kEventFields[] = {"title", "startDate", "endDate", "allDay", "location"};
// A time block of the workbench: when an event takes place. Its times are never encrypted.
constexpr Names kTimes[] = {"startDate", "endDate", "allDay"};
constexpr LinkedRecord kTimeBlock = {"timeBlockId", "timeblocks", "timeBlocks", kTimes};
constexpr Names kContent[] = {"content"};
constexpr Names kProfileFields[] = {"about",   "interests", "routine", "nutrition",
                                    "leisure", "goals",     "social",  "freeform"};

struct Rendering {
    InputModule module;
    std::string_view title;  // when the record has none
    bool has_own_title;      // else the title is always the same
    std::size_t max_chars;
    void (*render)(CutText& text, const Json& record);
};

constexpr std::array<Rendering, 8> kRenderings = {{
    {{"goals", "companion", false, kGoalFields}, "Goal", true, 500, render_goal},
    {{"notes", "notes", true, kNoteFields}, "Notiz", true, 500, render_note},
    {{"tasks", "todo", true, kTaskFields}, "Task", true, 500, render_task},
    {{"todo", "todo", true, kTaskFields}, "Task", true, 500, render_task},
    {{"calendar", "calendar", true, kEventFields, &kTimeBlock}, "Termin", true, 500, render_event},
    {{"journal", "journal", true, kTitleAndContent}, "Journal-Eintrag", true, 500, render_content},
    {{"kontext", "kontext", true, kContent}, "Kontext", false, 1500, render_content},
    {{"profile", "profile", true, kProfileFields}, "Profil", false, 2000, render_profile},
}};

const Rendering* find_rendering(std::string_view module) noexcept {
    const auto found =
        std::find_if(kRenderings.begin(), kRenderings.end(),
                     [&](const Rendering& rendering) { return rendering.module.name == module; });
    return found == kRenderings.end() ? nullptr : &*found;
}

// Calls visit with every string of ciphertext in the value, until it returns false.
template <typename AnyJson, typename Visit>
bool visit_ciphertexts(AnyJson& value, const Visit& visit) {
    if (value.is_string()) {
        using Text = std::conditional_t<std::is_const_v<AnyJson>, const std::string, std::string>;
        auto* const text = value.template get_ptr<Text*>();
        return !is_ciphertext(*text) || visit(text);
    }
    if (value.is_structured()) {
        for (auto& element : value) {
            if (!visit_ciphertexts(element, visit)) {
                return false;
            }
        }
    }
    return true;
}

template <typename AnyJson, typename Visit>
void visit_fields(AnyJson& record, const InputModule& module, const Visit& visit) {
    if (!record.is_object()) {
        return;
    }
    for (const std::string_view field : module.fields) {
        const auto found = record.find(field);
        if (found != record.end() && !visit_ciphertexts(*found, visit)) {
            return;
        }
    }
}

}  // namespace

std::vector<InputReference> input_references(const Json& inputs) {
    std::vector<InputReference> references;
    if (!inputs.is_array()) {
        return references;
    }
    std::set<std::tuple<std::string_view, std::string_view, std::string_view>> seen;
    for (auto entry = inputs.rbegin(); entry != inputs.rend() && references.size() < kMaxInputs;
         ++entry) {
        const std::string_view module = string_or(*entry, "module", "");
        const std::string_view table = string_or(*entry, "table", "");
        const std::string_view id = string_or(*entry, "id", "");
        if (is_usable_part(module) && is_usable_part(table) && is_usable_part(id) &&
            seen.emplace(module, table, id).second) {
            references.push_back({std::string(module), std::string(table), std::string(id)});
        }
    }
    std::reverse(references.begin(), references.end());
    return references;
}

const InputModule* built_in_module(std::string_view module) noexcept {
    const Rendering* const rendering = find_rendering(module);
    return rendering == nullptr ? nullptr : &rendering->module;
}

ResolvedInput render_input(const InputReference& reference, const InputModule& module,
                           const Json& record) {
    ResolvedInput input{reference.id, reference.module, reference.table, {}, {}};
    const Rendering* const rendering = find_rendering(module.name);
    if (rendering == nullptr) {
        return input;
    }
    CutText title(PromptLimits::title);
    if (!rendering->has_own_title || !append_member(title, record, "title")) {
        title.append(rendering->title);
    }
    input.title = title.cut();
    constexpr std::size_t kSpaceContext = 1500;  // as much as a context of its own module
    CutText content(is_space_context(record) ? kSpaceContext : rendering->max_chars);
    rendering->render(content, record);
    input.content = content.cut();
    return input;
}

std::optional<ResolvedInput> input_from_resolver(const InputReference& reference,
                                                 const Json& output) {
    const Json* const content = member(output, "content");
    if (content == nullptr || !content->is_string() ||
        becomes_ciphertext(content->get_ref<const std::string&>())) {
        return std::nullopt;
    }
    const std::string_view title = string_or(output, "title", "");
    return ResolvedInput{
        reference.id, reference.module, reference.table,
        becomes_ciphertext(title) ? std::string()
                                  : cut_utf8(repair_utf8(title), PromptLimits::title),
        cut_utf8(repair_utf8(content->get_ref<const std::string&>()), kMaxResolverContent)};
}

bool holds_ciphertext(const Json& value) {
    return !visit_ciphertexts(value, [](const std::string*) { return false; });
}

bool has_ciphertext(const Json& record, const InputModule& module) {
    bool found = false;
    visit_fields(record, module, [&](const std::string*) {
        found = true;
        return false;
    });
    return found;
}

std::vector<std::string*> ciphertexts_in(Json& record, const InputModule& module) {
    std::vector<std::string*> found;
    visit_fields(record, module, [&](std::string* text) {
        found.push_back(text);
        return true;
    });
    return found;
}

}  // namespace mana_ai::core
