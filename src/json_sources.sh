#!/bin/sh
# Prints the sources that read nlohmann_json, by themselves or through our headers. Called in the top folder.
set -eu

known='nlohmann/json\.hpp'
while :; do
    headers=$(grep -rlE --include='*.hpp' "^#include [<\"]($known)[>\"]" include src |
        sed -E 's:^include/::; s:^src/.*/::; s:\.:\\.:g' | sort -u | paste -s -d '|' -)
    [ "$known" != "nlohmann/json\.hpp|$headers" ] || break
    known="nlohmann/json\.hpp|$headers"
done
grep -rlE --include='*.cpp' "^#include [<\"]($known)[>\"]" src
