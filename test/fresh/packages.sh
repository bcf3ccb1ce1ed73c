#!/usr/bin/env bash
# make fresh STATE=RELEASE-minimal ONLY=packages: the Debian packages, in a fresh system. Builds them, runs lintian,
# installs them while a cluster is in use, upgrades and removes the package, and runs
# debian/tests. Prints TAP; the last line counts.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" -ne 0 ] || [ "$(cat /etc/mana_ai_fresh 2>/dev/null)" != throwaway ]; then
    echo >&2 "packages: this installs and removes packages; only for the trees of make fresh"
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# A build without symbols has no package of symbols.
if [[ ${PG_CXXFLAGS:-} == *-g0* ]]; then export DEB_BUILD_OPTIONS=noautodbgsym; fi
apt_get() { apt-get -qq -o Dpkg::Use-Pty=0 --no-install-recommends -y "$@" </dev/null; }
log=$(mktemp)

number=0 failed=0
ok() { # NAME COMMAND...: what it prints is shown only if it fails
    local name=$1 status=0
    shift
    number=$((number + 1))
    "$@" >"$log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        echo "ok $number - $name"
    else
        failed=$((failed + 1))
        echo "not ok $number - $name"
        sed 's/^/#   /' "$log" | tail -n 60
    fi
    return "$status"
}
finish() {
    echo "1..$number"
    echo "$((number - failed)) passed, $failed failed, 0 skipped"
    [ "$failed" -eq 0 ]
}
give_up() { finish || exit 1; }

# ---------------------------------------------------------------- build
apt_get update
apt_get install postgresql-common lintian build-essential fakeroot
# The server's package would create a cluster; here only the tests create clusters.
echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf
apt_get build-dep ./
ok 'the packages are built' make deb || give_up
ok 'with nothing to say for lintian' lintian --allow-root --fail-on error,warning ../mana-ai_*.changes || true

packages=(../postgresql-[0-9]*-mana-ai_*.deb)

# ---------------------------------------------------------------- with a cluster in use
in_cluster() { runuser -u postgres -- psql --cluster "$version/kept" -X -A -t -q -v ON_ERROR_STOP=1 "$@"; }
restart() { pg_ctlcluster "$version" kept restart; }
give() { # MISSION: a user's device pushes one
    in_cluster -c "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
        VALUES ('ai', 'aiMissions', '$1', 'u1', 'insert', 'test', '{\"id\": \"$1\", \"title\": \"T\", \"state\": \"paused\"}')"
}
is() { # SQL EXPECTED
    local got
    got=$(in_cluster -c "$1") || return 1
    [ "$got" = "$2" ] || { echo "got $got, expected $2"; return 1; }
}
is_soon() { # SQL EXPECTED
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if is "$1" "$2" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    is "$1" "$2"
}
missions="SELECT string_agg(mission_id, ' ' ORDER BY mission_id) FROM mana_ai.mission_snapshots"
works="SELECT worker_pid IS NOT NULL AND worker_problem IS NULL FROM mana_ai.status()"
two_lines="shared_preload_libraries = 'mana_ai'
mana_ai.database = 'postgres'"

# rebuilt DEB VERSION: the same package with another version and another library, one byte longer, which no loader reads.
rebuilt() {
    local folder
    folder=$(mktemp -d)
    dpkg-deb -R "$1" "$folder"
    sed -i "s/^Version: .*/Version: $2/" "$folder/DEBIAN/control"
    printf '\n' >>"$(find "$folder" -name mana_ai.so)"
    (cd "$folder" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -b "$folder" "/tmp/$2.deb"
}
is_without_conffiles() { [ -z "$(dpkg-query -W -f '${Conffiles}' "$package")" ]; }
library_is() { [ "$(dpkg-query -W -f '${Version}' "$package")" = "$1" ] && dpkg -V "$package"; }

for deb in "${packages[@]}"; do
    package=$(dpkg-deb -f "$deb" Package)
    version=${package#postgresql-}
    version=${version%-mana-ai}
    config=/etc/postgresql/$version/kept/postgresql.conf
    apt_get install "postgresql-$version"
    ok "$version: a cluster runs" pg_createcluster "$version" kept --start -- -E UTF8 || continue
    in_cluster -f - <test/data/sync_changes.sql
    ok "$version: a mission arrives" give before || true
    started=$(in_cluster -c 'SELECT pg_postmaster_start_time()')
    ok "$version: the package is installed with what it needs" apt_get install "$deb" || continue
    ok "$version: it has no conffiles" is_without_conffiles || true
    ok "$version: the running server was left alone" is 'SELECT pg_postmaster_start_time()' "$started" || true
    printf '%s\n' "$two_lines" >>"$config"
    ok "$version: the two lines and a restart" restart || {
        cat /var/log/postgresql/*-kept.log
        continue
    }
    ok "$version: CREATE EXTENSION" in_cluster -c 'CREATE EXTENSION mana_ai' || continue
    ok "$version: the mission is known" is "$missions" before || true
    ok "$version: the worker runs" is_soon "$works" t || true

    newer=$(dpkg-deb -f "$deb" Version)+later
    ok "$version: a newer package is made" rebuilt "$deb" "$newer" || continue
    ok "$version: and installed while the server runs" dpkg -i "/tmp/$newer.deb" || true
    ok "$version: its files are there" library_is "$newer" || true
    ok "$version: the server goes on" give during || true
    ok "$version: with the old library" is "$missions" 'before during' || true
    ok "$version: it restarts with the new one" restart || true
    ok "$version: nothing is lost" is "$missions" 'before during' || true
    ok "$version: the worker runs again" is_soon "$works" t || true

    ok "$version: removed while the server runs" dpkg --remove "$package" || true
    sed -i '/mana_ai/d' "$config"
    ok "$version: without the two lines the server starts" restart || true
    ok "$version: the data is there" is "$missions" 'before during' || true
    ok "$version: installed again" dpkg -i "$deb" || true
    printf '%s\n' "$two_lines" >>"$config"
    ok "$version: and restarted" restart || true
    ok "$version: a mission arrives again" give after || true
    ok "$version: all are there" is "$missions" 'after before during' || true
    ok "$version: the worker runs once more" is_soon "$works" t || true
    ok "$version: purged" dpkg --purge "$package" || true
    ok "$version: nothing of it is left" bash -c "! find /usr/lib/postgresql /usr/share/postgresql /etc -name '*mana_ai*' ! -name mana_ai_fresh | grep ." || true
    ok "$version: the cluster is removed" pg_dropcluster --stop "$version" kept || true
    ok "$version: the package returns" dpkg -i "$deb" || true
done

# ---------------------------------------------------------------- debian/tests, as autopkgtest runs them
ok 'debian/tests/works' debian/tests/works || true
# pg_virtualenv creates its cluster as an ordinary user; regress writes its results into the tree.
dpkg -i "${packages[@]}" >"$log"
chown -R nobody: .
chmod 755 /root
ok 'debian/tests/installcheck' runuser -u nobody -- env HOME=/tmp PATH="$PATH" debian/tests/installcheck ||
    head -n 100 regression.diffs output_iso/regression.diffs 2>/dev/null | sed 's/^/#   /' || true
finish
