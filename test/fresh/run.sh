#!/usr/bin/env bash
# make fresh: the first steps of a new user. Creates fresh Debian systems in folders (debootstrap), prepares a state,
# and runs the README's commands in a copy of this checkout.
#
#   test/fresh/run.sh [STATE]...       all states of STATES below, or those that are named: RELEASE-WAY
#
#   RELEASE   bookworm, trixie, sid; any other that debootstrap knows. With +ARCHITECTURE it is that one's, under
#             emulation (needs qemu-user-static and binfmt-support): trixie+arm64-minimal
#   WAY       minimal      nothing but apt and make
#             headerless   PostgreSQL's server and libpq-dev, without the server's headers
#             two          two majors: the release's PostgreSQL, and the one of the release before
#             user         an ordinary user with sudo
#             cross        minimal, in a tree of another architecture with this machine's cross compiler (its package
#                          must be installed): only what was built is emulated
#
#   ONLY=demo           only `make demo`; ONLY=test only `make test`; ONLY='regress tap' only these rings;
#                       ONLY=packages builds, installs, upgrades and removes the Debian packages (packages.sh)
#   FRESH_DIR=folder    where trees and packages are kept; the default is /var/cache/mana_ai_fresh
#   FRESH_CCACHE=folder a compiler cache for all trees; the times are then not those of a new user
#   QUICK=1             compile everything as the demo does, without optimization, in less than half the time
#   FRESH_FLAGS=flags   PG_CXXFLAGS of the build
#   FRESH_FILTER=text   FILTER of test/run_all.sh
#   KEEP=yes            leave the tree, and use the one that is there
#
# It needs root, for debootstrap, mounts and chroot, and Debian's archive. Nothing outside FRESH_DIR is written, and
# whatever a tree has started ends with it. The last line is "N passed, N failed, N skipped".
set -euo pipefail

STATES=(bookworm-minimal bookworm-headerless bookworm-two bookworm-user trixie-minimal trixie-headerless trixie-two
    trixie-user sid-minimal sid-headerless sid-two sid-user)

top=$(cd "$(dirname "$0")/../.." && pwd)
folder=${FRESH_DIR:-/var/cache/mana_ai_fresh}
states=("$@")
[ ${#states[@]} -gt 0 ] || states=("${STATES[@]}")
declare -A before=([bookworm]=bullseye [trixie]=bookworm [sid]=trixie [forky]=trixie)

if [ "$(id -u)" -ne 0 ]; then
    echo >&2 "fresh: needs root, for debootstrap and chroot: sudo make fresh"
    exit 1
fi
if ! command -v debootstrap >/dev/null; then
    echo >&2 "fresh: needs debootstrap: apt-get install debootstrap"
    exit 1
fi
# All processes in a tree end with this script.
trap 'trap - EXIT; kill -KILL $(jobs -p) 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
umask 022
mkdir -p "$folder/base" "$folder/debs" "$folder/run" "$folder/log"

# One at a time: the trees share apt's packages.
exec 9>"$folder/lock"
if ! flock -n 9; then
    echo "fresh: another one works in $folder; waiting for it"
    flock 9
fi

# base RELEASE[+ARCHITECTURE]: makes $folder/base/… once.
base() {
    local release=${1%+*} architecture="" target=$folder/base/$1
    if [[ $1 == *+* ]]; then architecture=${1#*+}; fi
    if [ ! -e "$target/etc/debian_version" ] || [ -e "$target/debootstrap" ]; then
        rm -rf "$target"
        debootstrap --variant=minbase ${architecture:+--arch="$architecture"} "$release" "$target" >"$folder/log/base-$1.log" 2>&1 || {
            tail -n 5 "$folder/log/base-$1.log"
            rm -rf "$target"
            return 1
        }
    fi
    # A snapshot of an archive may be past its Valid-Until date.
    echo 'Acquire::Check-Valid-Until "false";' >"$target/etc/apt/apt.conf.d/90fresh"
    # No service starts in a folder.
    printf '#!/bin/sh\nexit 101\n' >"$target/usr/sbin/policy-rc.d"
    chmod 755 "$target/usr/sbin/policy-rc.d"
    # packages.sh checks that it runs in such a tree.
    echo throwaway >"$target/etc/mana_ai_fresh"
}

# inside TREE COMMAND...: in separate namespaces, so that everything it starts ends with it.
inside() {
    local tree=$1 release
    release=$(basename "$(readlink -f "$tree/.base")")
    shift
    mkdir -p "$folder/debs/$release/partial"
    # So that it ends with the shell that waits for it.
    setpriv --pdeathsig KILL unshare --mount --pid --ipc --uts --fork --kill-child bash -c '
        set -e
        tree=$1 debs=$2 cache=$3 flags=$4
        shift 4
        mount --bind "$tree" "$tree"
        mount -t proc proc "$tree/proc"
        mount -t tmpfs -o mode=1777 shm "$tree/dev/shm"
        mkdir -p "$tree/var/cache/apt/archives"
        mount --bind "$debs" "$tree/var/cache/apt/archives"
        if [ -n "$cache" ]; then
            mkdir -p "$cache" "$tree/ccache"
            chmod 1777 "$cache" # for the ordinary user as well
            mount --bind "$cache" "$tree/ccache"
        fi
        cp /etc/resolv.conf "$tree/etc/resolv.conf"
        cd /
        exec chroot "$tree" env -i HOME=/root TERM=dumb LANG=C.UTF-8 CCACHE_DIR=/ccache CCACHE_COMPILERCHECK=content \
            CCACHE_UMASK=000 CCACHE_NOHASHDIR=1 \
            ${QUICK:+QUICK="$QUICK"} ${flags:+PG_CXXFLAGS="$flags"} PATH=${cache:+/usr/lib/ccache:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
    ' inside "$tree" "$folder/debs/$release" "${FRESH_CCACHE:-}" "${FRESH_FLAGS:-}" "$@"
}

apt_get='apt-get -qq -o Dpkg::Use-Pty=0 -o APT::Keep-Downloaded-Packages=true --no-install-recommends -y'

# major RELEASE: of its PostgreSQL.
major() {
    inside "$folder/base/$1" sh -c "apt-get -qq update && apt-cache depends postgresql" |
        sed -nE 's/^ *Depends: postgresql-([0-9]+)$/\1/p' | head -n 1
}

# copy_cross_compiler ARCHITECTURE TREE: this machine's g++ for that architecture, with what it needs to run, as the
# tree's first gcc and g++, in a separate folder, since the tree's compiler has the same names.
copy_cross_compiler() {
    local target own tool files
    target=$(dpkg-architecture -a"$1" -qDEB_HOST_GNU_TYPE 2>/dev/null) && own=$(dpkg-architecture -qDEB_BUILD_MULTIARCH) || return 1
    command -v "$target-g++" || { echo "install g++-${target//_/-}"; return 1; }
    files=$(apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "g++-${target//_/-}" | grep '^[a-z0-9]' | xargs dpkg -L | sort -u) || return 1
    mkdir -p "$2/opt/cross"
    grep -E "^/usr/(bin/$target-|lib/gcc-cross/|$target/)" <<<"$files" | sed 's:^/usr/::' |
        tar -c -C /usr --no-recursion -T - | tar -x -C "$2/opt/cross" || return 1
    grep -E "^(/usr)?/(lib/$own/|lib64/)" <<<"$files" | sed 's:^/::' | tar -c -C / --no-recursion -T - | tar -x -C "$2" || return 1
    for tool in gcc g++; do ln -sf "/opt/cross/bin/$target-$tool" "$2/usr/local/bin/$tool"; done
}

# prepare STATE TREE: what was done with the machine before.
prepare() {
    local release=${1%-*} way=${1##*-} tree=$2 packages=(make)
    if [ -n "${FRESH_CCACHE:-}" ]; then packages+=(ccache); fi
    case $way in
        minimal) ;;
        headerless) packages+=("postgresql-$(major "$release")" libpq-dev) ;;
        two)
            base "${before[$release]}" || return 1
            sed -E "s/\b$release\b/${before[$release]}/" "$tree/etc/apt/sources.list" >"$tree/etc/apt/sources.list.d/before.list"
            packages+=("postgresql-$(major "$release")" "postgresql-$(major "${before[$release]}")")
            ;;
        user) packages+=(sudo) ;;
        cross) copy_cross_compiler "${release#*+}" "$tree" || return 1 ;;
        *)
            echo >&2 "fresh: there is no state $1"
            return 1
            ;;
    esac
    inside "$tree" sh -ec "$apt_get update; DEBIAN_FRONTEND=noninteractive $apt_get install ${packages[*]} </dev/null" || return 1
    if [ "$way" = user ]; then
        inside "$tree" sh -ec 'useradd -m -s /bin/bash anna; echo "anna ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/anna'
    fi
}

# Copies the checkout, with what is not committed and without what is built. In a tree that was kept only what has
# changed gets a new time, so that make sees it.
copy_checkout() { # TARGET
    local copy=$1.new file
    rm -rf "$copy"
    extract_checkout "$copy"
    if [ ! -e "$1" ]; then
        mv "$copy" "$1"
        return
    fi
    (cd "$copy" && find . -type f) | while IFS= read -r file; do
        if ! cmp -s "$copy/$file" "$1/$file"; then
            mkdir -p "$(dirname "$1/$file")"
            cp --no-preserve=timestamps "$copy/$file" "$1/$file"
            chmod --reference="$copy/$file" "$1/$file"
        fi
    done
    rm -rf "$copy"
}

extract_checkout() { # TARGET
    mkdir -p "$1"
    if git -C "$top" rev-parse >/dev/null 2>&1; then
        git -C "$top" -c safe.directory='*' ls-files -co --exclude-standard -z |
            (cd "$top" && xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh | tar -c --null -T -) | tar -x -C "$1" --no-same-owner
    else
        tar -c -C "$top" --exclude ./build . | tar -x -C "$1" --no-same-owner
    fi
}

passed=0 failed=0 skipped=0 table=()

# try STATE NAME COMMAND: one command of the README.
try() {
    local state=$1 name=$2 tree=$folder/run/$1 log=$folder/log/$1-$2.log status=0 began=$SECONDS command=$3 said
    local home=/root/mana_ai
    if [ "${state##*-}" = user ]; then
        home=/home/anna/mana_ai
        command="chown -R anna: $home; su anna -s /bin/bash -c 'export PATH=$([ -z "${FRESH_CCACHE:-}" ] || echo /usr/lib/ccache:)\$PATH CCACHE_DIR=/ccache CCACHE_UMASK=000; cd $home && $3'"
    else
        command="cd $home && $3"
    fi
    echo "== $state: $name"
    inside "$tree" bash -c "$command" </dev/null >"$log" 2>&1 &
    wait $! || status=$?
    said=$(grep -aE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1 || true)
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        tail -n "${FRESH_TAIL:-40}" "$log"
    fi
    table+=("$(printf '%-22s %-24s %-6s %5d s  %s' "$state" "$name" "$([ "$status" -eq 0 ] && echo ok || echo FAILED)" $((SECONDS - began)) "$said")")
    echo "${table[-1]}"
}

for state in "${states[@]}"; do
    release=${state%-*}
    tree=$folder/run/$state
    if ! base "$release"; then
        echo "fresh: no tree of $release could be made: $state is skipped"
        skipped=$((skipped + 1))
        continue
    fi
    ln -sfn . "$folder/base/$release/.base"
    if [ -z "${KEEP:-}" ] || [ ! -e "$tree/.prepared" ]; then
        rm -rf "$tree"
        cp -a --reflink=auto "$folder/base/$release" "$tree"
        ln -sfn "../../base/$release" "$tree/.base"
        if ! prepare "$state" "$tree" >"$folder/log/$state-prepare.log" 2>&1; then
            tail -n 20 "$folder/log/$state-prepare.log"
            # Nothing of mana_ai has run yet: the archive or the machine is at fault.
            echo "fresh: $state could not be prepared: skipped"
            skipped=$((skipped + 1))
            continue
        fi
        touch "$tree/.prepared"
    fi
    if [ "${state##*-}" = user ]; then copy_checkout "$tree/home/anna/mana_ai"; else copy_checkout "$tree/root/mana_ai"; fi
    case ${ONLY:-} in
        '' | demo) try "$state" demo 'make demo' ;;&
        '' | test) try "$state" test "make test FILTER='${FRESH_FILTER:-}'" ;;
        demo) ;;
        packages) try "$state" packages test/fresh/packages.sh ;;
        *) try "$state" "${ONLY// /+}" "make test RINGS='$ONLY' FILTER='${FRESH_FILTER:-}'" ;;
    esac
    [ -n "${KEEP:-}" ] || rm -rf "$tree"
done

echo
[ ${#table[@]} -eq 0 ] || printf '%s\n' "${table[@]}"
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
