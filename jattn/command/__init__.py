"""The command line: arguments, help, mistakes and subcommands."""
