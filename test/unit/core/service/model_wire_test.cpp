#include "mana_ai/core/service/model_wire.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "mana_ai/core/service/retry_policy.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {
namespace {

constexpr Instant kNow = 1'776'211'200 * kMicrosPerSecond;

ModelResult parse(int status, std::string_view body, std::string_view retry_after = "") {
    return parse_model_response(status, body, retry_after, kNow);
}

ModelReply reply(std::string_view body) {
    ModelResult result = parse(200, body);
    EXPECT_TRUE(std::holds_alternative<ModelReply>(result)) << body;
    auto* found = std::get_if<ModelReply>(&result);
    return found == nullptr ? ModelReply{} : std::move(*found);
}

// A reply whose message is the given object.
ModelReply reply_to_message(const std::string& message) {
    return reply(R"({"choices":[{"message":)" + message + "}]}");
}

ProviderError error(int status, std::string_view body, std::string_view retry_after = "") {
    ModelResult result = parse(status, body, retry_after);
    EXPECT_TRUE(std::holds_alternative<ProviderError>(result)) << status << body;
    auto* found = std::get_if<ProviderError>(&result);
    return found == nullptr ? ProviderError{} : std::move(*found);
}

std::string kind(int status, std::string_view body) {
    return name(error(status, body).kind);
}

TEST(ModelReply, ReadsACompleteReply) {
    const ModelReply read = reply(R"({"id":"x","choices":[{"index":0,"finish_reason":"tool_calls",
        "message":{"role":"assistant","content":"Ich lege los.","tool_calls":[
            {"id":"call_1","type":"function","function":{"name":"create_task","arguments":"{\"title\":\"A\"}"}},
            {"id":"call_2","type":"function","function":{"name":"undo_drink","arguments":"{}"}}]}}],
        "usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}})");
    EXPECT_EQ(read.content, "Ich lege los.");
    EXPECT_EQ(read.finish_reason, "tool_calls");
    ASSERT_EQ(read.tool_calls.size(), 2U);
    EXPECT_EQ(read.tool_calls[0].id, "call_1");
    EXPECT_EQ(read.tool_calls[0].name, "create_task");
    EXPECT_EQ(read.tool_calls[0].arguments, R"({"title":"A"})");
    EXPECT_EQ(read.tool_calls[1].id, "call_2");
    EXPECT_EQ(read.usage.prompt, 10);
    EXPECT_EQ(read.usage.completion, 5);
    EXPECT_EQ(read.usage.total, 15);
}

TEST(ModelReply, TakesContentInAnyForm) {
    EXPECT_EQ(reply_to_message("{}").content, "");
    EXPECT_EQ(reply_to_message(R"({"content":null})").content, "");
    EXPECT_EQ(reply_to_message(R"({"content":7})").content, "");
    EXPECT_EQ(reply_to_message(R"({"content":{"text":"x"}})").content, "");
    EXPECT_EQ(reply_to_message(R"({"content":[{"type":"text","text":"a"},"b",
        {"type":"image_url","image_url":{}},{"text":null},null,{"type":"text","text":"c"}]})")
                  .content,
              "abc");
    EXPECT_EQ(reply_to_message(R"({"content":null,"refusal":"Nein."})").content, "Nein.");
}

TEST(ModelReply, DropsNulFromAllTexts) {
    const ModelReply read = reply_to_message(R"({"content":"a\u0000b","tool_calls":[
        {"id":"i\u0000d","function":{"name":"n\u0000","arguments":"{\"k\":\"v\\u0000w\"}"}},
        {"id":"2","function":{"name":"n","arguments":{"k\u0000":"\u0000"}}},
        {"id":"3","function":{"name":"n","arguments":"{\"k\":\"\\\\u0000\"}"}}]})");
    EXPECT_EQ(read.content, "ab");
    ASSERT_EQ(read.tool_calls.size(), 3U);
    EXPECT_EQ(read.tool_calls[0].id, "id");
    EXPECT_EQ(read.tool_calls[0].name, "n");
    EXPECT_EQ(read.tool_calls[0].arguments, R"({"k":"vw"})");
    EXPECT_EQ(read.tool_calls[1].arguments, R"({"k":""})");
    // An escaped backslash before u0000 is ordinary text.
    EXPECT_EQ(read.tool_calls[2].arguments, R"({"k":"\\u0000"})");
}

TEST(ModelReply, InventsIdsThatAreUnique) {
    const std::string_view body = R"({"choices":[{"message":{"tool_calls":[
        {"function":{"name":"a"}}, {"id":null,"function":{"name":"b"}},
        {"id":"","function":{"name":"c"}}, {"id":"same","function":{"name":"d"}},
        {"id":"same","function":{"name":"e"}}, {"id":{},"function":{"name":"f"}},
        {"id":7,"function":{"name":"g"}}]}}]})";
    const ModelReply read = reply(body);
    std::set<std::string> ids;
    for (const ToolCallRequest& call : read.tool_calls) {
        EXPECT_FALSE(call.id.empty());
        ids.insert(call.id);
    }
    EXPECT_EQ(ids.size(), 7U);
    EXPECT_EQ(read.tool_calls[3].id, "same");
    EXPECT_EQ(read.tool_calls[6].id, "7");
    // A later reply's inventions differ.
    const ModelResult later = parse_model_response(200, body, "", kNow + kMicrosPerSecond);
    EXPECT_NE(std::get<ModelReply>(later).tool_calls[0].id, read.tool_calls[0].id);
}

TEST(ModelReply, TakesArgumentsInAnyForm) {
    const auto arguments = [](const std::string& given) {
        const ModelReply read = reply_to_message(
            R"({"tool_calls":[{"id":"1","function":{"name":"n","arguments":)" + given + "}}]}");
        return read.tool_calls.empty() ? "no call" : read.tool_calls[0].arguments;
    };
    EXPECT_EQ(arguments(R"({"a":1})"), R"({"a":1})");
    EXPECT_EQ(arguments(R"("{\"a\":1}")"), R"({"a":1})");
    EXPECT_EQ(arguments(R"("not json")"), "not json");
    EXPECT_EQ(arguments("null"), "");
    EXPECT_EQ(arguments("[1]"), "[1]");
    EXPECT_EQ(arguments("7"), "7");
}

TEST(ModelReply, SurfacesOddToolCallsAndDropsWhatIsNone) {
    const ModelReply read =
        reply_to_message(R"({"content":"x","tool_calls":[null,7,"x",[],{},{"id":"1"},
        {"id":"2","function":null},{"id":"3","function":{"name":5}},
        {"id":"4","name":"flat","arguments":"{}"}]})");
    ASSERT_EQ(read.tool_calls.size(), 5U);
    EXPECT_EQ(read.tool_calls[0].name, "");
    EXPECT_EQ(read.tool_calls[3].name, "");
    EXPECT_EQ(read.tool_calls[4].name, "flat");
    for (const char* calls : {"null", "7", "\"x\"", "[]", "true"}) {
        EXPECT_TRUE(reply_to_message(R"({"content":"x","tool_calls":)" + std::string(calls) + "}")
                        .tool_calls.empty())
            << calls;
    }
    EXPECT_EQ(reply_to_message(R"({"tool_calls":{"id":"1","function":{"name":"one"}}})")
                  .tool_calls.size(),
              1U);
    EXPECT_EQ(reply_to_message(R"({"function_call":{"name":"old","arguments":"{}"}})")
                  .tool_calls.at(0)
                  .name,
              "old");
}

TEST(ModelReply, CapsTheNumberOfToolCalls) {
    std::string calls;
    for (int i = 0; i < 10'000; ++i) {
        calls += i == 0 ? "{}" : ",{}";
    }
    EXPECT_EQ(reply_to_message(R"({"tool_calls":[)" + calls + "]}").tool_calls.size(),
              kMaxToolCallsPerReply);
}

TEST(ModelReply, TakesUsageInAnyForm) {
    const auto usage = [](const std::string& given) {
        return reply(R"({"choices":[{"message":{}}],"usage":)" + given + "}").usage;
    };
    EXPECT_EQ(reply_to_message("{}").usage.total, 0);
    EXPECT_EQ(usage("null").total, 0);
    EXPECT_EQ(usage("[]").total, 0);
    EXPECT_EQ(usage(R"({"prompt_tokens":10,"completion_tokens":5})").total, 15);
    EXPECT_EQ(usage(R"({"prompt_tokens":10.0,"completion_tokens":4.6,"total_tokens":null})").total,
              15);
    EXPECT_EQ(usage(R"({"total_tokens":9})").total, 9);
    EXPECT_EQ(usage(R"({"prompt_tokens":10,"completion_tokens":5,"total_tokens":1})").total, 15);
    EXPECT_EQ(usage(R"({"prompt_tokens":-3,"completion_tokens":"x","total_tokens":-1})").total, 0);
}

TEST(ModelReply, ReadsCachedTokensInEachSpelling) {
    const auto cached = [](const std::string& given) {
        return reply(R"({"choices":[{"message":{}}],"usage":{"prompt_tokens":100,)" + given + "}}")
            .usage.cached;
    };
    EXPECT_EQ(cached(R"("prompt_tokens_details":{"cached_tokens":64})"), 64);  // OpenAI, mana-llm
    EXPECT_EQ(cached(R"("cached_tokens":63)"), 63);                            // Moonshot
    EXPECT_EQ(cached(R"("prompt_cache_hit_tokens":62,"prompt_cache_miss_tokens":38)"),
              62);                                             // DeepSeek
    EXPECT_EQ(cached(R"("cache_read_input_tokens":61)"), 61);  // Anthropic
    EXPECT_EQ(cached(R"("prompt_tokens_details":null)"), 0);
    EXPECT_EQ(cached(R"("prompt_tokens_details":{"cached_tokens":-1})"), 0);
    // Never more than the prompt has.
    EXPECT_EQ(cached(R"("prompt_tokens_details":{"cached_tokens":101})"), 100);
}

TEST(ModelReply, CountsThoughtsToTheCompletion) {
    const auto usage = [](const std::string& given) {
        return reply(R"({"choices":[{"message":{}}],"usage":)" + given + "}").usage;
    };
    const Usage openai = usage(R"({"prompt_tokens":10,"completion_tokens":50,"total_tokens":60,
        "completion_tokens_details":{"reasoning_tokens":40}})");
    EXPECT_EQ(openai.completion, 50);
    EXPECT_EQ(openai.reasoning, 40);
    // Gemini names them in the total alone.
    const Usage gemini = usage(R"({"prompt_tokens":10,"completion_tokens":5,"total_tokens":115})");
    EXPECT_EQ(gemini.completion, 105);
    EXPECT_EQ(gemini.reasoning, 100);
    EXPECT_EQ(gemini.total, 115);
    const Usage absurd = usage(R"({"prompt_tokens":10,"completion_tokens":5,
        "completion_tokens_details":{"reasoning_tokens":400}})");
    EXPECT_EQ(absurd.reasoning, 5);
    // Of a total alone it is not known what it is made of.
    EXPECT_EQ(usage(R"({"total_tokens":9})").reasoning, 0);
}

TEST(ModelReply, SaysWhichModelHasAnsweredAtWhichTier) {
    const ModelReply read = reply(
        R"({"model":"gemini-2.5-flash\u0000","service_tier":"flex","choices":[{"message":{}}]})");
    EXPECT_EQ(read.model, "gemini-2.5-flash");
    EXPECT_EQ(read.service_tier, "flex");
    EXPECT_EQ(reply(R"({"model":7,"service_tier":null,"choices":[{"message":{}}]})").model, "");
    // Cut with an ellipsis.
    EXPECT_LT(reply(R"({"model":")" + std::string(5000, 'x') + R"(","choices":[{"message":{}}]})")
                  .model.size(),
              210U);
}

TEST(ModelReply, NoticesUsageThatCannotBeTrue) {
    for (const char* given : {R"({"prompt_tokens":18446744073709551615,"completion_tokens":1e300})",
                              R"({"total_tokens":9223372036854775808})",
                              R"({"prompt_tokens":1,"total_tokens":20000001})"}) {
        const ModelReply read =
            reply(R"({"choices":[{"message":{}}],"usage":)" + std::string(given) + "}");
        EXPECT_TRUE(read.usage_is_absurd) << given;
        EXPECT_EQ(read.usage.total, 0) << given;
    }
    EXPECT_FALSE(
        reply(R"({"choices":[{"message":{}}],"usage":{"total_tokens":20000000}})").usage_is_absurd);
}

TEST(ModelReply, RepairsHalvesOfCharacters) {
    const auto content = [](const std::string& json) {
        return reply(R"({"choices":[{"message":{"content":")" + json + R"("}}]})").content;
    };
    EXPECT_EQ(content(R"(a\\ud83d b)"), R"(a\ud83d b)");
    EXPECT_EQ(content(R"(\\ud83d \ud83d)"), "\\ud83d \xEF\xBF\xBD");
    EXPECT_EQ(content(R"(\ude00\ud83d\ude00\ud83d\u0041)"),
              "\xEF\xBF\xBD\xF0\x9F\x98\x80\xEF\xBF\xBD"
              "A");
    EXPECT_EQ(content(R"(\ud83d\n\\)"), "\xEF\xBF\xBD\n\\");
}

TEST(ModelReply, WithoutAChoiceIsMalformed) {
    for (const char* body :
         {"", " ", "no json", "<html></html>", "null", "7", "[]", "{}", R"({"choices":null})",
          R"({"choices":{}})", R"({"choices":[]})", R"({"choices":[null]})", R"({"choices":[{}]})",
          R"({"choices":[{"message":null}]})", R"({"choices":[{"message":"x"}]})",
          R"({"choices":[{"message":{"content":"cut)"}) {
        EXPECT_EQ(kind(200, body), "malformed") << body;
        EXPECT_EQ(error(200, body).http_status, 200);
    }
}

TEST(ModelReply, SurvivesAnyBytes) {
    EXPECT_EQ(kind(200, std::string_view("\0\0\0", 3)), "malformed");
    EXPECT_EQ(kind(200, std::string(1'000'000, '[')), "malformed");
    EXPECT_EQ(kind(200, R"({"choices":[{"message":{"content":)" + std::string(300, '[') +
                            std::string(300, ']') + "}}]}"),
              "malformed");
    EXPECT_EQ(kind(200, "\xff\xfe\xfd"), "malformed");
    // One broken character does not cost the reply.
    EXPECT_EQ(reply_to_message("{\"content\":\"a\xC3\"}").content, "a\xEF\xBF\xBD");
}

TEST(ProviderError, KindFollowsTheStatus) {
    const std::pair<int, const char*> expected[] = {
        {400, "unknown"}, {401, "auth"},       {403, "auth"},    {404, "unknown"}, {408, "unknown"},
        {422, "blocked"}, {429, "rate_limit"}, {500, "unknown"}, {502, "unknown"}, {503, "unknown"},
        {504, "unknown"}, {302, "unknown"},    {0, "unknown"},   {-1, "unknown"},  {999, "unknown"},
    };
    for (const auto& [status, expected_kind] : expected) {
        for (const char* body :
             {"", "<html>", "{}", "[]", "null", R"({"detail":"x"})", R"({"error":{"message":"x"}})",
              R"({"error":"x"})", R"({"choices":[{"message":{"content":"x"}}]})"}) {
            EXPECT_EQ(kind(status, body), expected_kind) << status << body;
            EXPECT_EQ(error(status, body).http_status, status);
        }
    }
}

TEST(ProviderError, KindInTheBodyWins) {
    EXPECT_EQ(kind(500, R"({"detail":{"kind":"truncated","message":"x"}})"), "truncated");
    EXPECT_EQ(kind(502, R"({"detail":{"kind":"auth"}})"), "auth");
    EXPECT_EQ(kind(400, R"({"detail":{"kind":"blocked"}})"), "blocked");
    EXPECT_EQ(kind(422, R"({"detail":{"kind":"capability"}})"), "capability");
    // ... unless it says nothing.
    EXPECT_EQ(kind(429, R"({"detail":{"kind":"unknown"}})"), "rate_limit");
    EXPECT_EQ(kind(429, R"({"detail":{"kind":"nonsense"}})"), "rate_limit");
    EXPECT_EQ(kind(429, R"({"detail":{"kind":7}})"), "rate_limit");
}

TEST(ProviderError, KnowsOpenAiCodes) {
    EXPECT_EQ(kind(400, R"({"error":{"code":"content_filter"}})"), "blocked");
    EXPECT_EQ(kind(400, R"({"error":{"code":"context_length_exceeded"}})"), "capability");
    EXPECT_EQ(kind(400, R"({"error":{"type":"invalid_request_error","code":null}})"), "unknown");
    EXPECT_EQ(kind(200, R"({"error":{"message":"x","code":429}})"), "rate_limit");
    EXPECT_EQ(kind(200, R"({"error":{"message":"x","code":99999999999}})"), "malformed");
    EXPECT_EQ(kind(200, R"({"error":{"message":"x","type":"authentication_error"}})"), "auth");
}

// A gateway that has sent its status before the provider answers names the provider's as the code.
TEST(ProviderError, InASuccessHasTheStatusOfItsCode) {
    struct Case {
        const char* code;
        const char* kind;
        int status;
    };
    const Case cases[] = {
        {"400", "unknown", 400},     {"401", "auth", 401},
        {"402", "unknown", 402},     {"403", "auth", 403},
        {"404", "unknown", 404},     {"408", "malformed", 200},
        {"413", "capability", 413},  {"422", "blocked", 422},
        {"429", "rate_limit", 429},  {"500", "malformed", 200},
        {"503", "malformed", 200},   {"200", "malformed", 200},
        {"-403", "malformed", 200},  {"null", "malformed", 200},
        {"\"x\"", "malformed", 200}, {"\"permission_error\"", "auth", 403},
    };
    for (const Case& each : cases) {
        const std::string said = R"("error":{"message":"m","code":)" + std::string(each.code) + "}";
        for (const std::string& body :
             {"{" + said + "}", R"({"choices":[{"message":{"content":null}}],)" + said + "}",
              R"({"choices":[{"message":{"content":""},)" + said + "}]}",
              R"({"choices":[{)" + said + "}]}"}) {
            EXPECT_EQ(kind(200, body), each.kind) << body;
            EXPECT_EQ(error(200, body).http_status, each.status) << body;
            EXPECT_EQ(error(200, body).message, "m") << body;
        }
        EXPECT_EQ(error(502, "{" + said + "}").http_status, 502) << said;
    }
}

TEST(ModelReply, AnErrorThatWasPaidForIsAReplyWithoutUse) {
    const std::string usage = R"("usage":{"prompt_tokens":90,"completion_tokens":0})";
    for (const std::string choices :
         {R"([{"message":{"content":""},"error":{"code":502,"message":"m"}}])",
          R"([{"message":{"content":null},"finish_reason":"stop","error":{"code":429}}])",
          R"([{"error":{"code":502,"message":"m"}}])"}) {
        const ModelReply paid = reply(R"({"choices":)" + choices + "," + usage + "}");
        EXPECT_EQ(paid.usage.total, 90) << choices;
        EXPECT_EQ(failure_in(paid), ErrorKind::Unknown) << choices;
    }
    const ModelReply without_choice = reply(R"({"error":{"code":502},)" + usage + "}");
    EXPECT_EQ(without_choice.usage.total, 90);
    EXPECT_EQ(failure_in(without_choice), ErrorKind::Unknown);
    const ModelReply blocked = reply(R"({"error":{"code":"content_filter"},)" + usage + "}");
    EXPECT_EQ(failure_in(blocked), ErrorKind::Blocked);
    EXPECT_TRUE(
        reply(R"({"error":{"code":502},"usage":{"total_tokens":30000000}})").usage_is_absurd);
    // Nothing was paid, or nobody knows.
    EXPECT_EQ(kind(200, R"({"error":{"code":502},"usage":{"total_tokens":0}})"), "malformed");
    EXPECT_EQ(kind(200, R"({"choices":[],)" + usage + "}"), "malformed");
    EXPECT_EQ(kind(502, R"({"error":{"code":502},)" + usage + "}"), "unknown");
}

// What real gateways answer when something is wrong, and how often it is worth asking.
TEST(ProviderError, GatewaysAnswersAreTakenForWhatTheyAre) {
    std::ifstream file(MANA_AI_TEST_DATA "/model_errors.jsonl");
    int cases = 0;
    for (std::string line; std::getline(file, line); ++cases) {
        const Json expected = Json::parse(line);
        const std::string label = expected["case"];
        const ModelResult result =
            parse_model_response(expected["status"], dump_json(expected["body"]), "", 0);
        ProviderError error;
        if (const auto* reply = std::get_if<ModelReply>(&result)) {
            ASSERT_TRUE(failure_in(*reply)) << label;
            error.kind = *failure_in(*reply);
            EXPECT_EQ(reply->usage.total, expected["tokens"]) << label;
        } else {
            error = std::get<ProviderError>(result);
        }
        EXPECT_EQ(name(error.kind), expected["kind"]) << label;
        EXPECT_EQ(retry_within_run(error, 1, 0.5).retry, expected["calls"] > 1) << label;
        const Instant wait =
            mission_backoff_delay(error.kind, 1, 0.5, std::nullopt) / kMicrosPerSecond;
        EXPECT_GE(wait, expected["wait"][0].get<Instant>()) << label;
        EXPECT_LE(wait, expected["wait"][1].get<Instant>()) << label;
    }
    EXPECT_GT(cases, 10);
}

// What services answer to a request with a tier.
TEST(ServiceTier, AnswersAreTakenForWhatTheyAre) {
    std::ifstream file(MANA_AI_TEST_DATA "/service_tiers.jsonl");
    int cases = 0;
    for (std::string line; std::getline(file, line); ++cases) {
        Json expected = Json::parse(line);
        const std::string label = expected["case"];
        if (!expected.contains("refused"))
            expected["body"]["choices"] =
                Json::parse(R"([{"message":{"content":"x"},"finish_reason":"stop"}])");
        ModelResult result =
            parse_model_response(expected["status"], dump_json(expected["body"]), "", 0);
        if (auto* reply = std::get_if<ModelReply>(&result)) {
            ASSERT_TRUE(expected.contains("served")) << label;
            const Json headers = expected.value("headers", Json::object());
            for (const auto& [name, value] : headers.items())
                if (name.size() == std::string("x-gemini-service-tier").size())
                    name_served_tier(*reply, value.get<std::string>());
            EXPECT_EQ(reply->service_tier, expected["served"].get<std::string>()) << label;
            EXPECT_EQ(reply->model, expected["model"].get<std::string>()) << label;
        } else {
            ASSERT_TRUE(expected.contains("refused")) << label;
            EXPECT_EQ(is_refusal_of_tier(std::get<ProviderError>(result)), expected["refused"])
                << label;
        }
    }
    EXPECT_GT(cases, 10);
}

TEST(ServiceTier, TheHeaderCountsOnlyForRepliesWithoutATier) {
    ModelReply reply;
    name_served_tier(reply, "");
    name_served_tier(reply, "paid");
    EXPECT_EQ(reply.service_tier, "");
    name_served_tier(reply, "Priority");
    EXPECT_EQ(reply.service_tier, "priority");
    name_served_tier(reply, "flex");
    EXPECT_EQ(reply.service_tier, "priority");
}

TEST(ProviderError, AnOrdinaryReplyHasNoFailure) {
    for (const char* reason : {"stop", "tool_calls", "function_call", "eos", "end_turn", ""}) {
        ModelReply reply;
        reply.finish_reason = reason;
        EXPECT_FALSE(failure_in(reply)) << reason;
    }
}

TEST(ProviderError, KeepsTheProvidersWords) {
    EXPECT_EQ(error(400, R"({"detail":"zu lang"})").message, "zu lang");
    EXPECT_EQ(error(400, R"({"detail":{"kind":"capability","message":"m"}})").message, "m");
    EXPECT_EQ(error(400, R"({"error":{"message":"m\u0000n","type":"t","code":"c"}})").message,
              "mn");
    EXPECT_EQ(error(400, R"({"error":"m"})").message, "m");
    EXPECT_EQ(error(400, R"({"object":"error","message":"vLLM says"})").message, "vLLM says");
    EXPECT_EQ(error(422, R"({"detail":[{"msg":"field required"}]})").message,
              R"([{"msg":"field required"}])");
    EXPECT_EQ(error(502, "Bad\xff Gateway").message, "Bad\xEF\xBF\xBD Gateway");
    EXPECT_EQ(error(502, std::string(5000, 'x')).message.size(), 999U + 3U);
}

TEST(ProviderError, CarriesRetryAfter) {
    EXPECT_EQ(error(429, "", "20").retry_after, 20 * kMicrosPerSecond);
    EXPECT_EQ(error(503, "", "Wed, 15 Apr 2026 00:00:05 GMT").retry_after, 5 * kMicrosPerSecond);
    EXPECT_FALSE(error(429, "", "").retry_after);
    EXPECT_FALSE(error(429, "", "soon").retry_after);
    const char* in_body = R"({"error":{"code":429,"details":[{"retryDelay":"47s"}]}})";
    EXPECT_EQ(error(429, in_body).retry_after, 47 * kMicrosPerSecond);
    EXPECT_EQ(error(429, in_body, "20").retry_after, 20 * kMicrosPerSecond);
}

TEST(ChatRequest, HasAllFields) {
    const std::vector<std::string> messages = {system_message("S"), user_message("U")};
    const ChatBody body = build_chat_request({.model = "google/gemma \"3\"",
                                              .messages = messages,
                                              .tools_json = R"([{"type":"function"}])",
                                              .temperature = 0.3});
    EXPECT_EQ(body.text, R"({"tools":[{"type":"function"}],"tool_choice":"auto","temperature":0.3,)"
                         R"("stream":false,"model":"google/gemma \"3\"","messages":[)"
                         R"({"role":"system","content":"S"},{"role":"user","content":"U"}]})");
    EXPECT_TRUE(body.text.substr(0, body.of_all).ends_with(R"("model":)"));
    EXPECT_EQ(body.text.substr(body.of_run), "]}");
}

// The digests of bodies rely on it.
TEST(ChatRequest, KnowsWhatTheNextRequestBeginsWithToo) {
    std::vector<std::string> messages = {system_message("S"), user_message("U")};
    const auto body = [&](std::string closing) {
        return build_chat_request({.model = "m",
                                   .messages = messages,
                                   .tools_json = R"([{"type":"function"}])",
                                   .closing_text = std::move(closing)});
    };
    const auto begins_like = [](const ChatBody& next, const ChatBody& before) {
        return next.of_run >= before.of_run &&
               next.text.starts_with(std::string_view(before.text).substr(0, before.of_run));
    };
    const ChatBody plain = body("");
    const ChatBody reminded = body("<reminder>R</reminder>");
    EXPECT_LT(reminded.of_run, plain.of_run);
    EXPECT_TRUE(begins_like(plain, reminded));
    messages.push_back(user_message("V"));
    EXPECT_TRUE(begins_like(body(""), plain));
    EXPECT_TRUE(begins_like(body("R"), plain));
    EXPECT_TRUE(begins_like(body("R"), reminded));
}

TEST(ChatRequest, AsksForATierAndACacheOnlyIfItIsTo) {
    const std::vector<std::string> messages = {user_message("Hallo")};
    const auto body = [&](const ServiceWishes& wishes) {
        return parse_json(build_chat_request({"m", messages, "", 0.3, 100, {}, wishes}).text)
            .value();
    };
    EXPECT_FALSE(body({}).contains("service_tier"));
    EXPECT_FALSE(body({}).contains("prompt_cache_key"));
    EXPECT_EQ(body({"flex", {}})["service_tier"], "flex");
    EXPECT_FALSE(body({"flex", {}}).contains("prompt_cache_key"));
    EXPECT_EQ(body({{}, "a\"b"})["prompt_cache_key"], "a\"b");
}

TEST(ProviderError, TellsWhenTheTierIsRefused) {
    const auto is_of_tier = [](int status, std::string_view body) {
        return is_refusal_of_tier(error(status, body));
    };
    // OpenAI, Groq, Gemini, Azure.
    EXPECT_TRUE(is_of_tier(429, R"({"error":{"code":"resource_unavailable","message":"x"}})"));
    EXPECT_TRUE(is_of_tier(498, R"({"error":{"code":"capacity_exceeded","message":"x"}})"));
    EXPECT_TRUE(is_of_tier(503, R"({"error":{"code":503,"status":"UNAVAILABLE"}})"));
    EXPECT_TRUE(is_of_tier(400, R"({"error":{"type":"invalid_request_error",
        "message":"service_tier flex is not supported by this model"}})"));
    EXPECT_TRUE(is_of_tier(422, R"({"detail":"unknown field service_tier"})"));
    ProviderError slow;
    slow.kind = ErrorKind::Timeout;
    EXPECT_TRUE(is_refusal_of_tier(slow));
    // What the standard tier would say, too.
    EXPECT_FALSE(is_of_tier(400, R"({"error":{"message":"messages must not be empty"}})"));
    EXPECT_FALSE(is_of_tier(422, R"({"detail":"blocked"})"));
    EXPECT_FALSE(is_of_tier(401, R"({"detail":"service_tier"})"));
    EXPECT_FALSE(is_of_tier(413, R"({"detail":"too large"})"));
    EXPECT_FALSE(is_of_tier(503, R"({"detail":{"kind":"no_healthy_provider","message":"x"}})"));
    ProviderError away;
    away.kind = ErrorKind::Unreachable;
    EXPECT_FALSE(is_refusal_of_tier(away));
}

TEST(ChatRequest, LeavesToolsOutIfThereAreNone) {
    const std::vector<std::string> messages;
    for (const char* tools : {"", "[]"}) {
        const ChatBody body = build_chat_request(
            {.model = "m", .messages = messages, .tools_json = tools, .temperature = 1.0});
        EXPECT_EQ(body.text, R"({"temperature":1,"stream":false,"model":"m","messages":[]})");
        EXPECT_EQ(body.text.substr(body.of_run), "]}");
    }
}

TEST(ChatMessage, EscapesAndRepairsText) {
    EXPECT_EQ(user_message("a\"\n\\Ü"), R"({"role":"user","content":"a\"\n\\Ü"})");
    const std::optional<Json> broken = parse_json(user_message("a\xff"));
    ASSERT_TRUE(broken);
    EXPECT_EQ(broken->at("content"), "a\xEF\xBF\xBD");
    EXPECT_EQ(tool_message("id\"1", R"({"success":true,"message":"ok"})"),
              R"({"role":"tool","tool_call_id":"id\"1",)"
              R"("content":"{\"success\":true,\"message\":\"ok\"}"})");
}

TEST(ChatMessage, AssistantTurnGivesToolCallsBack) {
    const ModelReply read{.content = "",
                          .tool_calls = {{"1", "create_task", R"({"title":"Ä"})"}, {"2", "x", "{"}},
                          .finish_reason = "tool_calls",
                          .usage = {}};
    EXPECT_EQ(assistant_message(read),
              R"({"role":"assistant","content":null,"tool_calls":[)"
              R"({"id":"1","type":"function","function":{"name":"create_task",)"
              R"("arguments":"{\"title\":\"Ä\"}"}},)"
              R"({"id":"2","type":"function","function":{"name":"x","arguments":"{}"}}]})");
    EXPECT_EQ(assistant_message(
                  {.content = "fertig", .tool_calls = {}, .finish_reason = {}, .usage = {}}),
              R"({"role":"assistant","content":"fertig"})");
}

TEST(ChatMessage, NoTextBesideCallsIsNull) {
    for (const char* content : {"null", R"("")", R"(" \n")", "[]"}) {
        const ModelReply read = reply_to_message(
            std::string(R"({"content":)") + content +
            R"(,"tool_calls":[{"id":"1","function":{"name":"x","arguments":"{}"}}]})");
        EXPECT_TRUE(Json::parse(assistant_message(read)).at("content").is_null()) << content;
    }
    const ModelReply with_text = reply_to_message(
        R"({"content":" Ich lege an. ","tool_calls":[{"id":"1","function":{"name":"x"}}]})");
    EXPECT_EQ(Json::parse(assistant_message(with_text)).at("content"), " Ich lege an. ");
}

TEST(ChatMessage, WhatWasReadCanBeSentAgain) {
    const ModelReply read = reply_to_message(
        "{\"content\":\"a\xC3\",\"tool_calls\":[{\"function\":"
        "{\"name\":\"\xF0\x9F\",\"arguments\":\"\xFF\"}}]}");
    EXPECT_TRUE(parse_json(assistant_message(read)));
}

TEST(ProviderOf, IsWhatStandsBeforeTheSlash) {
    EXPECT_EQ(provider_of("google/gemini-2.5-flash"), "google");
    EXPECT_EQ(provider_of("openrouter/meta/llama"), "openrouter");
    EXPECT_EQ(provider_of("gpt-4o"), "unknown");
    EXPECT_EQ(provider_of("/x"), "unknown");
    EXPECT_EQ(provider_of(""), "unknown");
}

}  // namespace
}  // namespace mana_ai::core
