"""Many runs: what is varied, who starts and watches them, and what their comparison shows."""
