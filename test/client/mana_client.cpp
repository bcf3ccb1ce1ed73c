// The part of a user's device that encrypts: makes a server's key, issues mission key grants and
// encrypts values, for tests and the demo (docs/contract/inputs.md, Mission key grant).
//
//   mana_client keygen FILE                          a new private key (PKCS#8 PEM, mode 0600)
//   mana_client grant FILE MISSION EXPIRES TABLE:ID…  {"grant": …, "key": hexadecimal mission key}
//   mana_client seal KEY                             each line of the input, taken as a string, as
//                                                    "enc:1:…"; with --json it is JSON already

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "client_side.hpp"

namespace {

namespace client = mana_ai::crypto::client;
using mana_ai::core::Json;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

std::string text_of(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return {data, static_cast<std::size_t>(size)};
}

void make_key(const char* path) {
    const Key key(EVP_RSA_gen(2048), EVP_PKEY_free);
    const Bio bio(BIO_new(BIO_s_mem()), BIO_free);
    client::require(
        key != nullptr && PEM_write_bio_PKCS8PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0,
                                                        nullptr, nullptr) == 1,
        "a new key");
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    client::require(file >= 0, "opening the key file");
    const std::string pem = text_of(bio.get());
    const bool written = write(file, pem.data(), pem.size()) == static_cast<ssize_t>(pem.size());
    client::require(close(file) == 0 && written, "writing the key file");
}

std::string public_key_of(const char* path) {
    std::ifstream file(path);
    std::stringstream content;
    content << file.rdbuf();
    const std::string pem = content.str();
    const Bio in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
    const Key key(PEM_read_bio_PrivateKey(in.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
    const Bio out(BIO_new(BIO_s_mem()), BIO_free);
    client::require(key != nullptr && PEM_write_bio_PUBKEY(out.get(), key.get()) == 1,
                    "the public half of the key");
    return text_of(out.get());
}

std::string hex_of(const client::Bytes& bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    for (const auto byte : bytes) {
        hex += kDigits[byte >> 4];
        hex += kDigits[byte & 15];
    }
    return hex;
}

Json issue_grant(const char* key_file, const std::string& mission, const std::string& expires,
                 const std::vector<std::string>& records) {
    std::set<std::string> tables;
    for (const std::string& record : records) {
        tables.insert(record.substr(0, record.find(':')));
    }
    const std::vector<std::string> table_list(tables.begin(), tables.end());
    client::Bytes master(32);
    client::require(RAND_bytes(master.data(), static_cast<int>(master.size())) == 1,
                    "random bytes");
    const client::Bytes key = client::derive_mission_data_key(
        master, mission, client::canonical_info(table_list, records));
    Json grant = client::make_grant(client::wrap(key, public_key_of(key_file)), mission, table_list,
                                    records);
    grant["expiresAt"] = expires;
    return {{"grant", grant}, {"key", hex_of(key)}};
}

int usage() {
    std::cerr << "usage: mana_client keygen FILE | grant FILE MISSION EXPIRES TABLE:ID... | "
                 "seal KEY [--json]\n";
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments.empty()) {
        return usage();
    }
    const std::string& command = arguments[0];
    try {
        if (command == "keygen" && arguments.size() == 2) {
            make_key(argv[2]);
        } else if (command == "grant" && arguments.size() >= 4) {
            std::cout << issue_grant(argv[2], arguments[2], arguments[3],
                                     {arguments.begin() + 4, arguments.end()})
                      << "\n";
        } else if (command == "seal" && arguments.size() >= 2) {
            const client::Bytes key = client::from_hex(arguments[1]);
            const bool is_json = arguments.size() > 2 && arguments[2] == "--json";
            for (std::string line; std::getline(std::cin, line);) {
                std::cout << client::seal(is_json ? line : Json(line).dump(), key) << "\n";
            }
        } else {
            return usage();
        }
    } catch (const std::exception& error) {
        std::cerr << "mana_client: " << error.what() << " failed\n";
        return 1;
    }
}
