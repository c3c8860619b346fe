"""The command line: one module a verb. Words for people, exit codes for scripts; the work is done by others."""
