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

hex() { od -An -tx1 | tr -d ' \n'; }

is_pickle() { [ "$(head -c 1 "$1" | hex)$(tail -c 1 "$1" | hex)" = 802e ]; }  # its first and last bytes

total_size() { tr -d '\r' < "$1" | sed -n 's|^[Cc]ontent-[Rr]ange:.*/\([0-9]*\)$|\1|p' | tail -n 1; }

transfer() {  # download to $1.part: the missing bytes or, if the server cannot resume, all
    local part=$1.part headers=$1.headers status error=0 total
    status=$(curl --fail --location --retry 3 --continue-at - --output "$part" --dump-header "$headers" \
        --write-out '%{http_code}' "$BASE/$1") || error=$?
    total=$(total_size "$headers") || true
    rm -f "$headers"
    if [ $error -eq 0 ]; then
        # The file on the server may be another one by now.
        [ -z "$total" ] || [ "$total" -eq "$(($(wc -c < "$part")))" ] || {
            rm -f "$part"
            fail "$BASE/$1: the rest of the download is not of the same file (its size differs); run this again"
        }
        return 0
    fi
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
        fail "$BASE/$file: expected a pickle, got another or an incomplete file, perhaps a web page"
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
