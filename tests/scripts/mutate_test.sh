#!/bin/sh
# scripts/mutate.py: the same seed chooses the same mutations, each changes its line and leaves literals' messages alone.
#
#   mutate_test.sh SOURCE_ROOT
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 "$root/scripts/mutate.py" --list --files src/engine,src/text --count 80 --seed 5 >"$work/a"
python3 "$root/scripts/mutate.py" --list --files src/engine,src/text --count 80 --seed 5 >"$work/b"
python3 "$root/scripts/mutate.py" --list --files src/engine,src/text --count 80 --seed 6 >"$work/c"
cmp -s "$work/a" "$work/b" || { echo "FAILED: two runs of one seed differ"; exit 1; }
! cmp -s "$work/a" "$work/c" || { echo "FAILED: two seeds chose alike"; exit 1; }
[ "$(grep -c '^src/' "$work/a")" = 80 ] || { echo "FAILED: not 80 mutations"; exit 1; }
awk '/^-/ { before = substr($0, 2) } /^\+/ && substr($0, 2) == before { print "FAILED: nothing changed: " before; exit 1 }' "$work/a"
python3 - "$root" "$work/a" <<'END'
import pathlib, re, sys
root, listing = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text().splitlines()
kinds = set()
for place, before in zip(listing[::3], listing[1::3]):
    file, line, kind = re.match(r"(.*):(\d+): (\w+)$", place).groups()
    kinds.add(kind)
    assert (root / file).read_text().split("\n")[int(line) - 1] == before[1:], place
assert len(kinds) >= 6, kinds
END
python3 "$root/scripts/mutate.py" --list --these "$root/tests/scripts/once_unseen.mutations" >"$work/out" 2>&1 ||
  { echo "FAILED: the list does not fit the sources: $(cat "$work/out")"; exit 1; }
status=0
python3 "$root/scripts/mutate.py" --list --files src/nowhere >"$work/out" 2>&1 || status=$?
[ "$status" = 1 ] && grep -q 'src/nowhere: no such' "$work/out" || { echo "FAILED: a missing folder"; exit 1; }
echo ok
