"""What people start: programs made of the layers below."""
