"""What "auto" means: tables that a sweep wrote, and the price model where there is none."""
