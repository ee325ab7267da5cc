"""Training one batch of trials as compiled programs."""
