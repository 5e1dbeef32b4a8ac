"""The command line: `app` registers the commands, `options` holds what they share, each other module is one command."""
