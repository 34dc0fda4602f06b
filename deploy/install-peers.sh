#!/bin/sh
# The real peers that the tests speak with: Orthanc, DCMTK, PostgreSQL, Redis, rsyslog and PixelMed's SR validator, and
# a browser, from Debian or Ubuntu. Instant and without a network when all of them are there.
set -eu

# What is looked for, and the package that brings it.
peers() {
    cat <<'LIST'
Orthanc:orthanc
storescu:dcmtk
echoscu:dcmtk
dsrdump:dcmtk
initdb:postgresql
postgres:postgresql
redis-server:redis-server
DicomSRValidator:pixelmed-apps
java:default-jre-headless
strace:strace
cc:gcc
chromium:chromium
rsyslogd:rsyslog
lmnsd_gtls.so:rsyslog-gnutls
LIST
}

present() {
    # PostgreSQL's programs stand in a folder of their version, Orthanc where only root's PATH leads; rsyslog's TLS is a
    # library of its own.
    for program in "/usr/sbin/$1" /usr/lib/postgresql/*/bin/"$1" /usr/lib/*/rsyslog/"$1"; do
        [ -r "$program" ] && return 0
    done
    command -v "$1" >/dev/null 2>&1
}

missing() {
    peers | while IFS=: read -r program package; do
        present "$program" || echo "$package"
    done | sort -u
}

wanted=$(missing | tr '\n' ' ')
[ -n "$wanted" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing for the tests: ${wanted}(Debian's package names); this system has no apt-get, install them its own way" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "missing for the tests: ${wanted}" >&2
    echo "install them as root: apt-get install --no-install-recommends ${wanted}" >&2
    exit 1
fi

# The packages start services that would hold the ports of a real PACS or database; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    started=no
else
    started=maybe
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086 # a list of package names
apt-get -qq install --yes --no-install-recommends $wanted >/dev/null

if [ "$started" = no ] && command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
    # Not started now, and not at the next boot either.
    for package in $wanted; do
        case $package in
            orthanc | postgresql | redis-server | rsyslog) systemctl disable --quiet "$package" || echo "could not disable the service $package" >&2 ;;
        esac
    done
fi

left=$(missing | tr '\n' ' ')
if [ -n "$left" ]; then
    echo "still missing after installation: $left" >&2
    exit 1
fi
