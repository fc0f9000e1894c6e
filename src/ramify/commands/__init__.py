"""What the command line does: settings, run folders and jobs, a module a command."""
