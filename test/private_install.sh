#!/usr/bin/env bash
# private_install.sh DIRECTORY: creates a private PostgreSQL installation below DIRECTORY, with mana_ai
# in it, from the installation of PG_CONFIG, which stays untouched. Prints the path of its pg_config.
#
# PostgreSQL finds its files relative to its own binary, so copied binaries in a tree of the same shape use
# that tree: links for the files of the installation, and new files next to them. No rights are needed.
# mana_ai must have been built before (make). MANA_AI_LIBRARY=file is a mana_ai.so that was built elsewhere for this
# server: then its headers are not needed.
set -euo pipefail
umask 022

top=$(cd "$(dirname "$0")/.." && pwd)
destination=$(mkdir -p "$1" && cd "$1" && pwd)
pg_config=${PG_CONFIG:-pg_config}

bindir=$("$pg_config" --bindir)
libdir=$("$pg_config" --pkglibdir)
sharedir=$("$pg_config" --sharedir)
includedir=$("$pg_config" --includedir)

# link_contents DIRECTORY: in the private tree a directory of links to what DIRECTORY holds.
link_contents() {
    mkdir -p "$destination$1"
    local entry
    for entry in "$1"/*; do
        case ${entry##*/} in
            mana_ai | mana_ai.* | mana_ai--*) ;; # an installed one must not be mixed in
            *) ln -sfn "$entry" "$destination$1/${entry##*/}" ;;
        esac
    done
}

mkdir -p "$destination$bindir"
cp -LRp "$bindir/." "$destination$bindir/"
link_contents "$libdir"
link_contents "$sharedir"
rm -f "$destination$sharedir/extension"
link_contents "$sharedir/extension"
mkdir -p "$(dirname "$destination$includedir")"
[ -e "$destination$includedir" ] || ln -s "$includedir" "$destination$includedir"

if [ -n "${MANA_AI_LIBRARY:-}" ]; then
    cp "$MANA_AI_LIBRARY" "$destination$libdir/mana_ai.so"
    cp "$top"/mana_ai.control "$top"/sql/upgrade/*.sql "$top"/build/sql/*.sql "$destination$sharedir/extension/"
else
    make -s -C "$top" install DESTDIR="$destination" PG_CONFIG="$pg_config" >/dev/null
fi
# For the tests of upgrades: the install scripts of released versions.
cp "$top"/test/data/mana_ai--*.sql "$destination$sharedir/extension/"

echo "$destination$bindir/pg_config"
