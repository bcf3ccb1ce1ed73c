#include "mana_ai/crypto/secret_bytes.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace mana_ai::crypto {
namespace {

static_assert(!std::is_copy_constructible_v<SecretBytes>);
static_assert(!std::is_copy_assignable_v<SecretBytes>);
static_assert(std::is_nothrow_move_constructible_v<SecretBytes>);
static_assert(std::is_nothrow_move_assignable_v<SecretBytes>);
static_assert(!std::is_copy_constructible_v<SecretArray<32>>);

bool all_zero(const std::uint8_t* bytes, std::size_t size) {
    return std::all_of(bytes, bytes + size, [](std::uint8_t byte) { return byte == 0; });
}

// The flags that /proc/self/smaps shows for the mapping with this address.
std::string mapping_flags(const void* address) {
    std::ifstream smaps("/proc/self/smaps");
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    bool inside = false;
    for (std::string line; std::getline(smaps, line);) {
        std::uintptr_t from = 0;
        std::uintptr_t to = 0;
        char dash = 0;
        std::istringstream range(line);
        if (range >> std::hex >> from >> dash >> to && dash == '-') {
            inside = from <= wanted && wanted < to;
        } else if (inside && line.starts_with("VmFlags:")) {
            return line + " ";
        }
    }
    return {};
}

TEST(SecretBytes, BeginsAsZeroBytes) {
    for (int round = 0; round < 3; ++round) {
        SecretBytes bytes(100);
        ASSERT_EQ(bytes.size(), 100u);
        EXPECT_TRUE(all_zero(bytes.data(), bytes.size()));
        std::memset(bytes.data(), 0xAA, bytes.size());
    }
}

TEST(SecretBytes, IsLeftOutOfCoreFiles) {
    // An emulator may say that it did it, and not do it (qemu-user).
    const std::size_t page_size = 4096;
    void* const page =
        mmap(nullptr, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    ASSERT_EQ(madvise(page, page_size, MADV_DONTDUMP), 0);
    const std::string of_page = mapping_flags(page);
    munmap(page, page_size);
    if (!of_page.empty() && of_page.find(" dd ") == std::string::npos) {
        GTEST_SKIP() << "the kernel does not keep MADV_DONTDUMP";
    }
    for (const std::size_t size : {std::size_t{32}, std::size_t{1} << 20}) {
        const SecretBytes bytes(size);
        const std::string flags = mapping_flags(bytes.data());
        if (flags.empty()) {
            GTEST_SKIP() << "no /proc/self/smaps";
        }
        EXPECT_NE(flags.find(" dd "), std::string::npos) << flags;
    }
}

TEST(SecretBytes, IsWipedWhenItGoes) {
    const std::uint8_t* page = nullptr;
    {
        const SecretBytes bytes = SecretBytes::copy_of(std::string_view("a marker to look for"));
        page = bytes.data();
    }
    // The page is kept for the next small secret and so may be looked at.
    const SecretBytes next(4096);
    ASSERT_EQ(next.data(), page);
    EXPECT_TRUE(all_zero(next.data(), next.size()));
}

TEST(SecretBytes, TruncatingWipesTheRest) {
    const std::uint8_t* page = nullptr;
    {
        SecretBytes bytes = SecretBytes::copy_of(std::string_view("kept, and a marker"));
        page = bytes.data();
        bytes.truncate(100);
        EXPECT_EQ(bytes.view(), "kept, and a marker");
        bytes.truncate(4);
        EXPECT_EQ(bytes.view(), "kept");
    }
    const SecretBytes next(4096);
    ASSERT_EQ(next.data(), page);
    EXPECT_TRUE(all_zero(next.data(), next.size()));
}

TEST(SecretBytes, GivesItsBytesUpWhenMoved) {
    SecretBytes first = SecretBytes::copy_of(std::string_view("first"));
    SecretBytes second = std::move(first);
    EXPECT_TRUE(first.empty());
    EXPECT_EQ(second.view(), "first");
    second = SecretBytes::copy_of(std::string_view("second"));
    EXPECT_EQ(second.view(), "second");
    SecretBytes& same = second;
    second = std::move(same);
    EXPECT_EQ(second.view(), "second");
    second.clear();
    EXPECT_TRUE(second.empty());
    second.clear();
    EXPECT_TRUE(SecretBytes(0).empty());
}

TEST(SecretBytes, Compares) {
    const SecretBytes bytes = SecretBytes::copy_of(std::string_view("key"));
    EXPECT_TRUE(bytes.equals(SecretBytes::copy_of(std::string_view("key")).bytes()));
    EXPECT_FALSE(bytes.equals(SecretBytes::copy_of(std::string_view("kez")).bytes()));
    EXPECT_FALSE(bytes.equals(SecretBytes::copy_of(std::string_view("ke")).bytes()));
    EXPECT_FALSE(bytes.equals({}));
    EXPECT_TRUE(SecretBytes().equals({}));
}

TEST(SecretBytes, HoldsManyAndLargeOnesAtOnce) {
    std::vector<SecretBytes> all;
    for (std::size_t i = 0; i < 200; ++i) {
        all.emplace_back(i * 100 + 1);
        std::memset(all.back().data(), static_cast<int>(i), all.back().size());
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(all[i].data()[i * 100], static_cast<std::uint8_t>(i));
    }
}

TEST(SecretBytes, ReportsThatThereIsNoMemory) {
    EXPECT_THROW(SecretBytes bytes(SIZE_MAX), std::bad_alloc);
    EXPECT_THROW(SecretBytes bytes(SIZE_MAX / 2), std::bad_alloc);
}

TEST(SecretArray, HoldsTheRightSizeOrNothing) {
    SecretArray<4> array(SecretBytes::copy_of(std::string_view("four")));
    EXPECT_FALSE(array.empty());
    EXPECT_EQ(array.bytes().size(), 4u);
    SecretArray<4> other = std::move(array);
    EXPECT_TRUE(array.empty());
    EXPECT_TRUE(array.bytes().empty());
    EXPECT_TRUE(other.equals(SecretBytes::copy_of(std::string_view("four")).bytes()));
    other.clear();
    EXPECT_TRUE(other.empty());
    EXPECT_TRUE(SecretArray<4>(SecretBytes(3)).empty());
    EXPECT_TRUE(SecretArray<4>(SecretBytes(5)).empty());
    EXPECT_TRUE(SecretArray<4>().empty());
}

}  // namespace
}  // namespace mana_ai::crypto
