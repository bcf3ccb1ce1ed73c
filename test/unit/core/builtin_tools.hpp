// The tools that sql/tools.sql installs, read from that file, for tests.
#pragma once

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/planner/tool_catalog.hpp"

namespace mana_ai::core::testing {

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error("cannot open " + path);
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

// The string literals of the INSERT's VALUES list, row after row of five.
inline std::vector<std::string> builtin_tool_literals() {
    const std::string sql = read_file(MANA_AI_TEST_DATA "/../../sql/tools.sql");
    std::size_t at = sql.find("INSERT INTO mana_ai.tools (name, module, default_policy");
    at = sql.find("VALUES", at);
    std::vector<std::string> literals;
    for (; at < sql.size() && sql[at] != ';'; ++at) {
        if (sql[at] != '\'') {
            continue;
        }
        std::string literal;
        for (++at; sql[at] != '\'' || sql[at + 1] == '\''; ++at) {
            at += sql[at] == '\'' ? 1 : 0;
            literal += sql[at];
        }
        literals.push_back(std::move(literal));
    }
    return literals;
}

inline std::vector<Tool> builtin_tools() {
    const std::vector<std::string> texts = builtin_tool_literals();
    std::vector<Tool> tools;
    for (std::size_t i = 0; i + 4 < texts.size(); i += 5) {
        auto tool = parse_tool(texts[i], texts[i + 1], texts[i + 3], texts[i + 2], texts[i + 4]);
        if (!tool) {
            throw std::runtime_error("sql/tools.sql: bad tool " + texts[i]);
        }
        tools.push_back(std::move(*tool));
    }
    return tools;
}

// Values of every JSON type, and strings that break careless code.
inline std::vector<Json> odd_values() {
    return {Json(),
            Json(true),
            Json(-1),
            Json(1e300),
            Json(18446744073709551615ULL),
            Json(""),
            Json("  \t\n"),
            Json("\xff\xfe broken \xc3"),
            Json(std::string("a\0b", 3)),
            Json(std::string(300'000, 'x')),
            Json("enc:1:aaaa.bbbb"),
            Json::array(),
            Json::array({1, "a", nullptr, Json::object()}),
            Json::object(),
            Json{{"", 1}, {"id", 2}, {"plan", 3}}};
}

}  // namespace mana_ai::core::testing
