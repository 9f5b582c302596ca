#!/usr/bin/env bash
# Installs Chromium, in which `make test` looks at the console's page. Without it those tests are skipped, and the rest runs.
set -euo pipefail
if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Chromium: tests of the console's page are skipped; install the package chromium to run them"
  exit 0
fi
echo "installing Chromium, for tests of the console's page"
apt-get update -qq || true
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium >/dev/null ||
  echo "apt-get could not install chromium: tests of the console's page are skipped"
