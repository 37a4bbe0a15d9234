"""Routers side by side on the same engines: what they cost (`run`) and what they do when parts fail (`faults`)."""
