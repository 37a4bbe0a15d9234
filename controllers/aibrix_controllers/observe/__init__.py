"""What controllers see of a service: its pods, what their sidecars say, what pickers count. No decision is made here."""
