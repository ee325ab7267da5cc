"""What trained highway nets do: gates, routing by class, lesions."""
