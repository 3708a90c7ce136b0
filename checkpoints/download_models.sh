#!/usr/bin/env bash
# Fetch the models that the authors of pix2pix3D released (their licence applies) into this folder.
#
#   checkpoints/download_models.sh                 all three
#   checkpoints/download_models.sh seg2cat         one of seg2cat, seg2face, edge2car
#
# A download that was cut goes on where it stopped. The first complete download of a file writes its SHA-256 into
# download.sha256 here; every later one must have the same. PIX2PIX3D_MODELS names another address to fetch from: the
# one below could not be tried where this was written.
set -euo pipefail
cd "$(dirname "$0")"
BASE=${PIX2PIX3D_MODELS:-https://www.cs.cmu.edu/~pix2pix3D/release}
DIGESTS=download.sha256

fail() { echo "Error: $1" >&2; exit 2; }

digest() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1; }

fetch() {
    local file=pix2pix3d_$1.pkl known found
    [ ! -f "$file" ] || { echo "$file: is here"; return; }
    curl --fail --location --retry 3 --continue-at - --output "$file.part" "$BASE/$file" ||
        fail "$BASE/$file: cannot be fetched; if the authors moved it, PIX2PIX3D_MODELS=ADDRESS names where it is now"
    found=$(digest "$file.part")
    known=$(awk -v name="$file" '$2 == name {print $1}' $DIGESTS 2>/dev/null || true)
    if [ -z "$known" ]; then
        echo "$found  $file" >> $DIGESTS
    elif [ "$known" != "$found" ]; then
        mv "$file.part" "$file.wrong"
        fail "$file: SHA-256 is $found, the first download had $known; kept as $file.wrong"
    fi
    mv "$file.part" "$file"
    echo "$file: $found"
}

command -v curl >/dev/null || fail "curl: not found; please install it"
[ $# -gt 0 ] || set -- seg2cat seg2face edge2car
for model in "$@"; do
    case $model in
        seg2cat | seg2face | edge2car) fetch "$model" ;;
        *) fail "$model: expected seg2cat, seg2face or edge2car" ;;
    esac
done
