#!/bin/sh
# No library, kernel or C interface asks the environment: what changes a kernel or a number is an option. The command
# line's variables are CLI11's to read (cli/options.cc); in cli/ the terminal may be looked at, nothing of ours.
#
#   no_environment_test.sh SOURCE_ROOT
set -eu
cd "$1"
[ -n "$(ls src/ops/experts/*/*.cc)" ] || { echo "FAILED: no sources in $1"; exit 1; }
if grep -rnE '\b(secure_)?getenv *\(|\benviron\b' src include | grep -vE '^src/cli/[^:]*:.*getenv *\("(TERM|COLUMNS|NO_COLOR)"\)'; then
  echo "FAILED: these read the environment"
  exit 1
fi
echo ok
