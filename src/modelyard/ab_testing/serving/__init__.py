"""Who gets which variant, and whose outcome is still to come."""
