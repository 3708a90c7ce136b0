#!/usr/bin/env bash
# Fetch the models that the authors of pix2pix3D released (their license applies) into this folder.
#
#   checkpoints/download_models.sh                 all three
#   checkpoints/download_models.sh seg2cat         one of seg2cat, seg2face, edge2car
#
# A download that was cut goes on where it stopped, if the server can. The first complete download of a file writes its
# SHA-256 into download.sha256 here; every later one, and a file that is here already, must have the same.
# PIX2PIX3D_MODELS names another address to fetch from: the one below could not be tried where this was written.
set -euo pipefail
cd "$(dirname "$0")"
BASE=${PIX2PIX3D_MODELS:-https://www.cs.cmu.edu/~pix2pix3D/release}
DIGESTS=download.sha256
NO_RANGES=33 BAD_RESUME=36  # exit codes of curl
NO_REST=416                 # HTTP: there is nothing after this byte

fail() { echo "Error: $1" >&2; exit 2; }

digest() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1; }

known() { awk -v name="$1" '$2 == name {print $1}' $DIGESTS 2>/dev/null || true; }

is_pickle() { [ "$(head -c 1 "$1" | od -An -tx1 | tr -d ' \n')" = 80 ]; }

transfer() {  # into $1.part: the rest of it, or all where the server has no rest to give
    local part=$1.part status error=0
    status=$(curl --fail --location --retry 3 --continue-at - --output "$part" --write-out '%{http_code}' "$BASE/$1") ||
        error=$?
    [ $error -ne 0 ] || return 0
    [ -s "$part" ] && { [ $error -eq $NO_RANGES ] || [ $error -eq $BAD_RESUME ] || [ "$status" = $NO_REST ]; } ||
        return 1
    echo "$BASE/$1: cannot go on where it stopped; from the start"
    rm -f "$part"
    curl --fail --location --retry 3 --output "$part" "$BASE/$1"
}

fetch() {
    local file=pix2pix3d_$1.pkl expected found
    expected=$(known "$file")
    if [ -f "$file" ]; then
        [ -z "$expected" ] || [ "$expected" = "$(digest "$file")" ] ||
            fail "$file: is here, but is not what was downloaded first (SHA-256); remove it to fetch it again"
        echo "$file: is here"
        return
    fi
    if [ -z "$expected" ] || [ ! -f "$file.part" ] || [ "$expected" != "$(digest "$file.part")" ]; then
        transfer "$file" ||
            fail "$BASE/$file: cannot be fetched; if the authors moved it, PIX2PIX3D_MODELS=ADDRESS names where it is now"
    fi
    if ! is_pickle "$file.part"; then
        rm -f "$file.part"
        fail "$BASE/$file: the answer is no pickle but something else, perhaps a web page"
    fi
    found=$(digest "$file.part")
    if [ -z "$expected" ]; then
        echo "$found  $file" >> $DIGESTS
    elif [ "$expected" != "$found" ]; then
        mv "$file.part" "$file.wrong"
        fail "$file: SHA-256 is $found, the first download had $expected; kept as $file.wrong"
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
