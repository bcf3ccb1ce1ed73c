#include "mana_ai/extension/sync/clock_vector.hpp"

#include <algorithm>

extern "C" {
#include "lib/stringinfo.h"
}

namespace mana_ai {

namespace {

constexpr uint8_t kSameTimes = 16;
constexpr char kDigits[] = "0123456789abcdef";

constexpr uint64_t kEmptyHash = 0xcbf29ce484222325;

uint64_t hash_on(uint64_t hash, std::string_view text) {
    for (const char c : text)
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return hash;
}

uint64_t hash_of(std::string_view name) {
    return hash_on(kEmptyHash, name);
}

void append_number(StringInfo out, uint64_t number, int bytes) {
    for (int shift = 8 * bytes - 4; shift >= 0; shift -= 4)
        appendStringInfoCharMacro(out, kDigits[(number >> shift) & 15]);
}

class Digits {
 public:
    explicit Digits(std::string_view text) : rest_(text) {}

    bool at_end() const { return rest_.empty(); }
    bool failed() const { return failed_; }
    uint64_t take(size_t bytes) {
        if (rest_.size() < 2 * bytes) {
            failed_ = true;
            rest_ = {};
            return 0;
        }
        uint64_t number = 0;
        for (const char c : rest_.substr(0, 2 * bytes)) {
            const bool is_digit = c >= '0' && c <= '9';
            failed_ = failed_ || (!is_digit && (c < 'a' || c > 'f'));
            number = number << 4 | static_cast<uint64_t>(is_digit ? c - '0' : c - 'a' + 10) % 16;
        }
        rest_.remove_prefix(2 * bytes);
        return number;
    }

 private:
    std::string_view rest_;
    bool failed_ = false;
};

}  // namespace

const ClockBound* find_bound(const ClockBounds& bounds, uint64_t name_hash) {
    const ClockBound* begin = bounds.fields;
    const ClockBound* end = begin + bounds.count;
    const ClockBound* found = std::lower_bound(
        begin, end, name_hash,
        [](const ClockBound& bound, uint64_t wanted) { return bound.name_hash < wanted; });
    return found != end && found->name_hash == name_hash ? found : nullptr;
}

bool ReadFields::contain(std::string_view field) const {
    const std::string_view head = core::head_of(field);
    return (head == further && !further.empty()) ||
           std::find(names.begin(), names.end(), head) != names.end();
}

const char* clock_vector_of(const RecordState& state, const ReadFields& read) {
    StringInfoData out;
    initStringInfo(&out);
    const core::FieldClock* before = nullptr;
    uint64_t digest = kEmptyHash;
    uint32_t count = 0;
    for (uint32_t i = 0; i < state.count; i++) {
        const RecordField& field = state.fields[i];
        if (!field.present || !read.contain(field.field.name()))
            continue;
        // What does not go into the vector any more goes into its digest.
        if (++count > kMaxClockedFields) {
            digest = hash_on(digest, {out.data, static_cast<size_t>(out.len)});
            resetStringInfo(&out);
        }
        const core::FieldClock& clock = field.clock;
        const bool is_same =
            before != nullptr && before->time == clock.time && before->row_time == clock.row_time;
        append_number(&out, static_cast<uint8_t>(clock.rank) + (is_same ? kSameTimes : 0), 1);
        if (!is_same) {
            append_number(&out, static_cast<uint64_t>(clock.time), 8);
            append_number(&out, static_cast<uint64_t>(clock.row_time), 8);
        }
        append_number(&out, hash_of(field.field.name()), 8);
        before = &clock;
    }
    if (count <= kMaxClockedFields)
        return out.data;
    digest = hash_on(digest, {out.data, static_cast<size_t>(out.len)});
    resetStringInfo(&out);
    appendBinaryStringInfo(&out, kDigestOfClocks.data(), static_cast<int>(kDigestOfClocks.size()));
    append_number(&out, digest, 8);
    return out.data;
}

bool is_digest_of_clocks(std::string_view clocks) {
    return clocks.starts_with(kDigestOfClocks);
}

std::string digest_of_clocks(std::string_view vector) {
    if (is_digest_of_clocks(vector))
        return std::string(vector);
    std::string digest(kDigestOfClocks);
    const uint64_t hash = hash_on(kEmptyHash, vector);
    for (int shift = 60; shift >= 0; shift -= 4)
        digest += kDigits[(hash >> shift) & 15];
    return digest;
}

bool read_clock_vector(std::string_view vector, ClockBounds& bounds) {
    constexpr size_t kShortest = 18;  // digits of a field
    bounds.count = 0;
    bounds.fields =
        static_cast<ClockBound*>(palloc(sizeof(ClockBound) * (vector.size() / kShortest + 1)));
    Digits digits(vector);
    core::FieldClock clock;
    while (!digits.at_end()) {
        const auto first = static_cast<uint8_t>(digits.take(1));
        if (first >= 2 * kSameTimes || (first >= kSameTimes && bounds.count == 0))
            return false;
        if (first < kSameTimes) {
            clock.time = static_cast<core::Instant>(digits.take(8));
            clock.row_time = static_cast<core::Instant>(digits.take(8));
        }
        clock.rank = static_cast<core::WriteRank>(first % kSameTimes);
        const uint64_t hash = digits.take(8);
        if (digits.failed() || clock.rank > core::WriteRank::Change)
            return false;
        bounds.fields[bounds.count++] = {hash, clock};
    }
    std::sort(bounds.fields, bounds.fields + bounds.count,
              [](const ClockBound& a, const ClockBound& b) { return a.name_hash < b.name_hash; });
    return true;
}

bool is_within(const ClockBounds& bounds, std::string_view field, const core::FieldClock& clock) {
    const ClockBound* bound = find_bound(bounds, hash_of(field));
    return bound != nullptr && !core::is_older(bound->clock, clock);
}

uint32_t count_lost(const ClockBounds& bounds, const RecordState& state) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < state.count; i++) {
        const RecordField& field = state.fields[i];
        const ClockBound* bound =
            field.present ? find_bound(bounds, hash_of(field.field.name())) : nullptr;
        if (bound != nullptr && !core::is_older(field.clock, bound->clock) &&
            !core::is_older(bound->clock, field.clock))
            found++;
    }
    return bounds.count - std::min(found, bounds.count);
}

}  // namespace mana_ai
