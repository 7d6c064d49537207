"""Generated from proto/; see ../../generate.sh."""
