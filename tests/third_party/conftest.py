"""Packages here have tests of their own, which run where the packages are installed (tests/system)."""

collect_ignore_glob = ["*"]
