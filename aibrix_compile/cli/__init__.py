"""One module for each command: it parses, calls, reports and exits; it decides nothing."""
