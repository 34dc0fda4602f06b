"""What people and monitoring see over HTTP."""
