#!/usr/bin/env bash
# Syntax of every script; shellcheck where it is installed.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

for script in scripts/*.sh scripts/lib/*.sh .ci/run; do
  bash -n "$script"
done
python3 -c 'import ast, sys; [ast.parse(open(path).read()) for path in sys.argv[1:]]' scripts/lib/*.py tests/sdks/*.py
if command -v shellcheck >/dev/null; then
  shellcheck -x -a scripts/*.sh .ci/run
  say "syntax and shellcheck: fine"
else
  say "syntax: fine (shellcheck skipped: not installed)"
fi
