#!/usr/bin/env bash
# Download the models released by the authors of pix2pix3D (under their license) into this directory.
#
#   checkpoints/download_models.sh                 all three
#   checkpoints/download_models.sh seg2cat         one of seg2cat, seg2face, edge2car
#
# An interrupted download is resumed if the server supports it. The first complete download of a file stores its SHA-256
# in download.sha256; later downloads, and files that exist already, must have the same.
# Set PIX2PIX3D_MODELS to download from another address; the default has not been tested.
set -euo pipefail
cd "$(dirname "$0")"
BASE=${PIX2PIX3D_MODELS:-https://www.cs.cmu.edu/~pix2pix3D/release}
DIGESTS=download.sha256
NO_RANGES=33 BAD_RESUME=36  # exit codes of curl
RANGE_NOT_SATISFIABLE=416   # HTTP status: no bytes are left

fail() { echo "Error: $1" >&2; exit 2; }

digest() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1; }

stored_digest() { awk -v name="$1" '$2 == name {print $1}' $DIGESTS 2>/dev/null || true; }

is_pickle() { [ "$(head -c 1 "$1" | od -An -tx1 | tr -d ' \n')" = 80 ]; }

transfer() {  # download to $1.part: the missing bytes or, if the server cannot resume, all
    local part=$1.part status error=0
    status=$(curl --fail --location --retry 3 --continue-at - --output "$part" --write-out '%{http_code}' "$BASE/$1") ||
        error=$?
    [ $error -ne 0 ] || return 0
    [ -s "$part" ] && { [ $error -eq $NO_RANGES ] || [ $error -eq $BAD_RESUME ] || [ "$status" = $RANGE_NOT_SATISFIABLE ]; } ||
        return 1
    echo "$BASE/$1: cannot be resumed; starting again"
    rm -f "$part"
    curl --fail --location --retry 3 --output "$part" "$BASE/$1"
}

fetch() {
    local file=pix2pix3d_$1.pkl expected actual
    expected=$(stored_digest "$file")
    if [ -f "$file" ]; then
        [ -z "$expected" ] || [ "$expected" = "$(digest "$file")" ] ||
            fail "$file: SHA-256 differs from the first download; remove the file to download it again"
        echo "$file: exists"
        return
    fi
    if [ -z "$expected" ] || [ ! -f "$file.part" ] || [ "$expected" != "$(digest "$file.part")" ]; then
        transfer "$file" ||
            fail "$BASE/$file: download failed; if the files have moved, set PIX2PIX3D_MODELS to their address"
    fi
    if ! is_pickle "$file.part"; then
        rm -f "$file.part"
        fail "$BASE/$file: expected a pickle, got another file, perhaps a web page"
    fi
    actual=$(digest "$file.part")
    if [ -z "$expected" ]; then
        echo "$actual  $file" >> $DIGESTS
    elif [ "$expected" != "$actual" ]; then
        mv "$file.part" "$file.wrong"
        fail "$file: SHA-256 is $actual, that of the first download was $expected; saved as $file.wrong"
    fi
    mv "$file.part" "$file"
    echo "$file: $actual"
}

command -v curl >/dev/null || fail "curl: not found; please install it"
[ $# -gt 0 ] || set -- seg2cat seg2face edge2car
for model in "$@"; do
    case $model in
        seg2cat | seg2face | edge2car) fetch "$model" ;;
        *) fail "$model: expected seg2cat, seg2face or edge2car" ;;
    esac
done
