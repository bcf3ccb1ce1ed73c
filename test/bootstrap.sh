#!/usr/bin/env bash
# Installs from Debian's archive what building and testing need and this machine lacks.
# Does nothing, and needs no rights, when nothing is missing. As an ordinary user it asks sudo.
# No PostgreSQL cluster is created, and those that exist are left alone.
set -euo pipefail

pg_config=${PG_CONFIG:-pg_config}
pg_major=${PG_MAJOR:-15}

packages=(g++ make perl libcurl4-openssl-dev libmicrohttpd-dev libssl-dev nlohmann-json3-dev libgtest-dev libipc-run-perl)

pgxs=$("$pg_config" --pgxs 2>/dev/null || true)
if [ -n "$pgxs" ] && [ -f "$pgxs" ] && [ -x "$("$pg_config" --bindir)/postgres" ]; then
    # The server that was asked for is complete; add pg_cron when that is Debian's own.
    bindir=$("$pg_config" --bindir)
    if [[ $bindir =~ ^/usr/lib/postgresql/([0-9]+)/bin$ ]]; then
        packages+=("postgresql-${BASH_REMATCH[1]}-cron")
    fi
elif [ "$pg_config" = pg_config ] || [[ $pg_config == /usr/bin/* ]]; then
    packages+=("postgresql-$pg_major" "postgresql-server-dev-$pg_major" "postgresql-$pg_major-cron")
else
    echo >&2 "bootstrap: $pg_config has no PGXS or no server beside it"
    exit 1
fi

if ! command -v dpkg-query >/dev/null; then
    echo >&2 "bootstrap: not a Debian system; these must be there: ${packages[*]}"
    exit 0
fi

installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# A real Prometheus scrapes our metrics, and its promtool judges them, the alerts and the dashboard. The package
# would bring a service that runs, so the programs alone are taken out of it, into build/bin. Without them those
# tests are skipped.
fetch_prometheus() {
    local bin folder
    bin=$(cd "$(dirname "$0")/.." && pwd)/build/bin
    if [ -x "$bin/promtool" ] && [ -x "$bin/prometheus" ]; then return; fi
    folder=$(mktemp -d)
    # Downloads without a user of its own: it could not write into the folder.
    if (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download prometheus &&
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool ./usr/bin/prometheus) >"$folder/log" 2>&1; then
        mkdir -p "$bin"
        cp "$folder/usr/bin/promtool" "$folder/usr/bin/prometheus" "$bin/"
        if [ "$(id -u)" -eq 0 ]; then chown -R --reference="$bin/../.." "$bin/.."; fi
    else
        echo "bootstrap: Prometheus could not be fetched, its tests will be skipped: $(tail -n 1 "$folder/log")"
    fi
    rm -rf "$folder"
}

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    fetch_prometheus
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
cluster_defaults=/etc/postgresql-common/createcluster.conf
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

echo "installing ${missing[*]}"
apt_get update

# Debian's server package makes and starts a cluster unless its configuration says not to. That is not
# ours to do; the machine's configuration is put back afterwards.
if [[ " ${missing[*]} " =~ " postgresql-"[0-9]+" " ]]; then
    installed postgresql-common || apt_get install --no-install-recommends -y postgresql-common
    "${as_root[@]}" cp -p "$cluster_defaults" "$cluster_defaults.mana_ai_saved"
    saved_defaults=$cluster_defaults.mana_ai_saved
    echo 'create_main_cluster = false' | "${as_root[@]}" tee -a "$cluster_defaults" >/dev/null
fi

apt_get install --no-install-recommends -y "${missing[@]}"
fetch_prometheus
