#!/bin/sh
# Takes another version of htmx into the pages: deploy/vendor-htmx.sh VERSION
# npm checks the archive against the registry's own digest; what is taken is pinned by SHA-256 in VENDORED.toml.
set -eu
version=$1
static=$(cd "$(dirname "$0")/../node/web/static" && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"
npm pack --silent "htmx.org@$version" >/dev/null
tar -xzf "htmx.org-$version.tgz"
grep -q '^Zero-Clause BSD$' package/LICENSE || { echo "its licence has changed: read it first" >&2; exit 1; }
cp package/dist/htmx.min.js "$static/htmx.min.js"
cp package/LICENSE "$static/htmx.LICENSE"
cat > "$static/VENDORED.toml" <<FACTS
# What in this folder others have made, unchanged. deploy/vendor-htmx.sh writes this file.

["htmx.min.js"]
package = "pkg:npm/htmx.org@$version"
archive_sha512 = "$(sha512sum "htmx.org-$version.tgz" | cut -d ' ' -f 1)"
sha256 = "$(sha256sum package/dist/htmx.min.js | cut -d ' ' -f 1)"
licence = "0BSD"
licence_file = "htmx.LICENSE"
licence_sha256 = "$(sha256sum package/LICENSE | cut -d ' ' -f 1)"
FACTS
