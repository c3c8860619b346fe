"""What this computer is, and what of it this process may use."""
