"""What a change means, on plans: two states of a project in, one Difference out, and its words for terminals and comments."""
