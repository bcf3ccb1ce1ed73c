#!/usr/bin/env bash
# Installs from Debian's archive the missing packages that building and testing need.
# Does nothing, and needs no rights, when nothing is missing. As an ordinary user it asks sudo.
# No PostgreSQL cluster is created, and those that exist are left alone.
# `bootstrap.sh demo` leaves out what only the tests need.
set -euo pipefail

pg_config=${PG_CONFIG:-pg_config}
root=${BOOTSTRAP_ROOT:-} # test/bootstrap_test has a Debian of its own there

for_tests=yes
if [ "${1:-}" = demo ]; then for_tests=; fi
packages=(g++ make libcurl4-openssl-dev libmicrohttpd-dev libssl-dev nlohmann-json3-dev)
if [ -n "$for_tests" ]; then packages+=(perl openssl libgtest-dev libipc-run-perl); fi
# What only one target needs.
for package in ${PACKAGES:-}; do packages+=("$package"); done

installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Debian has pgxs.mk in the client's package, so PGXS alone does not mean that there are headers.
is_complete() {
    [ -f "$("$pg_config" --pgxs 2>/dev/null)" ] && [ -f "$("$pg_config" --includedir-server)/postgres.h" ] &&
        [ -x "$("$pg_config" --bindir)/postgres" ]
}

# The major version of Debian's PostgreSQL to use: the one that was named or that pg_config belongs to, else the
# newest that is installed, else the one that this release has. Empty when the package lists must be fetched first.
debian_major() {
    local bindir server newest=
    bindir=$("$pg_config" --bindir 2>/dev/null || true)
    bindir=${bindir#"$root"}
    if [ -n "${PG_MAJOR:-}" ]; then
        newest=$PG_MAJOR
    elif [[ $bindir =~ ^/usr/lib/postgresql/([0-9]+)/bin$ ]]; then
        newest=${BASH_REMATCH[1]}
    else
        for server in "$root"/usr/lib/postgresql/*/bin/postgres; do
            [[ $server =~ /([0-9]+)/bin/postgres$ ]] && [ -x "$server" ] || continue
            if [ "${BASH_REMATCH[1]}" -gt "${newest:-0}" ]; then newest=${BASH_REMATCH[1]}; fi
        done
        [ -n "$newest" ] ||
            newest=$(apt-cache depends postgresql 2>/dev/null | sed -nE 's/^ *Depends: postgresql-([0-9]+)$/\1/p' | head -n 1)
    fi
    echo "$newest"
}

# On another system nothing is installed; missing packages are listed by their Debian names.
has_header() { printf '#include <%s>\n' "$1" | "${CXX:-g++}" -E -x c++ - >/dev/null 2>&1; }
is_there() { # PACKAGE
    case $1 in
        g++) command -v "${CXX:-g++}" >/dev/null ;;
        make | perl | openssl) command -v "$1" >/dev/null ;;
        libcurl4-openssl-dev) has_header curl/curl.h ;;
        libmicrohttpd-dev) has_header microhttpd.h ;;
        libssl-dev) has_header openssl/evp.h ;;
        nlohmann-json3-dev) has_header nlohmann/json.hpp ;;
        libgtest-dev) has_header gtest/gtest.h ;;
        libipc-run-perl) perl -MIPC::Run -e 1 2>/dev/null ;;
    esac
}
if ! command -v dpkg-query >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do is_there "$package" || missing+=("$package"); done
    is_complete || missing+=("PostgreSQL's server, headers and PGXS (PG_CONFIG=$pg_config)")
    [ ${#missing[@]} -gt 0 ] || exit 0
    printf >&2 'bootstrap: not a Debian system, so nothing is installed. Missing is, by the names of Debian:\n'
    printf >&2 '    %s\n' "${missing[@]}"
    exit 1
fi

# Adds Debian's PostgreSQL to the packages. Fails if it must choose a version and the package lists are missing.
choose_postgres() {
    local major=
    if is_complete && [[ $("$pg_config" --bindir) != "$root"/usr/lib/postgresql/* ]]; then
        return # a server that somebody built; pg_cron is its owner's choice
    fi
    if [ "$pg_config" != pg_config ] && [[ $pg_config != "$root"/usr/bin/* && $pg_config != "$root"/usr/lib/postgresql/* ]]; then
        echo >&2 "bootstrap: $pg_config has no PGXS, no server headers or no server next to it"
        exit 1
    fi
    major=$(debian_major)
    [ -n "$major" ] || return 1
    chosen="PostgreSQL $major"
    is_complete || packages+=("postgresql-$major" "postgresql-server-dev-$major")
    [ -n "$for_tests" ] || return 0
    # Not every release has it for every version; its tests are skipped then.
    if installed "postgresql-$major-cron" || [ -n "$(apt-cache madison "postgresql-$major-cron" 2>/dev/null)" ]; then
        packages+=("postgresql-$major-cron")
    fi
}

# Real programs that tests need and whose packages would start a service: only the programs are extracted from the
# packages, into build/bin. Without them their tests are skipped.
#   Prometheus scrapes our metrics; its promtool judges them, the alerts and the dashboard
#   nginx stands before the model server, with TLS and HTTP/2
programs=${root:-$(cd "$(dirname "$0")/.." && pwd)}/build/bin

# fetch_programs PATH PACKAGE...: the programs that match usr/PATH in these packages, of which the first must exist
fetch_programs() {
    local path=$1 folder package program
    shift
    folder=$(mktemp -d)
    # As root, not as apt's download user, who could not write into the folder.
    if (
        cd "$folder" || exit 1
        apt-get -qq -o APT::Sandbox::User=root download "$1" || exit 1
        for package in "${@:2}"; do
            apt-get -qq -o APT::Sandbox::User=root download "$package" || true # part of the first in some releases
        done
        for package in *.deb; do
            dpkg-deb --fsys-tarfile "$package" | tar -x --wildcards "./usr/$path" || true
        done
        compgen -G "usr/$path"
    ) >"$folder/log" 2>&1; then
        mkdir -p "$programs"
        for program in "$folder"/usr/$path; do cp "$program" "$programs/"; done
        if [ "$(id -u)" -eq 0 ]; then chown -R --reference="$programs/../.." "$programs/.."; fi
    else
        echo "bootstrap: $1 could not be fetched, its tests will be skipped: $(tail -n 1 "$folder/log")"
    fi
    rm -rf "$folder"
}

fetch_test_programs() {
    [ -n "$for_tests" ] || return 0
    # promtool is a separate package from Debian 13 on.
    if [ ! -x "$programs/promtool" ] || [ ! -x "$programs/prometheus" ]; then fetch_programs 'bin/prom*' prometheus promtool; fi
    if [ ! -x "$programs/nginx" ]; then fetch_programs 'sbin/nginx' nginx; fi
}

find_missing() {
    local package
    missing=()
    for package in "${packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
}

lists_are_needed=
choose_postgres || lists_are_needed=yes
find_missing
if [ ${#missing[@]} -eq 0 ] && [ -z "$lists_are_needed" ]; then
    fetch_test_programs
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo >&2 "bootstrap: packages are missing and there is no sudo; as root: apt-get install ${missing[*]}"
        exit 1
    fi
    as_root=(sudo)
fi

export DEBIAN_FRONTEND=noninteractive
apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 </dev/null || {
        cat >&2 "$log"
        echo >&2 "bootstrap: apt-get $* failed"
        exit 1
    }
}

log=$(mktemp)
cluster_defaults=$root/etc/postgresql-common/createcluster.conf
saved_defaults=
restore() {
    if [ -n "$saved_defaults" ]; then
        "${as_root[@]}" mv -f "$saved_defaults" "$cluster_defaults"
    fi
    rm -f "$log"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

apt_get update
if [ -n "$lists_are_needed" ]; then
    choose_postgres || {
        echo >&2 "bootstrap: the package lists name no PostgreSQL"
        exit 1
    }
    find_missing
fi
echo "bootstrap: for ${chosen:-the server of $pg_config} installing ${missing[*]}"

# Debian's server package creates and starts a cluster unless its configuration forbids it. It is forbidden here, and
# the machine's configuration is restored afterwards.
if [[ " ${missing[*]} " =~ " postgresql-"[0-9]+" " ]]; then
    installed postgresql-common || apt_get install --no-install-recommends -y postgresql-common
    "${as_root[@]}" cp -p "$cluster_defaults" "$cluster_defaults.mana_ai_saved"
    saved_defaults=$cluster_defaults.mana_ai_saved
    echo 'create_main_cluster = false' | "${as_root[@]}" tee -a "$cluster_defaults" >/dev/null
fi

apt_get install --no-install-recommends -y "${missing[@]}"
fetch_test_programs
